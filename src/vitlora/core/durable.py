"""Bytes that survive a power cut, and a way for tests to make one."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Bring a file, or a folder and all in it, to the disk."""
    below = sorted(path.rglob("*"), reverse=True) if path.is_dir() else []
    for each in [*below, path]:
        sync_one(each)


def sync_one(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def faultpoint(name: str) -> None:
    """Die here, as in a power cut, if a test asks for it by name."""
    if os.environ.get("FAULTPOINT") == name:
        os._exit(137)
