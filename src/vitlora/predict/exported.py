"""The exported folder: whether it is whole, and what it says of itself."""

from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.storage.manifest import problems

NEEDED = ("class_names", "image_mean", "image_std", "image_size", "interpolation")


def read_facts(model: Path) -> dict[str, Any]:
    """Return the content of an exported folder's vitlora.json, once model.onnx and it are known to be undamaged.

    Raises:
        VitloraError: The folder holds no exported model, or a damaged one.
    """
    if not (model / "model.onnx").is_file():
        raise VitloraError(f"{model} holds no model.onnx; the rule: the folder that `dvc repro` exports, models/export")
    damage = next(problems(model, only=("model.onnx", "vitlora.json")), None)
    if damage:
        raise VitloraError(f"{damage}; `vitlora recover && dvc repro` makes it anew, or copy the folder anew")
    try:
        facts = read_json(model / "vitlora.json")
        missing = [key for key in NEEDED if key not in facts]
    except (OSError, ValueError, TypeError) as error:
        raise VitloraError(f"{model}/vitlora.json cannot be read ({error}); `dvc repro` makes it anew") from None
    if not isinstance(facts, dict) or missing:
        raise VitloraError(f"{model}/vitlora.json has no {', '.join(missing)}; `dvc repro` makes it anew")
    return facts
