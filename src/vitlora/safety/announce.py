"""What a run says once, before its first stage works: parameters that are not the last commit's, or have no effect."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document, shown, validate
from vitlora.model.params import Lora
from vitlora.safety.workspace import PARAMS, changed_params


def announce(work: Path) -> None:
    """Print the block, unless another stage of the same dvc process has.

    An experiment that was killed leaves its own parameters behind, so that a run must say what it is a run of.

    Args:
        work: Folder for the note of who was told what.
    """
    lines = [*_changed(), *_without_effect()]
    told = work / "announced"
    text = f"{os.getppid()} {hashlib.sha256(os.linesep.join(lines).encode()).hexdigest()}"
    if lines and not (told.exists() and told.read_text(encoding="utf-8") == text):
        print("\n".join(lines))
        told.write_text(text, encoding="utf-8")


def _changed() -> Iterator[str]:
    changed = changed_params()
    if changed:
        yield "parameters that differ from the last commit:"
        yield from (f"  {line}" for line in changed)


def _without_effect() -> Iterator[str]:
    try:
        section: Any = read_document(PARAMS).get("lora")
    except VitloraError:  # refused elsewhere, with its reason
        return
    lora, _ = validate(Lora, section, "lora")
    if lora is None or not lora.without_effect:
        return
    idle = ", ".join(f"lora.{key} ({shown(section[key])})" for key in lora.without_effect)
    own = ", ".join(f"{key} ({shown(value)})" for key, value in lora.own.model_dump().items())
    yield f"without effect, since lora.method {lora.method} does not read them: {idle}"
    if own:
        yield f"  it reads lora.options: {own}"
