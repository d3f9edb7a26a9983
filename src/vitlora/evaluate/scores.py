"""Scores of a classifier from its predictions: scikit-learn's definitions, arranged for our files.

Computed here, since to import scikit-learn takes a second, a tenth of the whole stage; tests compare the two.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Return probabilities, float32 (N, C), from logits (N, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def among_top(labels: Ints, logits: Floats, k: int) -> int:
    """Return how many images have their label, of (N,), among the k largest logits, of (N, C)."""
    largest = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return int((largest == labels[:, None]).any(axis=1).sum())


def per_class(labels: Ints, predicted: Ints, class_names: Sequence[str]) -> list[list[object]]:
    """Return one row a class: name, precision, recall, f1, support (test images of it).

    A ratio with nothing below the line is None, not 0: a class that is absent was not got wrong.
    """
    counts = confusion(labels, predicted, len(class_names))
    right, actual, given = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, which marks such a ratio
        ratios = np.stack([right / given, right / actual, 2 * right / (actual + given)], axis=1)
    return [
        [name, *(None if np.isnan(value) else float(value) for value in row), int(support)]
        for name, row, support in zip(class_names, ratios, actual, strict=True)
    ]


def macro(rows: Sequence[Sequence[object]]) -> dict[str, float]:
    """Return unweighted means of precision, recall and F1 over the classes that have test images.

    Such a class that was never predicted has no precision of its own; it counts as 0, as in scikit-learn's default.
    """
    present = [row for row in rows if row[4]]
    named = {"macro_precision": 1, "macro_recall": 2, "macro_f1": 3}
    return {name: float(np.mean([row[column] or 0.0 for row in present])) for name, column in named.items()}


def confusion(labels: Ints, predicted: Ints, classes: int) -> Ints:
    """Return counts, int64 (C, C): ``[i, j]`` images of class i that were predicted as j."""
    places = np.ravel_multi_index((labels, predicted), (classes, classes))
    return np.bincount(places, minlength=classes * classes).reshape(classes, classes)
