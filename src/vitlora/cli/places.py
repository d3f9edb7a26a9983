"""Where a verb is asked to write: refused before the work, when it can't be."""

import os
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
    if not os.access(path if path.exists() else above, os.W_OK):
        raise VitloraError(f"{option}: {path} can't be written; the rule: a place that you may write to")
