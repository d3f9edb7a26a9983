"""Evaluate: score the trained adapter on the test split, with confidences that are calibrated on val."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitlora.core.errors import VitloraError
from vitlora.core.files import write_csv, write_json
from vitlora.core.text import counted
from vitlora.evaluate.calibration import COLDEST, HOTTEST, Calibration, calibrate
from vitlora.evaluate.params import Evaluate
from vitlora.evaluate.records import Row, rows_with, write_scores
from vitlora.evaluate.scores import Floats
from vitlora.evaluate.views import View, views
from vitlora.model.adapters import load_adapter
from vitlora.model.base import Normalisation, device_of_choice
from vitlora.model.inference import device_precision, score
from vitlora.model.params import Precision
from vitlora.model.seen import count_seen
from vitlora.processes.peers import Peers, peers_here
from vitlora.storage.labels import read_labels
from vitlora.storage.squares import Squares, load_split

FEW = 100  # test images
LOOKS = {"flip": "the mirror image", "crops": "corners and mirror images"}


def evaluate(
    evaluate: Evaluate, base: Path, adapter: Path, val: Path, test: Path, labels: Path, evaluated: Path, out: Path
) -> None:
    """Score base plus adapter, merged, on images that no earlier stage looked at.

    Args:
        evaluate: Batch size, precision, the k of top-k, the coverage of prediction sets, and whether to flip.
        base: Base model folder.
        adapter: Adapter folder.
        val: Validation squares; temperature and prediction sets come from them.
        test: Test squares.
        labels: Class names.
        evaluated: Gets the logits of both splits, what they belong to, and calibration.json.
        out: Gets the scores; see ``write_scores``.

    Raises:
        VitloraError: The adapter belongs to another base, or to other classes or image size than the test split; or
            gives scores that are no numbers.
    """
    model, trained, normalisation = load_adapter(base, adapter)
    known = read_labels(labels)
    if trained != known:
        raise VitloraError(f"{adapter}: trained on other classes or image size than {labels} has; run the train stage")
    splits = {"val": load_split(val), "test": load_split(test)}
    if not len(splits["test"].labels):
        raise VitloraError(f"{test}: no image to score; raise split.test_fraction or give the data a test split")
    kind = device_precision(evaluate.precision)
    model = model.to(device_of_choice())
    peers = peers_here()
    look = partial(_look, model, normalisation, evaluate.batch_size, kind, peers)
    logits = {name: look(squares) for name, squares in splits.items()}
    means = _means(evaluate, splits, logits, look)
    if not peers.writes:
        return
    calibration = calibrate(logits["val"], splits["val"].labels, evaluate.coverage)
    _tell_calibration(calibration, logits["val"], splits["val"], known.class_names)
    for name, squares in splits.items():
        _write_logits(evaluated, name, logits[name], squares, known.class_names)
    write_json(evaluated / "class_names.json", known.class_names)
    write_json(evaluated / "calibration.json", {**calibration._asdict(), "precision": kind})
    more = _rows_of_views(evaluate, splits, means)
    law = (known.class_names, calibration, evaluate.top_k)
    rows = write_scores(logits["test"], splits["test"], *law, out, kind, more)
    _tell(rows, len(splits["test"].labels))
    _tell_seen(count_seen(adapter, splits["test"].digests), len(splits["test"].labels))


def _look(
    model: Any,
    normalisation: Normalisation,
    batch_size: int,
    kind: Precision,
    peers: Peers,
    squares: Squares,
    view: View | None = None,
) -> Floats:
    """Return a split's logits; several processes score whole batches of it in turn, and all of them know the result."""
    images = len(squares.labels)
    own = peers.batches(images, batch_size) if peers.count > 1 else None
    found = score(model, squares, normalisation, batch_size, kind, view, own)
    whole: Floats = peers.in_order(torch.from_numpy(found), images, batch_size).numpy()
    if broken := [squares.paths[row] for row in np.flatnonzero(~np.isfinite(whole).all(axis=1))]:
        more = f" and {len(broken) - 1:,} more" if broken[1:] else ""
        cure = "train anew with a lower train.learning_rate" if kind == "fp32" else "set evaluate.precision: fp32"
        raise VitloraError(f"{broken[0]}{more}: the model's scores in {kind} are not finite; {cure}")
    return whole


