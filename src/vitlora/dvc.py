"""DVC's command line as it is, but for two files that no kill may leave half written: dvc.lock and its rwlock.

DVC writes both in place, and refuses every later command when one of them is cut short (dvc 3.67.1,
dvc/utils/serialize/_common.py and dvc/rwlock.py). Here they are written aside, synced and renamed.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

from dvc.cli import main
from dvc.fs import LocalFileSystem

from vitlora.durable import faultpoint, sync_one

open_in_place = LocalFileSystem.open


def open_whole(fs: LocalFileSystem, path: str, mode: str = "r", **options: Any) -> AbstractContextManager[IO[Any]]:
    """Open a file as DVC's local file system does; text that is written appears under its name only when complete.

    Args:
        fs: DVC's local file system.
        path: The file.
        mode: As for `open`.
        options: Such as `encoding`.
    """
    if mode in ("w", "w+"):
        return _aside(Path(path), options.get("encoding"))
    opened: IO[Any] = open_in_place(fs, path, mode, **options)
    return opened


@contextmanager
def _aside(path: Path, encoding: str | None) -> Iterator[IO[str]]:
    draft = path.with_name(f"{path.name}.draft")  # one writer at a time: DVC holds its lock meanwhile
    with draft.open("w", encoding=encoding) as file:
        faultpoint(f"{path.name} begun")
        yield file
    sync_one(draft)
    faultpoint(f"{path.name} aside")
    os.replace(draft, path)


if __name__ == "__main__":
    LocalFileSystem.open = open_whole
    sys.exit(main(sys.argv[1:]))
