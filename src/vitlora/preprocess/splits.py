"""Seeded, stratified splits that hold still when images are added.

Images of a class are ranked by a hash of the seed and their own content. A split takes ranks from the front, so a new
image moves at most the ones at a border, and the order in which files were listed plays no part. Equal pictures of a
class share a rank and are never split apart.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from vitlora.core.errors import VitloraError

Ranked = list[int]


def roles(present: Collection[str], val_from: str) -> dict[str, str]:
    """Tell what each of the data's own splits, `train`, `val` and `test`, serves as: `train`, `val` or `test`.

    Train is what may be divided further. A single official split is test; with ``val_from: official`` it is val too.

    Raises:
        VitloraError: ``val_from: official`` without an official split.
    """
    official = [name for name in ("val", "test") if name in present]
    if val_from == "official":
        if not official:
            raise VitloraError("split.val_from: got official; the data has one split only; the rule: train")
        return {"train": "train", official[0]: "val", official[-1]: "test"}
    # With both there and val to come from train, the official val would lie idle.
    return {"train": "train", **dict.fromkeys(official[:-1], "train"), **dict.fromkeys(official[-1:], "test")}


def rank_by_class(seed: int, labels: Sequence[int], contents: Sequence[str], rows: Iterable[int]) -> dict[int, Ranked]:
    """Order the given rows within each class, the same way every time.

    Args:
        seed: Another seed gives another order.
        labels: Label of every row.
        contents: What every row shows, as text: equal pictures stand side by side; the row number breaks the tie.
        rows: Row numbers to rank.

    Returns:
        Label to row numbers, in rank order.
    """
    keyed: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for row in rows:
        key = hashlib.sha256(f"{seed}:{contents[row]}".encode()).hexdigest()
        keyed[labels[row]].append((key, row))
    return {label: [row for _, row in sorted(pairs)] for label, pairs in sorted(keyed.items())}


def cap(ranked: Mapping[int, Ranked], max_per_class: int | None) -> dict[int, Ranked]:
    """Keep at most ``max_per_class`` rows of each class; None keeps all."""
    return {label: rows[:max_per_class] for label, rows in ranked.items()}


def carve(
    ranked: Mapping[int, Ranked], fraction: float, contents: Sequence[str]
) -> tuple[dict[int, Ranked], dict[int, Ranked]]:
    """Take a share of each class away: at least one image, and never the last one.

    Equal pictures go together. No more is taken than the share of the images, nor than that of the different ones, so
    that a picture with many copies stays, and others stay with it.

    Args:
        ranked: Label to rows, in rank order.
        fraction: Share of each class to take, above 0 and below 1.
        contents: As in ``rank_by_class``.

    Returns:
        The rows taken, and the rows that stay.
    """
    taken = {label: _take(rows, fraction, contents) for label, rows in ranked.items()}
    gone = {row for rows in taken.values() for row in rows}
    return taken, {label: [row for row in rows if row not in gone] for label, rows in ranked.items()}


def _take(rows: Ranked, fraction: float, contents: Sequence[str]) -> Ranked:
    groups = [list(group) for _, group in groupby(rows, key=contents.__getitem__)]
    images, different = _share(len(rows), fraction), _share(len(groups), fraction)
    taken: list[Ranked] = []
    for group in groups:
        if len(group) <= images and len(taken) < different:
            taken.append(group)
            images -= len(group)
    if not taken and different:  # each has copies
        taken = [min(groups, key=len)]
    return [row for group in taken for row in group]


def in_row_order(ranked: Mapping[int, Ranked]) -> list[int]:
    """Return all rows of all classes, ascending."""
    return sorted(row for rows in ranked.values() for row in rows)


def _share(count: int, fraction: float) -> int:
    return min(max(1, round(count * fraction)), count - 1) if count > 1 else 0
