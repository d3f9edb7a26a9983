"""The proof that a form is the trained model: its classes, its logits, and what its accuracy lost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest

from vitlora.core.text import counted
from vitlora.export.params import Export, Format
from vitlora.model.params import Precision

HALF_ROUNDING = 0.02  # of the largest logit; measured 0.002 to 0.01 in float16
CUT = 6e-5  # confidences are written with four decimals
DIGITS = 6  # of shares
LOGIT_DIGITS = 3  # what lies below is rounding, another on each machine
NARROW = ("-fp16", "-int8")


@dataclass(frozen=True)
class Reference:
    """What the trained model says of the checked images.

    Attributes:
        logits: float32 (N, C), by PyTorch, over the temperature.
        actual: Class names (N,).
        predicted: By evaluate.
        confidence: By evaluate, of that class.
        rounding: Logits that lie closer together may change their order.
        tied: Images whose two largest logits do.
    """

    logits: NDArray[np.float32]
    actual: NDArray[np.str_]
    predicted: NDArray[np.str_]
    confidence: NDArray[np.float64]
    rounding: float
    tied: NDArray[np.bool_]


def reference(
    logits: NDArray[np.float32], rows: Sequence[Mapping[str, str]], kind: Precision, max_logit_diff: float
) -> Reference:
    """Return what the forms are compared with.

    Rounding moves logits by ``max_logit_diff``, or by a fiftieth of the largest where evaluate computed in half
    precision; there two forms may name different classes.

    Args:
        logits: Of the checked images, by PyTorch.
        rows: Of predictions.csv, of these images.
        kind: What evaluate computed in.
        max_logit_diff: As the parameter.
    """
    rounding = max_logit_diff if kind == "fp32" else HALF_ROUNDING * float(np.abs(logits).max())
    largest = np.sort(logits, axis=1)
    columns = (np.array([row[name] for row in rows]) for name in ("actual", "predicted", "confidence"))
    actual, predicted, confidence = columns
    tied = largest[:, -1] - largest[:, -2] < rounding
    return Reference(logits, actual, predicted, confidence.astype(np.float64), rounding, tied)


def measured(logits: NDArray[np.float32], names: NDArray[np.str_], known: Reference) -> dict[str, Any]:
    """Return a form's row: accuracy and agreement with evaluate's classes with Wilson intervals, and its logits'
    largest and mean difference to PyTorch's.
    """
    given = names[logits.argmax(axis=1)]
    apart = np.abs(logits - known.logits)
    return {
        **_share("accuracy", int((given == known.actual).sum()), len(given)),
        **_share("agreement", int((given == known.predicted).sum()), len(given)),
        "largest_logit_difference": round(float(apart.max()), LOGIT_DIGITS),
        "mean_logit_difference": round(float(apart.mean()), LOGIT_DIGITS),
    }


def _share(name: str, count: int, images: int) -> dict[str, Any]:
    interval = binomtest(count, images).proportion_ci(method="wilson")
    return {
        name: round(count / images, DIGITS),
        f"{name}_interval": [round(float(interval.low), DIGITS), round(float(interval.high), DIGITS)],
    }


def faults(
    form: Format | str, logits: NDArray[np.float32], names: NDArray[np.str_], known: Reference, export: Export
) -> list[str]:
    """Return what is wrong with a form, a line each; of one of full precision also a class, logit or confidence that
    is not the trained model's.
    """
    if not np.isfinite(logits).all():
        return [f"{form} gives logits that are no numbers; leave it out of export.formats"]
    given = names[logits.argmax(axis=1)]
    found = _fell(form, given, known, export.max_accuracy_drop)
    if form.endswith(NARROW):
        return found
    other = (given != known.predicted) & ~known.tied
    if other.any():
        found.append(
            f"{form} gives another class than evaluate on {other.sum()} of {counted(len(given), 'image')}; the rule: 0"
        )
    difference = float(np.abs(logits - known.logits).max())
    if difference > export.max_logit_diff:
        found.append(f"{form} differs by {difference:.2e} in a logit; the rule: {export.max_logit_diff:.2e} at most")
    moved = float(np.abs(softmax(logits, axis=1).max(axis=1) - known.confidence).max())
    most = known.rounding / 2 + CUT  # what such a rounding moves a confidence
    if moved > most:
        found.append(f"a confidence of {form} is {moved:.2e} from evaluate's; the rule: {most:.2e} at most")
    return found


def _fell(form: str, given: NDArray[np.str_], known: Reference, most: float) -> list[str]:
    broken, fixed = _changed(given, known)
    drop, least, _ = paired_drop(broken, fixed, len(given))
    if least <= most:
        return []
    return [
        f"{form} has {100 * drop:.1f} points of accuracy less than evaluate on {counted(len(given), 'image')}, at "
        f"least {100 * least:.1f} with 95 % confidence; the rule: export.max_accuracy_drop, {100 * most:g} points at "
        f"most. Leave {form} out of export.formats, or allow more"
    ]


def undecided(form: str, logits: NDArray[np.float32], names: NDArray[np.str_], known: Reference, most: float) -> str:
    """Return a line where a form lost more accuracy than is allowed, but on too few images to know; else nothing."""
    broken, fixed = _changed(names[logits.argmax(axis=1)], known)
    drop, least, top = paired_drop(broken, fixed, len(logits))
    if not least <= most < drop:
        return ""
    return (
        f"note: {form} has {broken} of {counted(len(logits), 'image')} wrong that evaluate has right, and {fixed} the "
        f"other way round: {100 * drop:.1f} points less ({100 * least:.1f} to {100 * top:.1f}), where {100 * most:g} "
        "are allowed. Too few to tell; export.max_check_images: null takes all"
    )


def _changed(given: NDArray[np.str_], known: Reference) -> tuple[int, int]:
    was, now = known.predicted == known.actual, given == known.actual
    return int((was & ~now).sum()), int((now & ~was).sum())


def paired_drop(broken: int, fixed: int, images: int) -> tuple[float, float, float]:
    """Return how much accuracy was lost on the same images, with its 95 % interval, as shares.

    Exact where the number of images on which only one of the two is right is taken as given: Clopper and Pearson's
    interval of the share of them that are broken.

    Args:
        broken: Images that only the first has right.
        fixed: Images that only the second has right.
        images: All.
    """
    changed = broken + fixed
    if not changed:
        return 0.0, 0.0, 0.0
    share = binomtest(broken, changed).proportion_ci()
    ends = ((2 * end - 1) * changed / images for end in (share.low, share.high))
    return (broken - fixed) / images, *map(float, ends)  # type: ignore[return-value]
