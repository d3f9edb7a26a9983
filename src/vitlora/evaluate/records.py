"""The files that hold a model's scores: few stable numbers, and tables of all the rest."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.core.files import significant, write_csv, write_json
from vitlora.evaluate.calibration import (
    Calibration,
    brier_scores,
    calibration_error,
    log_losses,
    prediction_sets,
    reliability,
)
from vitlora.evaluate.confusion import draw_confusion
from vitlora.evaluate.intervals import Interval, macro_intervals, mean_interval, wilson
from vitlora.evaluate.scores import Floats, Ints, among_top, confusion, macro, per_class, softmax
from vitlora.model.params import Precision
from vitlora.storage.squares import Squares

DIGITS = 16  # of a picture's SHA-256: two of a million are equal once in 40 million sets
LOSSES = ("log_loss", "brier")

Row = tuple[str, float, Interval | None, str]  # score, value, interval, how it was found


def write_scores(
    logits: Floats,
    squares: Squares,
    class_names: Sequence[str],
    calibration: Calibration,
    top_k: int,
    out: Path,
    kind: Precision,
    more: Sequence[Row] = (),
) -> list[Row]:
    """Write everything that is known from logits and true labels.

    Args:
        logits: float32 (N, C), as the model gives them.
        squares: The scored split; its labels, paths and digests are used.
        class_names: Position = label.
        calibration: Temperature and prediction sets, found on other images.
        top_k: The k of top-k accuracy.
        out: Folder for scores.json, intervals.csv, per_class.csv, reliability.csv, confusion.csv, confusion.png and
            predictions.csv.
        kind: What the logits were computed in.
        more: Scores that were found otherwise, to be written beside the others.

    Returns:
        All scores: name, value, interval or None, how it was found.
    """
    scaled = calibration.scale(logits)
    shares = softmax(scaled)
    predicted = logits.argmax(axis=1).astype(np.int64)
    counts = confusion(squares.labels, predicted, len(class_names))
    rows = [*_scores(logits, scaled, shares, squares.labels, counts, calibration, top_k), *more]
    values = {name: value for name, value, *_ in rows}
    stable = (*_stable(top_k), *(name for name, *_ in more))
    scores = {name: rounded(name, values[name]) for name in stable if name in values}
    write_json(out / "scores.json", {**scores, "images": len(predicted), "precision": kind})
    write_csv(out / "intervals.csv", ("score", "value", "low", "high", "method"), map(_interval_row, rows))
    _write_classes(out / "per_class.csv", per_class(squares.labels, predicted, class_names), counts)
    _write_reliability(out / "reliability.csv", softmax(logits), shares, squares.labels)
    lines = ([name, *line] for name, line in zip(class_names, counts.tolist(), strict=True))
    write_csv(out / "confusion.csv", ("actual", *class_names), lines)
    columns = ("path", "actual", "predicted", "confidence", "sha256")
    write_csv(out / "predictions.csv", columns, _predictions(shares, predicted, squares, class_names))
    draw_confusion(counts, class_names, out / "confusion.png")
    return rows


def rows_with(tta: str, logits: Floats, labels: Ints, calibration: Calibration, top_k: int) -> list[Row]:
    """Return the stable scores of logits that are means over several looks at an image, under names that say so.

    Args:
        tta: Which looks.
        logits: float32 (N, C), such means.
        labels: (N,).
        calibration: Found on such means of other images.
        top_k: The k of top-k accuracy.
    """
    scaled = calibration.scale(logits)
    counts = confusion(labels, logits.argmax(axis=1).astype(np.int64), logits.shape[1])
    rows = _scores(logits, scaled, softmax(scaled), labels, counts, calibration, top_k)
    return [(f"{row[0]}_with_{tta}", *row[1:]) for row in rows if row[0] in _stable(top_k)]


def _stable(top_k: int) -> tuple[str, ...]:
    return ("accuracy", "balanced_accuracy", "macro_f1", f"top_{top_k}_accuracy", *LOSSES)


def _scores(
    logits: Floats,
    scaled: Floats,
    shares: Floats,
    labels: Ints,
    counts: NDArray[np.int64],
    calibration: Calibration,
    top_k: int,
) -> Iterator[Row]:
    images, right = len(labels), int(np.trace(counts))
    yield "accuracy", right / images, _share(right, images), "Wilson"
    if top_k < counts.shape[0]:  # else 1.0 by arithmetic, which is no result
        among = among_top(labels, logits, top_k)
        yield f"top_{top_k}_accuracy", among / images, _share(among, images), "Wilson"
    names = [str(label) for label in range(len(counts))]
    means = macro(per_class(labels, logits.argmax(axis=1).astype(np.int64), names))
    intervals = macro_intervals(counts)
    for score, mean in (("balanced_accuracy", "macro_recall"), ("macro_f1", "macro_f1")):
        found = intervals[score]
        method = "draws of the confusion matrix" if found else "has no interval that holds with so few images a class"
        yield score, means[mean], found, method
    yield "macro_precision", means["macro_precision"], None, "has no interval that holds with few images a class"
    for when, used in (("", scaled), ("_before_temperature", logits)):
        for name, each in zip(LOSSES, (log_losses(used, labels), brier_scores(used, labels)), strict=True):
            yield name + when, float(each.mean()), mean_interval(each), "bootstrap of the mean"
    hit = shares.argmax(axis=1) == labels
    error = calibration_error(shares.max(axis=1), hit)
    yield "calibration_error", error.value, None, "15 bins; has no interval that holds"
    yield "calibration_error_by_chance", error.chance, None, "mean if every confidence were true"
    yield "calibration_error_by_chance_at_most", error.most, None, "in 95 of 100 test sets"
    sets = prediction_sets(shares, calibration.threshold)
    held = int(sets[np.arange(images), labels].sum())
    yield "set_coverage", held / images, _share(held, images), f"Wilson; {calibration.coverage:g} was asked for"
    yield "set_classes", float(sets.sum(axis=1).mean()), None, "classes in a prediction set, mean"


def _share(part: int, images: int) -> Interval:
    low, high = wilson(part, images)
    return Interval(float(low), float(high))


def rounded(name: str, value: float) -> float | None:
    """Cut a share after the sixth decimal, which still tells one image in a million, and a loss to four digits."""
    return significant(value) if name.startswith(LOSSES) else round(value, 6)


def _interval_row(row: Row) -> list[object]:
    name, value, interval, method = row
    ends = [significant(end) for end in interval] if interval else [None, None]
    return [name, rounded(name, value), *ends, method]


def _write_classes(path: Path, classes: Sequence[Sequence[object]], counts: NDArray[np.int64]) -> None:
    recall = np.stack(wilson(np.diag(counts), counts.sum(axis=1)), axis=1)
    precision = np.stack(wilson(np.diag(counts), counts.sum(axis=0)), axis=1)
    ends = np.round(np.concatenate([recall, precision], axis=1), 4)
    columns = ("recall_low", "recall_high", "precision_low", "precision_high")
    write_csv(
        path,
        ("class", "precision", "recall", "f1", "support", *columns),
        (
            [*(round(cell, 6) if isinstance(cell, float) else cell for cell in row), *map(_present, more)]
            for row, more in zip(classes, ends.tolist(), strict=True)
        ),
    )


def _present(number: float) -> float | None:
    return None if np.isnan(number) else number


def _write_reliability(path: Path, before: Floats, after: Floats, labels: Ints) -> None:
    """Write a row a bin, before and after the temperature: mean confidence, share right with its interval, images."""
    rows = []
    for when, shares in (("before", before), ("after", after)):
        hit = shares.argmax(axis=1) == labels
        for confidence, right, images in reliability(shares.max(axis=1), hit):
            ends = [round(end, 4) for end in _share(right, images)]
            rows.append([when, round(confidence, 4), round(right / images, 6), *ends, images])
    write_csv(path, ("temperature", "confidence", "right", "low", "high", "images"), rows)


def _predictions(
    shares: Floats, predicted: Ints, squares: Squares, class_names: Sequence[str]
) -> Iterator[Sequence[object]]:
    columns = (squares.paths, squares.labels, predicted, shares.max(axis=1), squares.digests)
    for path, actual, guess, sure, digest in zip(*columns, strict=True):
        yield path, class_names[actual], class_names[guess], f"{sure:.4f}", digest[:DIGITS]
