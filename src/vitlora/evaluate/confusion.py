"""The confusion matrix as a picture, readable for two classes and for a hundred."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUMBERS_UP_TO = 30  # classes; beyond that a number in a cell is too small to read
NAMES_UP_TO = 120
LONGEST_NAME = 24  # characters
SHARES = (0, 0.02, 0.1, 0.25, 0.5, 0.75, 1)


def draw_confusion(counts: NDArray[np.int64], class_names: Sequence[str], path: Path) -> None:
    """Draw counts as a heat map of row shares: the diagonal is recall, everything else a mistake.

    Colours follow the square root of the share, or the mistakes among a hundred classes would be too pale to see.

    Args:
        counts: int64 (C, C), rows true, columns predicted.
        class_names: Position = label.
        path: PNG; the same bytes for the same counts.
    """
    from matplotlib import rc_context, rcdefaults

    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context():
        rcdefaults()  # a style of the user's own must not change the bytes
        _figure(counts, class_names).savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def _figure(counts: NDArray[np.int64], class_names: Sequence[str]) -> Any:
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(class_names)
    few = classes <= NUMBERS_UP_TO
    side = float(np.clip(0.42 * classes, 2.6, 9) if few else np.clip(0.15 * classes, 9, 20))  # of the square, inches
    small, large = (9, 11) if few else (7, 14)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))  # everything beside it is included when the file is written
    heat = axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1))
    bar = figure.colorbar(heat, cax=axes.inset_axes((1.02, 0, 0.03, 1)), ticks=SHARES, format="{x:.0%}")
    bar.set_label("share of the actual class", fontsize=large - 1)
    bar.ax.tick_params(labelsize=small)
    _name_axes(axes, class_names, small)
    axes.set_xlabel("predicted", fontsize=large)
    axes.set_ylabel("actual", fontsize=large)
    axes.set_title(f"{int(np.trace(counts)):,} of {int(counts.sum()):,} right", fontsize=large + 1)
    if few:
        _write_numbers(axes, counts, share > 0.36, 72 * side / classes)
    return figure


def _name_axes(axes: Any, class_names: Sequence[str], size: int) -> None:
    """Name every class, or every few where there are too many, and rule lines that lead the eye along them."""
    classes = len(class_names)
    ticks = list(range(0, classes, 1 if classes <= NAMES_UP_TO else classes // 50))
    drawable = _drawable()
    names = [_short(class_names[tick], tick, drawable) for tick in ticks]
    upright = max(map(len, names)) <= 3
    axes.set_xticks(ticks, names, rotation=0 if upright else 90, fontsize=size, parse_math=False)
    axes.set_yticks(ticks, names, fontsize=size, parse_math=False)
    edges = np.arange(0, classes, 1 if classes <= NUMBERS_UP_TO else 5) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="#d0d7de", linewidth=0.5)
    axes.tick_params(which="minor", length=0)


def _write_numbers(axes: Any, counts: NDArray[np.int64], dark: NDArray[np.bool_], cell: float) -> None:
    """Write counts other than 0, small enough for the longest to stay in its cell, ``cell`` points wide."""
    size = float(np.clip(cell / (0.75 * len(str(counts.max()))), 5, 10))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if dark[row, column] else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=size)


def _drawable() -> set[int]:
    from matplotlib.font_manager import findfont, get_font

    return set(get_font(findfont("DejaVu Sans")).get_charmap())


def _short(name: str, label: int, drawable: set[int]) -> str:
    """Cut a long name; one that the font can't draw becomes its number."""
    if not (name.isprintable() and drawable.issuperset(map(ord, name))):
        return f"class {label}"
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
