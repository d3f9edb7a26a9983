"""A full or closed disk and too little memory, told in a line. Nothing but Python is needed for it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.text import shown_bytes

WORK = Path(".work")
DISK = {errno.ENOSPC: "disk full", errno.EDQUOT: "quota reached", errno.EROFS: "read-only file system"}
ROOM = "out of memory; end other programs, lift a limit such as ulimit -v, or lower the batch size"
SHARED = "too little shared memory; enlarge /dev/shm (docker run --shm-size=1g), or set train.dataloader_num_workers: 0"
SHORTAGES = {  # words of an error, and what to say
    "shared memory": SHARED,
    "insufficient shm": SHARED,
    "Bus error": SHARED,
    "failed to map segment": ROOM,
    "allocate memory": ROOM,
    "File too large": "a file is larger than ulimit -f or its disk allows; raise ulimit -f, or take another disk",
    "Too many open files": "too few open files allowed; raise ulimit -n",
}


@contextmanager
def shortage_named(who: str) -> Iterator[None]:
    """Turn what comes of a full or read-only disk, and of too little memory, into a line that says so.

    Raises:
        VitloraError: Instead.
    """
    try:
        yield
    except Exception as error:  # libraries have types of their own for a full disk, such as SafetensorError
        short = None if isinstance(error, VitloraError) else _memory(error) or disk_named(error)
        if short is None:
            raise
        shutil.rmtree(WORK / who / "out", ignore_errors=True)
        raise VitloraError(f"{who}: {short}") from None


def disk_named(error: BaseException) -> str | None:
    """Say what is wrong with a disk, if an error comes of one; a worker process hands its error on as text."""
    named = getattr(error, "filename", None)
    if isinstance(error, PermissionError) and named:
        return f"permission denied at {named}; the rule: what it reads and writes is yours; `ls -ld` says whose it is"
    for number, reason in DISK.items():
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            free = shown_bytes(shutil.disk_usage(_disk_of(named)).free)
            place = f"{named}, {free} free" if named else f"a file or in what is printed; {free} free in this folder"
            if number == errno.EROFS:
                return f"{reason} at {named or 'a file'}; make it writable, or work in a copy of the project elsewhere"
            return f"{reason} at {place}; make room, run again"
    return None


def _disk_of(named: str | bytes | None) -> Path:
    """Return a folder on the disk that an error names: another one may be full than that of this folder."""
    above = Path(os.fsdecode(named)).absolute().parents if named else ()
    return next((folder for folder in above if folder.is_dir()), Path())


def _memory(error: Exception) -> str | None:
    """Other people's libraries have no type for these, only words."""
    if isinstance(error, MemoryError):
        return SHORTAGES["allocate memory"]
    return next((cure for words, cure in SHORTAGES.items() if words in str(error)), None)
