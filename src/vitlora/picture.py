"""The confusion matrix as a picture, readable for two classes and for a hundred."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

NUMBERS_UP_TO = 30  # classes; beyond that a number in a cell is too small to read
NAMES_UP_TO = 120


def draw_confusion(counts: NDArray[np.int64], class_names: Sequence[str], path: Path) -> None:
    """Draw counts as a heat map of row shares: the diagonal is recall, everything else a mistake.

    Args:
        counts: int64 (C, C), rows true, columns predicted.
        class_names: Position = label.
        path: PNG; the same bytes for the same counts.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    classes = len(class_names)
    side = float(np.clip(2.6 + 0.42 * classes, 4.2, 9) if classes <= NUMBERS_UP_TO else np.clip(0.16 * classes, 9, 22))
    small = 9 if classes <= NUMBERS_UP_TO else 7
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure, axes = plt.subplots(figsize=(side + 0.8, side), layout="constrained")
    heat = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    bar = figure.colorbar(heat, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label("share of the true class", fontsize=small)
    bar.ax.tick_params(labelsize=small)
    ticks = range(classes) if classes <= NAMES_UP_TO else range(0, classes, classes // 50)
    names = [_short(class_names[tick]) for tick in ticks]
    upright = max(map(len, names)) <= 3
    axes.set_xticks(list(ticks), names, rotation=0 if upright else 90, fontsize=small)
    axes.set_yticks(list(ticks), names, fontsize=small)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    right = int(np.trace(counts))
    axes.set_title(f"{right:,} of {int(counts.sum()):,} right", fontsize=11)
    if classes <= NUMBERS_UP_TO:
        for row, column in zip(*np.nonzero(counts), strict=True):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=small)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _short(name: str) -> str:
    # A dollar sign would start a formula.
    return (name if len(name) <= 24 else name[:23] + "…").replace("$", r"\$")
