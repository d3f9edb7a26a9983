"""Pictures that are equal, to the byte or to the pixel: found, kept together, never in two classes or two splits."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable
from vitlora.images.pixels import Inspected

HELD_OUT = {"train": 0, "val": 1, "test": 2}  # a picture stays where it is held out the most
Group = list[int]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Duplicates:
    """Rows of equal pictures, a list each, ascending.

    Args:
        groups: All of them.
        conflicts: Those in two classes or more.
        crossing: Those in two or three of the data's own splits.
        left_out: Rows to be left out, so that neither remains.
    """

    groups: list[Group]
    conflicts: list[Group]
    crossing: list[Group]
    left_out: list[int]


def need_decoding(digests: Sequence[str], found: Mapping[int, Inspected]) -> list[int]:
    """Return a row of each file that has another's size and thumbnail though not its bytes: few, and soon decoded.

    Args:
        digests: SHA-256 of every row's bytes.
        found: What the pictures are, by row.
    """
    files = {digests[row]: row for row in reversed(list(found))}
    alike = _grouped((row, (found[row].width, found[row].height, found[row].thumbnail)) for row in files.values())
    return sorted(row for rows in alike if len(rows) > 1 for row in rows)


def name_contents(digests: Sequence[str], pixels: Mapping[int, str]) -> list[str]:
    """Return a name for what every row shows: its file's SHA-256, or the smallest of the files with the same pixels.

    Args:
        digests: SHA-256 of every row's bytes.
        pixels: A name for the pixels of the rows that ``need_decoding`` gave.
    """
    same = _grouped(pixels.items())
    smallest = {digests[row]: min(digests[other] for other in rows) for rows in same for row in rows}
    return [smallest.get(digest, digest) for digest in digests]


def find_duplicates(
    rows: Iterable[int], contents: Sequence[str], labels: Sequence[int], serve_as: Sequence[str]
) -> Duplicates:
    """Find equal pictures, and which of them must go.

    Of copies in two splits of the data's own, those held out the most stay, so that a published test set remains what
    it is. A picture in two classes teaches nothing: all its copies go, but for those held out.

    Args:
        rows: Rows to look at.
        contents: What every row shows, from ``name_contents``.
        labels: Label of every row.
        serve_as: `train`, `val` or `test` for every row: what the split that it comes from is used as.
    """
    groups = [group for group in _grouped((row, contents[row]) for row in sorted(rows)) if len(group) > 1]
    conflicts = [group for group in groups if len({labels[row] for row in group}) > 1]
    crossing = [group for group in groups if len({serve_as[row] for row in group}) > 1]
    left_out = {row for group in conflicts for row in group if serve_as[row] == "train"}
    for group in crossing:
        most = max(HELD_OUT[serve_as[row]] for row in group)
        left_out |= {row for row in group if HELD_OUT[serve_as[row]] < most}
    return Duplicates(groups, conflicts, crossing, sorted(left_out))


def refuse_duplicates(duplicates: Duplicates, paths: Sequence[str], on_duplicate: str, cure: str) -> None:
    """Name the pictures in two classes or two splits, and stop unless the policy leaves them out.

    Raises:
        VitloraError: Any with ``on_duplicate: fail``.
    """
    troubles = [("in two classes", duplicates.conflicts), ("in two splits", duplicates.crossing)]
    named = [f"{what}: {_listed(group, paths)}" for what, groups in troubles for group in groups]
    for line in named:
        print(f"the same picture {printable(line)}")
    if named and on_duplicate == "fail":
        raise VitloraError(
            f"{counted(len(named), 'picture')} in two classes or splits, named above; remove the wrong ones, or set "
            f"ingest.on_duplicate: skip to leave them out of train{cure}"
        )


def _listed(group: Group, paths: Sequence[str]) -> str:
    more = f" and {len(group) - 5} more" if len(group) > 5 else ""
    return " = ".join(paths[row] for row in group[:5]) + more


def _grouped(keyed: Iterable[tuple[int, Key]]) -> list[Group]:
    groups: dict[Key, Group] = defaultdict(list)
    for row, key in keyed:
        groups[key].append(row)
    return list(groups.values())
