"""What verbs say of the exported model: where it comes from, and whether it is of today's parameters."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.predict.exported import read_facts


def open_exported(model: Path) -> tuple[OnnxClassifier, dict[str, Any]]:
    """Return the classifier of squares and what vitlora.json says, and tell where the model is an old one.

    Raises:
        VitloraError: There is no exported model, or it is damaged.
    """
    refuse_missing(model)
    facts = read_facts(model)
    note_if_old(model)
    return OnnxClassifier(model / "model.onnx", facts["image_mean"], facts["image_std"]), facts


def refuse_missing(model: Path) -> None:
    """Refuse a folder without a model, and say where in the project one comes from.

    Raises:
        VitloraError: There is no exported model.
    """
    if str(model).startswith("hf:/"):
        raise VitloraError(f"{model}: this verb takes a folder; `hf download OWNER/NAME --local-dir FOLDER` makes one")
    if not (model / "model.onnx").is_file():
        pull = f"`dvc pull {model}` fetches it, or " if _has_remote() else ""
        made = f"{pull}`dvc repro` makes it, or name another with --model"
        cure = made if model == Path("models/export") else "name a folder that export made, such as models/export"
        raise VitloraError(f"{model} holds no model.onnx; {cure}")


def _in_project() -> bool:
    """Whether the pipeline is at hand: this folder is one, and its tools are installed."""
    return Path("dvc.yaml").is_file() and find_spec("dvc") is not None


def _has_remote() -> bool:
    if not _in_project():
        return False
    from vitlora.safety.workspace import has_remote

    return has_remote()


def note_if_old(model: Path) -> None:
    """Say so where the model is not of today's parameters."""
    if not _in_project():
        return
    from vitlora.safety.current import why_not_current

    if reason := why_not_current(model):
        print(printable(f"note: {model}: {reason}; `dvc repro` makes it anew"), file=sys.stderr)
