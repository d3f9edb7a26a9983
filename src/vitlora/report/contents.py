"""One run's results as the page shows them: read from files, arranged, no model needed."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from vitlora.compare.revisions import read_commit
from vitlora.compare.runs import MAIN, RAN, Run, parse_json
from vitlora.evaluate.intervals import wilson

EVALUATE, TRAIN = "metrics/evaluate", "metrics/train"
TABLES = {
    "intervals": f"{EVALUATE}/intervals.csv",
    "classes": f"{EVALUATE}/per_class.csv",
    "reliability": f"{EVALUATE}/reliability.csv",
    "epochs": f"{TRAIN}/plots/epochs.csv",
    "steps": f"{TRAIN}/plots/steps.csv",
}
FILES = (*TABLES.values(), *MAIN.values(), *RAN.values())
TOP = 3  # classes shown of a picture
PAIRS = 12  # of classes that are confused

Row = Mapping[str, str]
Ints = NDArray[np.int64]


class Guess(NamedTuple):
    """A class and its share."""

    name: str
    share: float


class Mistake(NamedTuple):
    """A test picture that is got wrong.

    Args:
        row: In the answers.
        path, actual, predicted: As predictions.csv has them.
        digest: Of the picture's file; empty in old results.
        guesses: The likeliest classes, and the true one if it is none of them; empty where there are no logits.
        true_share: Of the true class; None where there are no logits.
    """

    row: int
    path: str
    actual: str
    predicted: str
    digest: str
    guesses: list[Guess]
    true_share: float | None


class Confused(NamedTuple):
    """Pictures of one class that were taken for another: how many, of how many, and rows of them."""

    actual: str
    predicted: str
    pictures: int
    images: int
    rows: list[int]


@dataclass(frozen=True)
class Contents:
    """Everything that the page says of one run.

    Args:
        run: As ``compare`` reads it.
        class_names: Position = label.
        confusion: int64 (C, C), rows true.
        tables: Rows of the files in ``TABLES``; empty where a run has none.
        trained: metrics/train/metrics.json.
        data: metrics/preprocess.json.
        ran: What ran, by stage, where the record belongs to these results.
        mistakes: Worst first.
        confused: Pairs of classes, the commonest first.
    """

    run: Run
    class_names: list[str]
    confusion: Ints
    tables: dict[str, list[Row]]
    trained: dict[str, Any]
    data: dict[str, Any]
    ran: dict[str, dict[str, Any]]
    mistakes: list[Mistake]
    confused: list[Confused]

    @property
    def right(self) -> int:
        """Test pictures that are right."""
        return int(np.trace(self.confusion))

    @property
    def images(self) -> int:
        """Test pictures."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> tuple[float, float, float]:
        """Share of right pictures with its 95 % interval."""
        low, high = wilson(self.right, self.images)
        return self.right / self.images, float(low), float(high)


def read_contents(run: Run, folder: Path) -> Contents:
    """Read the rest of a run's files and arrange them.

    Args:
        run: As ``load_run`` gives it.
        folder: Where its files lie if it is no commit.

    Raises:
        VitloraError: A file can't be read.
    """
    if run.commit:
        files = read_commit(run.commit, FILES)
    else:
        files = {path: (folder / path).read_bytes() for path in FILES if (folder / path).is_file()}
    tables = {name: read_table(files.get(path, b"")) for name, path in TABLES.items()}
    answers = run.answers
    names = [row["class"] for row in tables["classes"]] or sorted({*answers.actual, *answers.predicted})
    place = {name: label for label, name in enumerate(names)}
    actual, predicted = (
        np.array([place[name] for name in column], np.int64) for column in (answers.actual, answers.predicted)
    )
    confusion = np.zeros((len(names), len(names)), np.int64)
    np.add.at(confusion, (actual, predicted), 1)
    return Contents(
        run=run,
        class_names=names,
        confusion=confusion,
        tables=tables,
        trained=parse_json(files, MAIN["train"], run.name),
        data=parse_json(files, MAIN["preprocess"], run.name),
        ran={stage: parse_json(files, path, run.name) for stage, path in RAN.items() if path in files},
        mistakes=list(_mistakes(run, np.flatnonzero(actual != predicted))),
        confused=list(_confused(names, confusion, actual, predicted)),
    )


def read_table(content: bytes) -> list[Row]:
    """Return the rows of a CSV file of ours; none of an empty one."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


def _mistakes(run: Run, wrong: Ints) -> Iterator[Mistake]:
    """Yield the mistakes, those with the smallest share of the true class first."""
    answers, logits = run.answers, run.logits
    if logits is None:
        for row in wrong.tolist():
            yield _mistake(run, row, [], None)
        return
    shares = softmax(logits.values[wrong].astype(np.float64), axis=1)
    place = {name: label for label, name in enumerate(logits.class_names)}
    true = np.array([shares[at, place[answers.actual[row]]] for at, row in enumerate(wrong)])
    for at in np.argsort(true, kind="stable").tolist():
        best = np.argsort(-shares[at], kind="stable")[:TOP]
        actual = place[answers.actual[row := int(wrong[at])]]
        best = best if actual in best else np.array([*best, actual])
        guesses = [Guess(logits.class_names[label], float(shares[at, label])) for label in best]
        yield _mistake(run, row, guesses, float(true[at]))


def _mistake(run: Run, row: int, guesses: list[Guess], share: float | None) -> Mistake:
    answers = run.answers
    digest = answers.digests[row] if answers.digests else ""
    return Mistake(row, answers.paths[row], answers.actual[row], answers.predicted[row], digest, guesses, share)


def _confused(names: Sequence[str], confusion: Ints, actual: Ints, predicted: Ints) -> Iterator[Confused]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    for a, b in zip(*np.unravel_index(order, wrong.shape), strict=True):
        if wrong[a, b]:
            rows = np.flatnonzero((actual == a) & (predicted == b)).tolist()
            yield Confused(names[a], names[b], int(wrong[a, b]), int(confusion[a].sum()), rows)
