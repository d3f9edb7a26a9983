"""Two models on the same pictures: everything that ``vitlora compare A B`` tells, as plain data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitlora.compare.paired import (
    FEWEST_DIFFERING,
    FEWEST_FOR_F1,
    ONE_SIDED,
    Interval,
    accuracy_difference,
    balanced_accuracy,
    bonett_price,
    false_discovery,
    macro_f1,
    mean_difference,
    mid_p,
    pull_difference,
    smallest_visible_drop,
)
from vitlora.compare.pairs import Pairs, pair, pairing_notes
from vitlora.compare.runs import Logits, Run
from vitlora.evaluate.calibration import brier_scores, log_losses
from vitlora.evaluate.intervals import wilson

Ints = NDArray[np.int64]
Rights = NDArray[np.bool_]
SEED = "train.seed"
ABSENT = "(absent)"


class Share(NamedTuple):
    """A count of pictures as a share, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float


class Figure(NamedTuple):
    """A score of both models; ``difference`` is second minus first, None where no interval would hold."""

    name: str
    a: float
    b: float
    difference: Interval | None


class Change(NamedTuple):
    """A picture that only one of the two models has right."""

    path: str
    actual: str
    a: str
    b: str


class ClassDelta(NamedTuple):
    """A class's share of right pictures in both; ``q`` is mid-p raised for the number of classes."""

    name: str
    pictures: int
    a: float
    b: float
    low: float
    high: float
    q: float


@dataclass(frozen=True)
class Comparison:
    """What is known of two models; shares from 0 to 1, differences second minus first.

    Args:
        a, b: Labels.
        commits: Of both; None for a folder.
        pictures: Compared.
        paired_by: `sha256` or `path`.
        accuracy: Of each.
        difference: Of accuracies, Bonett and Price's 95 % interval.
        one_sided: The same at 90 %: each end alone is passed in one of twenty test sets.
        p: McNemar's two-sided mid-p.
        margin: A difference below it counts as none.
        verdict: better, worse, equivalent or undecided: the second against the first.
        same: Whether the two answer the same, equally surely, on every picture; then they are equivalent.
        visible_drop: Smallest drop that would have shown in 80 of 100 such test sets.
        figures: Other scores.
        not_compared: Why there are no log loss and Brier; empty where there are.
        fixed, broken: Pictures that only the second, or only the first, has right.
        classes: Those that changed most surely first.
        params: Dotted key, first's value, second's.
        cost: Name, first's value, second's; None where unknown.
        notes: What the reader must know.
    """

    a: str
    b: str
    commits: tuple[str | None, str | None]
    pictures: int
    paired_by: str
    accuracy: tuple[Share, Share]
    difference: Interval
    one_sided: Interval
    p: float
    margin: float
    verdict: str
    same: bool
    visible_drop: float
    figures: list[Figure]
    not_compared: str
    fixed: list[Change]
    broken: list[Change]
    classes: list[ClassDelta]
    params: list[tuple[str, Any, Any]]
    cost: list[tuple[str, float | None, float | None]]
    notes: list[str]


@dataclass(frozen=True)
class Shared:
    """The pictures of both, as numbers: labels and answers, int64 (M,), positions in ``names``."""

    names: list[str]
    actual: Ints
    a: Ints
    b: Ints

    @property
    def right(self) -> tuple[Rights, Rights]:
        """Which pictures each model has right."""
        return self.a == self.actual, self.b == self.actual


