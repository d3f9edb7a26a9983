"""Evaluate: score the trained adapter on the test split."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitlora.core.errors import VitloraError
from vitlora.core.files import write_csv, write_json
from vitlora.core.text import counted
from vitlora.evaluate.confusion import draw_confusion
from vitlora.evaluate.params import Evaluate
from vitlora.evaluate.scores import Floats, Ints, accuracy, confusion, macro, per_class, softmax, top_k_accuracy
from vitlora.model.adapters import load_adapter
from vitlora.model.base import device_of_choice
from vitlora.model.inference import device_precision, score
from vitlora.model.params import Precision
from vitlora.model.seen import count_seen
from vitlora.storage.labels import read_labels
from vitlora.storage.squares import Squares, load_split

FEW = 100  # test images


def evaluate(evaluate: Evaluate, base: Path, adapter: Path, test: Path, labels: Path, out: Path) -> None:
    """Score base plus adapter, merged, on images that no earlier stage looked at.

    Args:
        evaluate: Batch size, precision, and the k of top-k.
        base: Base model folder.
        adapter: Adapter folder.
        test: Test squares.
        labels: Class names.
        out: Gets scores.json, per_class.csv, confusion.csv, confusion.png and predictions.csv.

    Raises:
        VitloraError: The adapter belongs to another base, or to other classes or image size than the test split.
    """
    model, trained, normalisation = load_adapter(base, adapter)
    known = read_labels(labels)
    if trained != known:
        raise VitloraError(f"{adapter}: trained on other classes or image size than {labels} has; run the train stage")
    squares = load_split(test)
    if not len(squares.labels):
        raise VitloraError(f"{test}: no image to score; raise split.test_fraction or give the data a test split")
    kind = device_precision(evaluate.precision)
    logits = score(model.to(device_of_choice()), squares, normalisation, evaluate.batch_size, kind)
    write_scores(logits, squares, known.class_names, evaluate.top_k, out, kind)
    _tell_seen(count_seen(adapter, squares.digests), len(squares.labels))


def write_scores(
    logits: Floats, squares: Squares, class_names: Sequence[str], top_k: int, out: Path, kind: Precision
) -> None:
    """Write everything that is known from logits and true labels.

    Args:
        logits: float32 (N, C).
        squares: The scored split; its labels and paths are used.
        class_names: Position = label.
        top_k: The k of top-k accuracy.
        out: Folder for the files.
        kind: What the logits were computed in.
    """
    predicted = logits.argmax(axis=1).astype(np.int64)
    classes = per_class(squares.labels, predicted, class_names)
    counts = confusion(squares.labels, predicted, len(class_names))
    among = {f"top_{top_k}_accuracy": top_k_accuracy(squares.labels, logits, top_k)}
    scores = {
        "accuracy": accuracy(squares.labels, predicted),
        **(among if top_k < len(class_names) else {}),  # 1.0 by arithmetic is no result
        **macro(classes),
        "images": len(predicted),
        "precision": kind,
    }
    write_json(out / "scores.json", {name: _rounded(value) for name, value in scores.items()})
    columns = ("class", "precision", "recall", "f1", "support")
    write_csv(out / "per_class.csv", columns, ([_rounded(value) for value in row] for row in classes))
    rows = ([name, *line] for name, line in zip(class_names, counts.tolist(), strict=True))
    write_csv(out / "confusion.csv", ("actual", *class_names), rows)
    write_csv(
        out / "predictions.csv",
        ("path", "actual", "predicted", "confidence"),
        _rows(logits, predicted, squares, class_names),
    )
    draw_confusion(counts, class_names, out / "confusion.png")
    images = counted(len(predicted), "image")
    print(f"test accuracy {scores['accuracy']:.4f} on {images}, macro F1 {scores['macro_f1']:.4f}")
    if len(predicted) < FEW:
        print(
            f"note: one test image is {1 / len(predicted):.4f} of accuracy; a difference of a few images may be chance"
        )


def _tell_seen(seen: int | None, images: int) -> None:
    if seen:
        print(
            f"note: {seen:,} of {counted(images, 'test image')} played a part in training an adapter that this one is "
            "made of, or in choosing its epoch, so the accuracy is too high; train those on today's splits"
        )
    elif seen is None:
        print(
            "note: an adapter that this one is made of does not record which pictures it was trained on; they may be "
            "among the test images; train it anew with this version"
        )


def _rounded(value: object) -> object:
    """Cut a share after the sixth decimal, which still tells one image in a million."""
    return round(value, 6) if isinstance(value, float) else value


def _rows(logits: Floats, predicted: Ints, squares: Squares, class_names: Sequence[str]) -> list[list[object]]:
    confidence = softmax(logits).max(axis=1)
    return [
        [path, class_names[actual], class_names[guess], f"{sure:.4f}"]
        for path, actual, guess, sure in zip(squares.paths, squares.labels, predicted, confidence, strict=True)
    ]
