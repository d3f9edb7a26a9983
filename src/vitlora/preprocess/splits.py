"""Seeded splits that hold still: which one a picture belongs to follows from its own content, not from the others.

A hash of the seed and the content gives every picture a place from 0 to 1. Below ``test_fraction`` it is test, below
``test_fraction + val_fraction`` val, else train. So adding or removing pictures moves no other one, and the order in
which files were listed plays no part. Equal pictures have one place and are never split apart.

Small classes: a class with two different pictures or more gives at least one to test, with three or more one to val,
and keeps at least one for train; the nearest one is taken. Such a one goes back once another has a place of its own.
"""

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from vitlora.core.errors import VitloraError

Classes = Mapping[int, Sequence[int]]


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


def by_class(labels: Sequence[int], rows: Iterable[int]) -> Classes:
    """Return the given rows of each label, ascending; labels in order."""
    members: dict[int, list[int]] = defaultdict(list)
    for row in sorted(rows):
        members[labels[row]].append(row)
    return dict(sorted(members.items()))


def cap(classes: Classes, most: int | None, seed: int, contents: Sequence[str]) -> Classes:
    """Keep at most ``most`` rows of each class, the same ones every time; None keeps all.

    A larger cap keeps what a smaller one keeps. The draw is another than that of ``carve``, or few would be left to
    train on.
    """
    if most is None:
        return classes
    return {
        label: sorted(sorted(rows, key=lambda row: (_place(seed, f"cap:{contents[row]}"), row))[:most])
        for label, rows in classes.items()
    }


def carve(
    classes: Classes, test: float, val: float, seed: int, contents: Sequence[str]
) -> tuple[Classes, Classes, Classes]:
    """Divide each class by the places of its pictures.

    Args:
        classes: Label to rows.
        test: Share of each class, from 0, where the data has a test split of its own, to below 1.
        val: Likewise, above 0; both together are below 1.
        seed: Another seed gives other places.
        contents: What every row shows, as text.

    Returns:
        The rows of test, val and train, by label.
    """
    parts: tuple[dict[int, list[int]], ...] = ({}, {}, {})
    for label, rows in classes.items():
        places = {row: _place(seed, contents[row]) for row in rows}
        different = sorted(set(places.values()))
        first, second = _borders(different, test, test + val)
        number = {place: (at >= first) + (at >= second) for at, place in enumerate(different)}
        for part, chosen in enumerate(parts):
            chosen[label] = [row for row in rows if number[places[row]] == part]
    return parts[0], parts[1], parts[2]


def _borders(places: Sequence[float], low: float, high: float) -> tuple[int, int]:
    """Return how many of the places, ascending, are test, and how many are test or val."""
    count = len(places)
    rest = 2 if count > 2 else 1  # for val, where there are enough, and train
    first = min(max(bisect_left(places, low), 1), count - rest) if low > 0 else 0
    second = min(max(bisect_left(places, high), first + 1), count - 1)
    return first, max(first, second)


def _place(seed: int, content: str) -> float:
    """Return a place from 0 to below 1, of 52 bits, which a float holds in full."""
    return int(hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()[:13], 16) / 16**13
