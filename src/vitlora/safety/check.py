"""Check a whole parameter file at once: unknown and missing names, every value's rule, and rules across sections.

Nothing here changes an output, it only refuses; so no stage depends on this file.
"""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file
from vitlora.core.params import Params, shown, validate
from vitlora.core.text import printable
from vitlora.download.params import DownloadStage
from vitlora.evaluate.params import EvaluateStage
from vitlora.export.params import ExportStage
from vitlora.model.params import IN_FOUR_BITS, LORA_FAMILY, RANKS, WITHOUT_ADAPTER
from vitlora.preprocess.params import PreprocessStage
from vitlora.storage.manifest import MANIFEST
from vitlora.train.params import TrainStage

STAGES: dict[str, type[Params]] = {
    "download": DownloadStage,
    "preprocess": PreprocessStage,
    "train": TrainStage,
    "evaluate": EvaluateStage,
    "export": ExportStage,
}
# Keys of `train` that a method bears at one value only, and why.
ONLY: dict[str, tuple[str, dict[str, str]]] = {
    "adalora": (
        "judges ranks from the first step on and sets some to nothing",
        {"ema_decay": "0.0", "swa_epoch_start": "null", "soup_size": "null", "head_only_epochs": "0"},
    ),
    "xlora": ("runs every block twice with other scalings", {"activation_checkpointing": "false"}),
    "head": ("trains nothing but the head", {"head_only_epochs": "0"}),
}
WHEEL_BASE = {"hidden_size": 384, "patch_size": 14}
WHEEL_SIDE = 518  # px: what `auto` means there


def sections() -> dict[str, list[type[Params]]]:
    """Return the classes that read each section, in file order."""
    readers: dict[str, list[type[Params]]] = {}
    for stage in STAGES.values():
        for name, field in stage.model_fields.items():
            assert isinstance(field.annotation, type)
            readers.setdefault(name, []).append(field.annotation)
    return readers


def check_document(document: dict[str, Any], path: Path, base: Path | None = None) -> None:
    """Refuse a parameter file that holds any mistake.

    Args:
        document: The parsed file.
        path: Its name, for the message.
        base: Folder of the base model that the file's `model` section means. None where there is none yet, or only
            that of an earlier choice: rules that need it then wait for a later stage.

    Raises:
        VitloraError: All mistakes, one a line: dotted name, value, rule.
    """
    known = sections()
    problems = list(_unknown("", document, known))
    meant = {_nearest(key, known) for key in document if key not in known}
    for name, classes in known.items():
        if name in document:
            problems += dict.fromkeys(_check_section(name, document[name], classes))  # stages may share a key
        elif name not in meant:
            problems.append(f"{name}: missing; the rule: every section is written out (see presets/)")
    problems += _across(document, base)
    if problems:
        raise VitloraError("\n".join(f"{path}: {problem}" for problem in problems))


def _check_section(name: str, values: Any, classes: list[type[Params]]) -> Iterator[str]:
    if not isinstance(values, dict):
        yield f"{name}: got {shown(values)}; the rule: a section with keys below it"
        return
    known = [key for section in classes for key in section.model_fields]
    yield from _unknown(f"{name}.", values, known)
    # A misspelt key is missing too; its own line says so.
    told = tuple(f"{name}.{_nearest(key, known)}: missing" for key in values if key not in known)
    for section in classes:
        _, problems = validate(section, {key: values[key] for key in section.model_fields if key in values}, name)
        yield from (problem for problem in problems if not problem.startswith(told))


def _unknown(prefix: str, given: dict[str, Any], known: Collection[str]) -> Iterator[str]:
    for key in given:
        if key not in known:
            near = _nearest(key, known)
            rule = f"a known name; did you mean {prefix}{near}?" if near else f"one of {', '.join(known)}"
            yield f"{prefix}{printable(str(key))}: got {shown(given[key])}; the rule: {rule}"


def _nearest(key: object, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(key), list(known), n=1)), None)


