"""Check a whole parameter file at once: unknown and missing names, every value's rule, and rules across sections.

Nothing here changes an output, it only refuses; so no stage depends on this file.
"""

import difflib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vitlora.errors import VitloraError
from vitlora.params import Params, validate
from vitlora.sections.data import DownloadStage
from vitlora.sections.evaluate import EvaluateStage
from vitlora.sections.export import ExportStage
from vitlora.sections.image import PreprocessStage
from vitlora.sections.train import TrainStage

STAGES: dict[str, type[Params]] = {
    "download": DownloadStage,
    "preprocess": PreprocessStage,
    "train": TrainStage,
    "evaluate": EvaluateStage,
    "export": ExportStage,
}
WHEEL_BASE = {"hidden_size": 384, "patch_size": 14, "image_size": 518, "model_type": "dinov2"}


def sections() -> dict[str, list[type[Params]]]:
    """Return the classes that read each section, in file order; `data` is shared by two stages."""
    readers: dict[str, list[type[Params]]] = {}
    for stage in STAGES.values():
        for name, field in stage.model_fields.items():
            assert isinstance(field.annotation, type)
            readers.setdefault(name, []).append(field.annotation)
    return readers


def check_document(document: dict[str, Any], path: Path, base: Path = Path("models/base")) -> None:
    """Refuse a parameter file that holds any mistake.

    Args:
        document: The parsed file.
        path: Its name, for the message.
        base: Folder of the base model; where it isn't there yet, rules that need it wait for the train stage.

    Raises:
        VitloraError: All mistakes, one a line: dotted name, value, rule.
    """
    problems = list(_unknown("", document, sections()))
    checked: dict[type[Params], Params] = {}
    for name, classes in sections().items():
        problems += _check_section(name, document.get(name), classes, checked)
    if not problems:
        problems += _across(document, base)
    if problems:
        raise VitloraError("\n".join(f"{path}: {problem}" for problem in problems))


def _check_section(
    name: str, values: Any, classes: list[type[Params]], checked: dict[type[Params], Params]
) -> Iterator[str]:
    if not isinstance(values, dict):
        yield f"{name}: got {json.dumps(values, default=str)}; the rule: a section with keys below it"
        return
    yield from _unknown(f"{name}.", values, {key for section in classes for key in section.model_fields})
    for section in classes:
        known = {key: value for key, value in values.items() if key in section.model_fields}
        loaded, problems = validate(section, known, name)
        yield from problems
        if loaded is not None:
            checked[section] = loaded


def _unknown(prefix: str, given: dict[str, Any], known: Iterable[str]) -> Iterator[str]:
    names = list(known)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(names)}"
            yield f"{prefix}{key}: got {json.dumps(given[key], default=str)[:80]}; the rule: a known key; {hint}"


def _across(document: dict[str, Any], base: Path) -> Iterator[str]:
    """Rules between the image size, the rank and the base model, as far as the base model is known."""
    config = base / "config.json"
    if document["model"]["source"] == "wheel":
        known = WHEEL_BASE
    elif config.is_file():
        known = json.loads(config.read_text(encoding="utf-8"))
        known = known.get("vision_config") or known
    else:
        return
    size, patch = document["image"]["size"], known.get("patch_size")
    if isinstance(patch, int) and size % patch:
        yield f"image.size: got {size}; the rule: a multiple of the base model's patch, {patch} px"
    width = known.get("hidden_size")
    if isinstance(width, int) and document["lora"]["r"] > width:
        yield f"lora.r: got {document['lora']['r']}; the rule: no larger than the base model's layers, {width}"