def compare_two(first: Run, second: Run, margin: float) -> Comparison:
    """Compare two runs on the pictures that both were scored on.

    Args:
        first, second: The second is judged against the first.
        margin: Difference of accuracy that counts as none, as a share.

    Raises:
        VitloraError: They share too few pictures.
    """
    pairs = pair([first, second])
    shared = numbered(pairs, first, second)
    right_a, right_b = shared.right
    lost, won = np.flatnonzero(right_a & ~right_b), np.flatnonzero(right_b & ~right_a)
    counts = len(lost), len(won), len(right_a)
    difference, one_sided = accuracy_difference(*counts), accuracy_difference(*counts, ONE_SIDED)
    same = answer_the_same(pairs, first, second)
    losses, why = loss_figures(pairs, shared, first, second)
    return Comparison(
        a=first.label,
        b=second.label,
        commits=(first.commit, second.commit),
        pictures=len(right_a),
        paired_by=pairs.by,
        accuracy=(share(right_a), share(right_b)),
        difference=difference,
        one_sided=one_sided,
        p=float(mid_p(len(lost), len(won))),
        margin=margin,
        verdict="equivalent" if same else verdict(difference, one_sided, margin),
        same=same,
        visible_drop=smallest_visible_drop(*counts),
        figures=[*class_figures(shared), *losses],
        not_compared=why,
        fixed=sorted(_changes(won, pairs, first, second), key=_by_class),
        broken=sorted(_changes(lost, pairs, first, second), key=_by_class),
        classes=class_deltas(shared),
        params=differing(first.params, second.params),
        cost=list(_costs(first, second)),
        notes=[*pairing_notes(pairs, [first, second]), *_notes(first, second), *first.notes, *second.notes],
    )


def answer_the_same(pairs: Pairs, first: Run, second: Run) -> bool:
    """Whether two runs give equal logits for every picture of both; equal confidences where logits are not here.

    Confidences have four decimals: where all are 1.0000, they tell nothing.
    """
    rows_a, rows_b = pairs.rows
    if any(pairs.others) or pairs.relabelled:
        return False
    if first.logits and second.logits:
        equal = first.logits.class_names == second.logits.class_names
        return equal and np.array_equal(first.logits.values[rows_a], second.logits.values[rows_b])
    sides = (
        [(run.answers.predicted[row], run.answers.confidence[row]) for row in rows.tolist()]
        for run, rows in ((first, rows_a), (second, rows_b))
    )
    a, b = sides
    return a == b and any(sure != "1.0000" for _, sure in a)


def verdict(difference: Interval, one_sided: Interval, margin: float) -> str:
    """Return better, worse, equivalent or undecided.

    Equivalent: the 90 % interval lies inside the margin, which is two one-sided tests at 5 %. Better or worse: the 95 %
    interval lies on one side of nought.
    """
    if -margin < one_sided.low and one_sided.high < margin:
        return "equivalent"
    if difference.low > 0:
        return "better"
    return "worse" if difference.high < 0 else "undecided"


def numbered(pairs: Pairs, first: Run, second: Run) -> Shared:
    """Return labels and answers of the shared pictures as numbers."""
    rows_a, rows_b = pairs.rows.tolist()
    actual = [first.answers.actual[row] for row in rows_a]
    said_a = [first.answers.predicted[row] for row in rows_a]
    said_b = [second.answers.predicted[row] for row in rows_b]
    names = sorted({*actual, *said_a, *said_b})
    place = {name: number for number, name in enumerate(names)}
    columns = (np.array([place[name] for name in column], np.int64) for column in (actual, said_a, said_b))
    return Shared(names, *columns)


def share(right: Rights) -> Share:
    """Return the share of pictures that are right, with its interval."""
    low, high = wilson(np.count_nonzero(right), len(right))
    return Share(float(right.mean()), float(low), float(high))


def class_figures(shared: Shared) -> Iterator[Figure]:
    """Yield balanced accuracy and macro-F1 of both, over the classes that have shared pictures."""
    right_a, right_b = shared.right
    enough = np.count_nonzero(right_a != right_b) >= FEWEST_DIFFERING
    single = len(shared.actual) < FEWEST_FOR_F1 * len(np.unique(shared.actual))
    for name, figure in (("balanced accuracy", balanced_accuracy), ("macro-F1", macro_f1)):
        (a, pull_a), (b, pull_b) = (figure(shared.actual, said, len(shared.names)) for said in (shared.a, shared.b))
        found = pull_difference(b - a, pull_b - pull_a, shared.actual, len(shared.names))
        yield Figure(name, a, b, found if enough and not (single and figure is macro_f1) else None)