def _across(document: dict[str, Any], base: Path | None) -> Iterator[str]:
    """Rules between the image size, the rank and the base model, as far as these are known and whole numbers."""
    known: dict[str, Any] = {}
    if _value(document, "model", "source") == "wheel":
        known = WHEEL_BASE
    elif base is not None:
        known = _base_config(base)
    size, patch = _value(document, "image", "size_px"), known.get("patch_size")
    # A base may have been trained at such a size, as SigLIP at 384 px with patches of 14: its border is never seen.
    if type(size) is int and isinstance(patch, int) and size % patch and size != known.get("image_size"):
        yield f"image.size_px: got {size}; the rule: a multiple of the base model's patch, {patch} px"
    if size == "auto":
        size = WHEEL_SIDE if known is WHEEL_BASE else _own_side(base)
    side = _value(document, "data", "max_short_side_px")
    if type(side) is int and type(size) is int and 0 < side < size:
        yield f"data.max_short_side_px: got {side}; the rule: no less than image.size_px, {size}"
    width = known.get("hidden_size")
    for key, rank in _ranks(document):
        if isinstance(rank, int) and isinstance(width, int) and rank > width:
            yield f"{key}: got {rank}; the rule: no larger than the base model's layers, {width}"
    yield from _unmixed(document)
    method = _value(document, "lora", "method")
    if _value(document, "train", "load_in_4bit") is True and method not in IN_FOUR_BITS:
        yield (
            f"train.load_in_4bit: got true; the rule: false with lora.method {shown(method)}; true with "
            f"{', '.join(IN_FOUR_BITS)}"
        )
    formats = _value(document, "export", "formats")
    if method in WITHOUT_ADAPTER and isinstance(formats, list) and "adapter" in formats:
        yield f"export.formats: got {shown(formats)}; the rule: not adapter with lora.method {method}, which has none"
    why, keys = ONLY.get(method, ("", {})) if isinstance(method, str) else ("", {})
    for key, off in keys.items():
        wanted = _value(document, "train", key)
        if isinstance(wanted, int | float) and wanted > 0:
            yield f"train.{key}: got {shown(wanted)}; the rule: {off} with lora.method {method}, which {why}"


def _unmixed(document: dict[str, Any]) -> Iterator[str]:
    """Micro-batches are mixed within themselves: a lone image would be mixed with itself, and nothing would tell."""
    images = _value(document, "train", "per_device_train_batch_size")
    for key in ("mixup_alpha", "cutmix_alpha"):
        alpha = _value(document, "augment", key)
        if images == 1 and isinstance(alpha, int | float) and alpha > 0:
            yield (
                f"augment.{key}, train.per_device_train_batch_size: got {shown(alpha)}, 1; the rule: a micro-batch is "
                "mixed within itself, so it has 2 images or more"
            )


def _ranks(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    method, options = _value(document, "lora", "method"), _value(document, "lora", "options")
    key = RANKS.get(method) if isinstance(method, str) else None
    if key and method in LORA_FAMILY:
        yield "lora.r", _value(document, "lora", "r")
    if isinstance(options, dict):
        yield f"lora.options.{key}", options.get(key)
        pattern = options.get("rank_pattern")
        yield from (
            (f"lora.options.rank_pattern.{k}", v) for k, v in (pattern if isinstance(pattern, dict) else {}).items()
        )


def _own_side(base: Path | None) -> Any:
    """Return what `auto` means for the image size, as download noted it; None where it has not."""
    with suppress(OSError, ValueError, AttributeError):
        return json.loads((base / "image.json").read_bytes()).get("size_px") if base else None
    return None


def _base_config(base: Path) -> dict[str, Any]:
    """Return what the base model says of itself; nothing if that is damaged, which the stage that reads it will say."""
    path, manifest = base / "config.json", base / MANIFEST
    try:
        if manifest.exists() and f"{sha256_file(path)}  {path.name}\n".encode() not in manifest.read_bytes():
            return {}
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return _of_timm(known) if known.get("model_type") == "timm_wrapper" else known.get("vision_config") or known


def _of_timm(config: dict[str, Any]) -> dict[str, Any]:
    """Return what timm says under other names: the patch is in the architecture's, such as vit_tiny_patch16_224."""
    own, arguments = (_inner(config, key) for key in ("pretrained_cfg", "model_args"))
    named, shape = re.search(r"patch(\d+)_", f"{config.get('architecture')}_"), own.get("input_size")
    return {
        "hidden_size": config.get("num_features"),
        "image_size": shape[-1] if isinstance(shape, list) else None,
        "patch_size": arguments.get("patch_size", int(named[1]) if named else None),
    }


def _inner(config: dict[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _value(document: dict[str, Any], section: str, key: str) -> Any:
    values = document.get(section)
    return values.get(key) if isinstance(values, dict) else None
