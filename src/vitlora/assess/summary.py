"""What the answers on a labelled folder come to."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitlora.evaluate.intervals import wilson
from vitlora.evaluate.scores import Floats, Ints, confusion, macro, per_class, softmax
from vitlora.storage.squares import Squares

WORST = 20  # mistakes that are named


def summarise(
    logits: Floats, squares: Squares, class_names: Sequence[str], met: Sequence[str] | None
) -> dict[str, Any]:
    """Return scores with 95 % Wilson intervals, over all classes and one by one, and the surest mistakes.

    Args:
        logits: float32 (N, C).
        squares: Of the pictures, whose labels and paths are used.
        class_names: Position = label.
        met: What training used each picture for; None if it isn't known.
    """
    labels = squares.labels
    predicted = logits.argmax(axis=1).astype(np.int64)
    classes = per_class(labels, predicted, class_names)
    means = macro(classes)
    return {
        **share(predicted == labels),
        "macro_f1": round(means["macro_f1"], 6),
        "balanced_accuracy": round(means["macro_recall"], 6),
        "missing": [name for name, *_, support in classes if not support],
        "met": None if met is None else met_counts(met, predicted == labels),
        "classes": _classes(confusion(labels, predicted, len(class_names)), class_names),
        "mistakes": _mistakes(logits, predicted, squares, class_names),
    }


def share(right: Any) -> dict[str, Any]:
    """Return accuracy, its interval and the number of pictures, of bool (N,)."""
    low, high = map(float, wilson(right.sum(), len(right)))
    return {
        "images": len(right),
        "accuracy": round(float(right.mean()), 6),
        "low": round(low, 6),
        "high": round(high, 6),
    }


def met_counts(met: Sequence[str], right: Any) -> dict[str, Any]:
    """Return how many pictures training has met, by what it used them for, and the scores of the others, if any."""
    new = np.array([not used for used in met])
    counts = Counter(used for used in met if used)
    return {"train": counts["train"], "val": counts["val"], "others": share(right[new]) if new.any() else None}


def _classes(counts: Ints, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class that has pictures, the lowest recall first."""
    rows = []
    for label in np.flatnonzero(counts.sum(axis=1)).tolist():
        support, hits = int(counts[label].sum()), int(counts[label, label])
        low, high = map(float, wilson(hits, support))
        others = counts[label].copy()
        others[label] = 0
        taken = int(others.argmax())
        rows.append(
            {
                "class": class_names[label],
                "images": support,
                "recall": round(hits / support, 6),
                "low": round(low, 6),
                "high": round(high, 6),
                "taken_for": class_names[taken] if others[taken] else None,
                "times": int(others[taken]),
            }
        )
    return sorted(rows, key=lambda row: (row["recall"], str(row["class"])))


def _mistakes(logits: Floats, predicted: Ints, squares: Squares, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the mistakes that the model was surest of."""
    shares = softmax(logits)
    sure = shares.max(axis=1)
    wrong = np.flatnonzero(predicted != squares.labels)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:WORST]
    return [
        {
            "path": squares.paths[row],
            "actual": class_names[squares.labels[row]],
            "predicted": class_names[predicted[row]],
            "confidence": round(float(sure[row]), 4),
            "confidence_in_actual": round(float(shares[row, squares.labels[row]]), 4),
        }
        for row in worst.tolist()
    ]
