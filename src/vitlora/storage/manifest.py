"""MANIFEST.sha256: what a folder holds, so that damage, loss and strays are found before anything is made of it.

The format is that of ``sha256sum``: `sha256sum -c MANIFEST.sha256` checks a folder without this project.
"""

import hashlib
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vitlora.core.files import sha256_file

MANIFEST = "MANIFEST.sha256"
LINE = re.compile(r"([0-9a-f]{64})  (.+)")
THREADS = 8  # hashing gives up Python's lock


def write_manifest(folder: Path) -> None:
    """List every file of a folder with its SHA-256, in name order; the manifest itself comes last to the disk."""
    digests = hash_files(folder, _files(folder))
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def problems(folder: Path, only: Collection[str] | None = None) -> Iterator[str]:
    """Yield what is wrong with a folder, a line each: a file damaged, missing or foreign, or the manifest itself.

    Args:
        folder: One that ``write_manifest`` has seen.
        only: Look at no other files than these.
    """
    try:
        listed = _read(folder / MANIFEST)
    except (OSError, ValueError) as error:
        yield f"{folder / MANIFEST}: {getattr(error, 'strerror', None) or error}"
        return
    there = set(_files(folder))
    if only is not None:
        listed, there = {name: listed.get(name, "") for name in only}, there & set(only)
    found = hash_files(folder, sorted(there & listed.keys()))
    for name, digest in listed.items():
        if name not in there:
            yield f"{folder / name}: missing"
        elif found[name] != digest:
            yield f"{folder / name}: damaged (sha256 {found[name][:12]}, the manifest says {digest[:12]})"
    for name in sorted(there - listed.keys()):
        yield f"{folder / name}: not in the manifest"


def hash_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Return the SHA-256 of each named file below a folder."""
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(names, pool.map(lambda name: sha256_file(folder / name), names), strict=True))


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.relative_to(folder) != Path(MANIFEST))


def _read(path: Path) -> dict[str, str]:
    text = path.read_bytes().decode()  # UnicodeDecodeError is a ValueError
    # Not splitlines: it ends lines at ten characters, and one flipped bit makes another of them from a line feed.
    matches = [LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    listed = {match[2]: match[1] for match in matches if match}
    if len(listed) != len(matches) or not text.endswith("\n"):
        raise ValueError("damaged")
    return listed


def digest(path: Path) -> str:
    """Return one SHA-256 for a file, or for all that a folder's manifest lists (or would, where there is none)."""
    if path.is_file():
        return sha256_file(path)
    manifest = path / MANIFEST
    listed = _read(manifest) if manifest.exists() else hash_files(path, _files(path))
    return hashlib.sha256(repr(sorted(listed.items())).encode()).hexdigest()
