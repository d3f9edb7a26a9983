"""One runner at a time: a lock that the system frees once its holder and the last of its children have left."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from vitlora.core.errors import VitloraError

LOCK = "lock"
LOCK_WAIT_S = 8.0  # a child of a runner that was killed leaves within 2


@contextmanager
def only_runner(folder: Path, what: str) -> Iterator[int]:
    """Hold the lock of a search or a sweep; yield its handle, which children inherit.

    Args:
        folder: Its own.
        what: It is, in a word.

    Raises:
        VitloraError: Another runner is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_WAIT_S
        while not locked(file.fileno()):
            if time.monotonic() > deadline:
                file.seek(0)
                raise VitloraError(
                    f"{folder.name}: this {what} is already running here "
                    f"(process {file.read().strip() or 'unknown'}); wait for it, or --name another"
                )
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()


def locked(handle: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Try to lock an open file; return whether it is locked now.

    Raises:
        VitloraError: The file system has no locks.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise VitloraError(
            f"files can't be locked here: {error.strerror}; the rule: a file system with flock, such as NFS 4"
        ) from None
    return True


def is_free(folder: Path) -> bool:
    """Whether nobody holds the lock: neither a runner nor a child that one has left behind."""
    try:
        with (folder / LOCK).open(encoding="utf-8") as file:
            return locked(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return True


def runner(folder: Path) -> int | None:
    """Return the id of the process that holds the lock; None where none does, or only children of a dead one.

    The id in the file may be another process's by now, so it counts only where that process has the file open.
    """
    if is_free(folder):
        return None
    try:
        number = int((folder / LOCK).read_text(encoding="utf-8"))
        opened = psutil.Process(number).open_files()
    except (ValueError, psutil.Error):
        return None
    return number if any(Path(file.path) == (folder / LOCK).resolve() for file in opened) else None