def _means(
    evaluate: Evaluate, splits: dict[str, Squares], logits: dict[str, Floats], look: Callable[..., Floats]
) -> dict[str, Floats]:
    """Return the mean of the logits of several looks at each image; nothing where there is one look."""
    others = views(evaluate.tta)
    if not others:
        return {}
    share = np.float32(1 / (1 + len(others)))
    return {
        name: share * sum((look(squares, view=view) for view in others), start=logits[name])
        for name, squares in splits.items()
    }


def _rows_of_views(evaluate: Evaluate, splits: dict[str, Squares], means: dict[str, Floats]) -> list[Row]:
    """Return the scores of several looks at each image together."""
    if not means:
        return []
    calibration = calibrate(means["val"], splits["val"].labels, evaluate.coverage)
    return rows_with(evaluate.tta, means["test"], splits["test"].labels, calibration, evaluate.top_k)


def _write_logits(folder: Path, name: str, logits: Floats, squares: Squares, class_names: Sequence[str]) -> None:
    """Write what every later question needs: neither model nor pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}_logits.npy", logits, allow_pickle=False)
    actual = (class_names[label] for label in squares.labels)
    rows = zip(squares.paths, actual, squares.digests, strict=True)
    write_csv(folder / f"{name}.csv", ("path", "actual", "sha256"), rows)


def _tell_calibration(calibration: Calibration, logits: Floats, val: Squares, class_names: Sequence[str]) -> None:
    """Say what val could not tell."""
    images = counted(len(val.labels), "validation image")
    absent = sorted(set(range(len(class_names))) - set(val.labels.tolist()))
    if absent:
        print(f"note: {counted(len(absent), 'class')} without a validation image, such as {class_names[absent[0]]!r}")
    if bool((logits.argmax(axis=1) == val.labels).all()):
        print(f"note: all of {images} are right, so the temperature {calibration.temperature:g} rests on their number")
    if not COLDEST * 1.01 < calibration.temperature < HOTTEST * 0.99:
        print(f"note: the temperature {calibration.temperature:g} is at its limit; confidences stay off")
    if calibration.threshold == 0:
        print(
            f"note: {images} are too few to promise evaluate.coverage {calibration.coverage:g}; every prediction set "
            "holds every class"
        )


def _tell(rows: Sequence[Row], images: int) -> None:
    values = {name: value for name, value, *_ in rows}
    low, high = next(interval for name, _, interval, _ in rows if name == "accuracy" and interval)
    print(
        f"test accuracy {values['accuracy']:.4f} on {counted(images, 'image')}, 95 % interval {low:.4f} to {high:.4f}; "
        f"macro F1 {values['macro_f1']:.4f}"
    )
    for tta, looks in LOOKS.items():
        if f"accuracy_with_{tta}" in values:
            print(
                f"with {looks} accuracy {values[f'accuracy_with_{tta}']:.4f}, log loss "
                f"{values[f'log_loss_with_{tta}']:.4f}; what is exported takes the picture alone"
            )
    print(
        f"log loss {values['log_loss']:.4f} ({values['log_loss_before_temperature']:.4f} before the temperature); "
        f"prediction sets hold the truth in {values['set_coverage']:.4f}, with {values['set_classes']:.2f} classes each"
    )
    if values["calibration_error"] > values["calibration_error_by_chance_at_most"]:
        print(
            f"note: confidences are off by {values['calibration_error']:.3f} on average, more than chance explains "
            f"({values['calibration_error_by_chance_at_most']:.3f})"
        )
    if images < FEW:
        print(f"note: one test image is {1 / images:.4f} of accuracy; a difference of a few images may be chance")


def _tell_seen(seen: int | None, images: int) -> None:
    if seen:
        print(
            f"note: {seen:,} of {counted(images, 'test image')} played a part in training an adapter that this one is "
            "made of, or in choosing its epoch, so the accuracy is too high; train those on today's splits"
        )
    elif seen is None:
        print(
            "note: an adapter that this one is made of, or the teacher that it learnt from, was trained on other "
            "pictures or does not record which; they may be among the test images; train it anew on today's splits"
        )
