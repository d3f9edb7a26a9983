"""Whether the disk has room for what is about to be written."""

import shutil
from pathlib import Path

from vitlora.errors import VitloraError


def check_room(need: int, what: str) -> None:
    """Refuse to begin what the disk of the working directory can't hold.

    Args:
        need: Bytes that will be written. DVC's cache takes no more where it can link files, its default here.
        what: For whom, as the message begins.

    Raises:
        VitloraError: Says how much is needed and how much there is.
    """
    free = shutil.disk_usage(Path()).free
    if need > free:
        raise VitloraError(
            f"{what}: disk full: need {shown_bytes(need)}, have {shown_bytes(free)}; make room, run again"
        )


def bytes_of(path: Path) -> int:
    """Return the size of a file, or of all files below a folder; 0 where nothing is."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.exists() else 0


def shown_bytes(count: int) -> str:
    """Return a size as people read it."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
