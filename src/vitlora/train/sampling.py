"""Which images an epoch holds, and in what order: every one once, or as many of each class.

An image is asked for by ``visit * count + row``: how often it has been shown before decides what is drawn for it, so
that one which is shown several times in an epoch looks another way each time.
"""

import numpy as np
from numpy.typing import NDArray

from vitlora.train.augment import epoch_order, uniforms_of
from vitlora.train.params import Sampling

_SAMPLING = 6  # stream of ``uniforms_of``


def epoch_numbers(labels: NDArray[np.int64], sampling: Sampling, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return what an epoch shows, in order, as numbers ``visit * count + row``.

    Shuffled, every image comes once, and the visit is the epoch. Balanced, an epoch has as many images, the same number
    of each class to one; each class goes through its own images again and again, in a new order each time.

    Args:
        labels: Of all training images, (N,).
        sampling: Which of the two.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        int64 (N,); a pure function of the arguments.
    """
    count = len(labels)
    order = epoch_order(seed, epoch, count)
    if sampling == "shuffled":
        return epoch * count + order
    classes = np.unique(labels)
    shown = [
        _shown(np.flatnonzero(labels == label), int(label), seed, *_share(epoch, count, at, len(classes)), count)
        for at, label in enumerate(classes)
    ]
    return np.concatenate(shown)[order]


def _share(epoch: int, count: int, at: int, classes: int) -> tuple[int, int]:
    """Return how many images a class has shown before an epoch and after it; in sum over the classes ``count`` more."""
    return (epoch * count + at) // classes, ((epoch + 1) * count + at) // classes


def _shown(rows: NDArray[np.int64], label: int, seed: int, first: int, end: int, count: int) -> NDArray[np.int64]:
    """Return a class's images from ``first`` to before ``end`` of its endless row of orders."""
    visits = range(first // len(rows), -(-end // len(rows)))
    passes = [
        visit * count + rows[np.argsort(uniforms_of(label, seed, visit, _SAMPLING, len(rows)), kind="stable")]
        for visit in visits
    ]
    begin = visits.start * len(rows)
    return np.concatenate([np.empty(0, np.int64), *passes])[first - begin : end - begin]
