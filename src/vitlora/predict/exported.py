"""The exported folder: whether it is whole, and what it says of itself."""

from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.storage.manifest import problems

FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
NEEDED = ("class_names", "image_mean", "image_std", "image_size", "interpolation")


def read_facts(model: Path, precision: str = "fp32") -> dict[str, Any]:
    """Return the content of an exported folder's vitlora.json, once the model and it are known to be undamaged.

    Args:
        model: The folder.
        precision: `fp32`, `fp16` or `int8`: which of its files is meant.

    Raises:
        VitloraError: The folder holds no exported model, none of that precision, or a damaged one.
    """
    name = FILES[precision]
    if not (model / name).is_file():
        if name == FILES["fp32"] or not (model / "vitlora.json").is_file():
            raise VitloraError(f"{model} holds no {name}; the rule: the folder that `dvc repro` exports, models/export")
        raise VitloraError(
            f"{model} holds no {name}; add onnx-{precision} to export.formats in params.yaml, then `dvc repro` makes it"
        )
    damage = next(problems(model, only=(name, "vitlora.json")), None)
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
