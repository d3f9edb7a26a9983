"""What a run has done so far, kept block by block: one that was killed or refused loses a block, not all.

Checking a picture is a pure function of its bytes and of the code, so what was found is taken again as long as these
are the same. What may have been chance, such as a picture that took too long, is not kept.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import astuple
from importlib.metadata import version
from pathlib import Path

from vitlora.core.durable import faultpoint, sync, sync_one
from vitlora.core.files import sha256_file
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import Inspected
from vitlora.storage.squares import PIXELS

BLOCK = 10_000  # pictures; half a shard of photographs or so
PACKAGES = ("pillow", "simplejpeg", "numpy")
CODE = [Path(__file__).parents[1] / name for name in ("core", "storage", "images", "preprocess")]
DONE = "done"
BY_CHANCE = ("timeout", "bomb")  # reasons that the machine's state may be to blame for
Answer = Inspected | BadImageError


class Kept:
    """The finished blocks of one run.

    Args:
        root: Folder of all runs'; what it has of others is deleted.
        about: All that decides the result, but for code and libraries.
    """

    def __init__(self, root: Path, *about: object) -> None:
        files = sorted(file for folder in CODE for file in folder.rglob("*.py"))
        code = [sha256_file(file) for file in files]
        self.folder = root / _name([about, code, [version(name) for name in PACKAGES]])
        for other in root.glob("*") if root.is_dir() else ():
            if other != self.folder:
                shutil.rmtree(other)
        self.folder.mkdir(parents=True, exist_ok=True)

    def checked(self, count: int, check: Callable[[range], Iterable[Answer]]) -> list[Answer]:
        """Return what ``check`` finds of all rows, asked for block by block, or what it has found before."""
        answers: list[Answer] = []
        for rows in _blocks(0, count):
            path = self.folder / f"checked-{rows.start:010d}"
            found = _read(path, len(rows))
            if found is None:
                found = list(check(rows))
                if not any(isinstance(each, BadImageError) and _may_be_chance(each) for each in found):
                    _write(path, found)
                faultpoint("block-checked")
            answers += found
        return answers

    def folder_of(self, name: str, about: object) -> Path:
        """Return a folder for what is kept under a name, and of all that decides it."""
        folder = self.folder / f"{name}-{_name(about)}"
        folder.mkdir(exist_ok=True)
        return folder

    def begin(self, name: str, about: object, create: Callable[[Path], int]) -> tuple[Path, int]:
        """Return a split's folder, begun by ``create`` now or by a run before, and the byte that ``create`` returns."""
        folder, draft = self.folder / f"{name}-{_name(about)}", self.folder / "draft"
        if not (folder / DONE).is_file():
            for old in (folder, draft):
                shutil.rmtree(old, ignore_errors=True)
            first = create(draft)
            (draft / DONE).write_text(f"0 {first}", encoding="ascii")
            sync(draft)
            draft.rename(folder)
        return folder, int((folder / DONE).read_text(encoding="ascii").split()[1])

    def left(self, folder: Path, count: int) -> Iterator[range]:
        """Yield the blocks of a split that are not filled in; each is on the disk before the next one begins."""
        done, first = (folder / DONE).read_text(encoding="ascii").split()
        for rows in _blocks(int(done), count):
            yield rows
            sync_one(folder / PIXELS)
            _replace(folder / DONE, f"{rows.stop} {first}")
            faultpoint("block-filled")

    def hand_over(self, filled: Mapping[Path, Path]) -> None:
        """Move finished splits to where they belong, by that place, and delete all else: the run is over."""
        for target, folder in filled.items():
            (folder / DONE).unlink()
            shutil.rmtree(target, ignore_errors=True)
            shutil.move(folder, target)
        shutil.rmtree(self.folder)


def _blocks(begin: int, count: int) -> Iterator[range]:
    return (range(start, min(start + BLOCK, count)) for start in range(begin, count, BLOCK))


def _name(about: object) -> str:
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _may_be_chance(error: BadImageError) -> bool:
    return error.reason in BY_CHANCE or "crashed" in str(error)


def _write(path: Path, answers: Iterable[Answer]) -> None:
    text = "\n".join(json.dumps(_as_list(answer)) for answer in answers)
    _replace(path, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")


def _replace(path: Path, text: str) -> None:
    """Write a file that is whole or not there, whatever happens."""
    draft = path.with_suffix(".part")
    draft.write_text(text, encoding="ascii")
    sync_one(draft)
    os.replace(draft, path)


def _read(path: Path, count: int) -> list[Answer] | None:
    """Return a block's answers; None if they are not there, or damaged."""
    try:
        digest, _, text = path.read_text(encoding="ascii").partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    lines = text.split("\n")
    if hashlib.sha256(text.encode()).hexdigest() != digest or len(lines) != count:
        return None
    return [_as_answer(json.loads(line)) for line in lines]


def _as_list(answer: Answer) -> list[object]:
    if isinstance(answer, BadImageError):
        return [answer.reason, str(answer)]
    return [base64.b85encode(each).decode() if isinstance(each, bytes) else each for each in astuple(answer)]


def _as_answer(given: list[object]) -> Answer:
    if len(given) == 2:
        return BadImageError(*given)  # type: ignore[arg-type]  # as it was written
    width, height, plain, kind, mode, thumbnail, note = given
    return Inspected(width, height, plain, kind, mode, base64.b85decode(str(thumbnail)), note)  # type: ignore[arg-type]
