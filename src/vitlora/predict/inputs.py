"""From what a person names (files, folders, patterns, addresses, `-`) to one name a picture."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from vitlora.core.errors import VitloraError
from vitlora.core.text import is_address, printable
from vitlora.download.layout import is_litter

STDIN = "-"


def names(given: Iterable[str]) -> Iterator[str]:
    """Yield every input, a folder as all that lies below it in name order, but for what download passes over too.

    A name that isn't there and holds ``*``, ``?`` or ``[`` is a pattern, where ``**`` stands for any folders. Links to
    folders are not followed, so none leads round in a circle; they are yielded themselves, and so are pipes and the
    like, so that each is read or named.

    Raises:
        VitloraError: A folder can't be read, or nothing matches a pattern.
    """
    for name in given:
        for place in [name] if not _is_pattern(name) else _matches(name):
            if place == STDIN or is_address(place) or not os.path.isdir(place):
                yield place
            else:
                yield from sorted(_below(place))


def _is_pattern(name: str) -> bool:
    return not is_address(name) and glob.has_magic(name) and not os.path.lexists(name)


def _matches(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))
    kept = [name for name in found if not is_litter([os.path.basename(name.rstrip(os.sep))])]
    if not kept:
        raise VitloraError(f"{printable(pattern)}: nothing there matches; the rule: a pattern that some file matches")
    return [name for name in kept if not os.path.isdir(name)] or kept


def _below(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_litter([name])]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name) for name in [*files, *links] if not is_litter([name]))


def _refuse(error: OSError) -> NoReturn:
    raise VitloraError(f"cannot read {error.filename}: {error.strerror}")


def listed(path: Path) -> list[str]:
    """Return the names in a list, one a line; `-` reads it from standard input. Empty lines are passed over.

    Raises:
        VitloraError: The list can't be read, or is empty.
    """
    try:
        data = sys.stdin.buffer.read() if str(path) == STDIN else path.read_bytes()
    except OSError as error:
        raise VitloraError(f"--from-file: cannot read {path}: {error.strerror}") from None
    found = [line for line in os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).replace("\r\n", "\n").split("\n") if line]
    if not found:
        raise VitloraError(f"--from-file: {path} holds no name; the rule: one file, folder, pattern or address a line")
    return found
