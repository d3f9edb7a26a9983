"""Where a verb is asked to write: refused before the work, when it can't be."""

import os
import re
from contextlib import suppress
from pathlib import Path

from vitlora.core.errors import VitloraError


def refuse_unwritable(option: str, path: Path, folder: bool = False) -> None:
    """Refuse a place that what is made can't be written to, before it is made.

    Args:
        option: That named it.
        path: The file, or the folder that files are to go into.
        folder: Whether it is a folder, which need not be there yet.

    Raises:
        VitloraError: Says why.
    """
    above = path.parent
    if not folder and path.is_dir():
        raise VitloraError(f"{option}: {path} is a folder; the rule: a file")
    if folder and path.exists() and not path.is_dir():
        raise VitloraError(f"{option}: {path} is a file; the rule: a folder")
    if not above.is_dir():
        raise VitloraError(f"{option}: there is no folder {above}; make it first")
    beside = path if folder and path.exists() else path.resolve().parent  # a file is written aside first
    if not all(os.access(place, os.W_OK) for place in (path, beside) if place.exists()):
        raise VitloraError(f"{option}: {path} can't be written; the rule: a place that you may write to")
    if not folder and path.exists():
        _refuse_what_is_there(option, path)


def _refuse_what_is_there(option: str, path: Path) -> None:
    """Refuse a pipe or device, whose place a file would take, and a picture: the shell makes one of `--out *.jpg`."""
    from vitlora.images.formats import KINDS  # Pillow, only where something is there

    if not path.is_file():
        raise VitloraError(f"{option}: {path} is a pipe or device; the rule: a file")
    head = b""
    with suppress(OSError), path.open("rb") as file:  # one may be written and not read
        head = file.read(32)
    if any(re.match(mark, head, re.DOTALL) for mark in KINDS.values()):
        raise VitloraError(f"{option}: {path} is a picture, which would be lost; the rule: another name")
