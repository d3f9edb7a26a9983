"""Seeded, stratified splits that hold still when images are added.

Images of a class are ranked by a hash of the seed and their own content. A split takes ranks from the front, so a new
image moves at most the ones at a border, and the order in which files were listed plays no part.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

Ranked = list[int]


def rank_by_class(seed: int, labels: Sequence[int], contents: Sequence[str], rows: Iterable[int]) -> dict[int, Ranked]:
    """Order the given rows within each class, the same way every time.

    Args:
        seed: Another seed gives another order.
        labels: Label of every row.
        contents: SHA-256 of every row's bytes, hex. Equal pictures stand side by side; the row number breaks the tie.
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


def carve(ranked: Mapping[int, Ranked], fraction: float) -> tuple[dict[int, Ranked], dict[int, Ranked]]:
    """Take a share of each class away: at least one image, and never the last one.

    Args:
        ranked: Label to rows, in rank order.
        fraction: Share of each class to take, above 0 and below 1.

    Returns:
        The rows taken, and the rows that stay.
    """
    taken = {label: rows[: _share(len(rows), fraction)] for label, rows in ranked.items()}
    return taken, {label: rows[len(taken[label]) :] for label, rows in ranked.items()}


def in_row_order(ranked: Mapping[int, Ranked]) -> list[int]:
    """Return all rows of all classes, ascending."""
    return sorted(row for rows in ranked.values() for row in rows)


def _share(count: int, fraction: float) -> int:
    return min(max(1, round(count * fraction)), count - 1) if count > 1 else 0