def loss_figures(pairs: Pairs, shared: Shared, first: Run, second: Run) -> tuple[list[Figure], str]:
    """Return log loss and Brier score of both, or none and why."""
    sides = []
    for run, rows in zip((first, second), pairs.rows, strict=True):
        if run.logits is None:
            return [], run.without_logits
        unknown = sorted({shared.names[label] for label in shared.actual} - set(run.logits.class_names))
        if unknown:
            return [], f"{run.label} does not know the class {unknown[0]}"
        sides.append(_losses(run.logits, rows, shared))
    return [
        Figure(name, float(a.mean()), float(b.mean()), mean_difference(b - a))
        for name, a, b in zip(("log loss", "Brier score"), *sides, strict=True)
    ], ""


def _losses(logits: Logits, rows: Ints, shared: Shared) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    place = {name: number for number, name in enumerate(logits.class_names)}
    labels = np.array([place.get(name, -1) for name in shared.names], np.int64)[shared.actual]
    return log_losses(logits.values[rows], labels), brier_scores(logits.values[rows], labels)


def _changes(places: Ints, pairs: Pairs, first: Run, second: Run) -> Iterator[Change]:
    a, b = first.answers, second.answers
    for row_a, row_b in pairs.rows[:, places].T.tolist():
        yield Change(b.paths[row_b], b.actual[row_b], a.predicted[row_a], b.predicted[row_b])


def _by_class(change: Change) -> tuple[str, str]:
    return change.actual, change.path


def class_deltas(shared: Shared) -> list[ClassDelta]:
    """Return each class that has pictures; those that changed most surely first."""
    right_a, right_b = shared.right
    present = np.unique(shared.actual)
    counts = [
        np.bincount(shared.actual[chosen], minlength=len(shared.names))[present]
        for chosen in (np.ones_like(right_a), right_a, right_b, right_a & ~right_b, right_b & ~right_a)
    ]
    pictures, hits_a, hits_b, broken, fixed = counts
    low, high = bonett_price(broken, fixed, pictures)
    raised = false_discovery(mid_p(broken, fixed))
    columns = (hits_a / pictures, hits_b / pictures, low, high, raised)
    rows = zip(present.tolist(), pictures.tolist(), *(column.tolist() for column in columns), strict=True)
    found = [ClassDelta(shared.names[label], *rest) for label, *rest in rows]
    return sorted(found, key=lambda delta: (delta.q, -abs(delta.b - delta.a), delta.name))


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return dotted key and both values of parameters that are not equal; one that is absent counts as null."""
    if not first or not second:
        return []
    keys = [key for key in sorted({**first, **second}) if first.get(key) != second.get(key)]
    return [(key, first.get(key, ABSENT), second.get(key, ABSENT)) for key in keys]


def _costs(first: Run, second: Run) -> Iterator[tuple[str, float | None, float | None]]:
    a, b = first.cost, second.cost
    yield "trained parameters", a.trainable_parameters, b.trainable_parameters
    yield "bytes of models/adapter", a.adapter_bytes, b.adapter_bytes
    yield "bytes of models/export", a.export_bytes, b.export_bytes
    for stage in dict.fromkeys([*a.seconds, *b.seconds]):
        yield f"seconds of {stage}", a.seconds.get(stage), b.seconds.get(stage)


def _notes(first: Run, second: Run) -> Iterator[str]:
    keys = [key for key, *_ in differing(first.params, second.params)]
    if keys == [SEED]:
        yield f"only {SEED} differs: what differs is what chance in training does"
    elif keys:
        yield (
            "one seed each: this compares two models, not two recipes. `vitlora compare A1,A2 B1,B2` takes runs of "
            "several seeds"
        )
    a, b = first.cost.machines, second.cost.machines
    other = next((stage for stage in a if stage in b and a[stage] != b[stage]), None)
    if other:
        yield f"times are of two machines: {other} ran on {a[other]}, and on {b[other]}"
    if not first.params or not second.params:
        lacking = " and ".join(run.label for run in (first, second) if not run.params)
        yield f"{lacking}: no params.yaml, so it is not known what differs"
