"""How often the intervals of ``vitlora compare`` hold the truth, and how often its gate errs.

    PYTHONPATH=src python benchmarks/coverage.py --out benchmarks/results/coverage.json

Two models that are right on the same pictures but for a known share. Whatever follows from the two counts of pictures
that only one model has right is computed over all their values, without chance; figures of the classes, log loss and
Brier are drawn, with seeds. Takes eight minutes on one core. No model, no picture, no torch.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import gammaln

from vitlora.compare.paired import (
    FEWEST_DIFFERING,
    FEWEST_FOR_F1,
    ONE_SIDED,
    balanced_accuracy,
    bonett_price,
    macro_f1,
    mean_difference,
    mid_p_worse,
    pull_difference,
)
from vitlora.core.files import write_json

FEW = {"100 x 1": (100, 1), "100 x 2": (100, 2)}  # for figures of the classes
SIZES = {"10 x 36": (10, 36), "10 x 200": (10, 200), "101 x 20": (101, 20), "101 x 250": (101, 250)}
ACCURACIES = (0.6, 0.9, 0.99)
SHARED = 0.7  # share of pictures on which the second model answers as the first, whatever that is
REPEATS = {"100 x 1": 1000, "100 x 2": 1000, "10 x 36": 4000, "10 x 200": 2000, "101 x 20": 2000, "101 x 250": 1000}
MEANS = 1000  # test sets for the bootstrap
Hit = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figures = {
        "accuracy_difference_coverage": dict(accuracy_coverage()),
        "gate_false_alarms": dict(false_alarms()),
        "gate_power": dict(power()),
        "gate_undecided": dict(undecided()),
        "class_figures_coverage": dict(class_coverage()),
        "mean_difference_coverage": dict(mean_coverage()),
    }
    write_json(args.out, {**figures, "host": host()})


def exactly(pairs: int, differing: float, difference: float, hit: Hit) -> float:
    """Return how likely an event is that depends on the two counts alone.

    Args:
        pairs: Pictures.
        differing: True share of pictures that only one model has right.
        difference: True accuracy of the second minus the first.
        hit: Whether the event is there, given the numbers of broken and of fixed pictures.
    """
    spread = 8 * np.sqrt(pairs * differing) + 8
    first, last = max(0, int(pairs * differing - spread)), min(pairs, int(pairs * differing + spread))
    lost = (differing - difference) / 2 / differing
    total = 0.0
    for count in range(first, last + 1):
        weight = point(np.array([count]), pairs, differing)[0]
        if weight > 1e-10:
            broken = np.arange(count + 1.0)
            total += weight * float(point(broken, count, lost)[hit(broken, count - broken)].sum())
    return total


def point(hits: NDArray, trials: int, share: float) -> NDArray[np.float64]:
    """Return the binomial probability of each number of hits."""
    ways = gammaln(trials + 1) - gammaln(hits + 1) - gammaln(trials - hits + 1)
    return np.exp(ways + hits * np.log(share) + (trials - hits) * np.log1p(-share))


def accuracy_coverage() -> Iterator[tuple[str, float]]:
    """Yield the coverage of the 95 % interval of the difference of accuracies."""
    for size, (classes, each) in SIZES.items():
        pairs = classes * each
        for accuracy in ACCURACIES:
            differing, difference = shares(accuracy)
            yield told(
                f"{size}, accuracy {accuracy}, {differing * pairs:.0f} pictures differ",
                exactly(pairs, differing, difference, covers(pairs, difference)),
            )


def shares(accuracy: float) -> tuple[float, float]:
    """Return the true share of pictures that only one model has right, and the true difference, as ``outcomes`` has."""
    second = accuracy - 0.02 * (1 - accuracy)
    lost = (1 - SHARED) * accuracy * (1 - second)
    won = (1 - SHARED) * (1 - accuracy) * second
    return lost + won, won - lost


def covers(pairs: int, difference: float) -> Hit:
    """Return whether the interval holds the true difference."""
    return lambda broken, fixed: np.logical_and(
        bonett_price(broken, fixed, pairs)[0] <= difference, difference <= bonett_price(broken, fixed, pairs)[1]
    )


def worse(pairs: int) -> Hit:
    """Return whether the gate says worse: the upper end of the 90 % interval lies below nought."""
    return lambda broken, fixed: bonett_price(broken, fixed, pairs, ONE_SIDED)[1] < 0


def false_alarms() -> Iterator[tuple[str, float]]:
    """Yield how often two equally good models are told apart, by the gate and by McNemar's mid-p."""
    for pairs in (360, 2000, 25250):
        for differing in (0.01, 0.05, 0.12, 0.3):
            about = f"{pairs} pictures, {differing:.0%} differ"
            yield told(about, exactly(pairs, differing, 0.0, worse(pairs)))
            yield told(
                f"{about}, mid-p",
                exactly(pairs, differing, 0.0, lambda broken, fixed: mid_p_worse(broken, fixed) <= 0.05),
            )


def power() -> Iterator[tuple[str, float]]:
    """Yield how often a true drop of two points at 2,000 pictures is called worse."""
    for differing in (0.03, 0.05, 0.08, 0.10, 0.12, 0.15, 0.20, 0.30):
        yield told(f"2000 pictures, {differing:.0%} differ", exactly(2000, differing, -0.02, worse(2000)))


def undecided() -> Iterator[tuple[str, float]]:
    """Yield how often two equally good models stay undecided: neither worse, nor a drop of half a point ruled out."""
    for pairs in (360, 2000, 25250):
        for differing in (0.03, 0.12):
            decided = exactly(pairs, differing, 0.0, settled(pairs))
            yield told(f"{pairs} pictures, {differing:.0%} differ, margin 0.5 points", 1 - decided)


def settled(pairs: int) -> Hit:
    """Return whether the gate says worse or not worse, with its default margin and tolerance."""
    return lambda broken, fixed: np.logical_or(
        bonett_price(broken, fixed, pairs, ONE_SIDED)[0] > -0.005, worse(pairs)(broken, fixed)
    )


def class_coverage() -> Iterator[tuple[str, float]]:
    """Yield the coverage of the intervals of the differences of balanced accuracy and macro-F1.

    Test sets in which fewer pictures differ than ``compare`` asks for are left out, as no interval is shown.
    """
    for size, (classes, each) in {**FEW, **SIZES}.items():
        figures = {"balanced accuracy": balanced_accuracy}
        if each >= FEWEST_FOR_F1:
            figures["macro-F1"] = macro_f1
        actual = np.repeat(np.arange(classes), each)
        for accuracy in ACCURACIES:
            rng = np.random.default_rng(1)
            truth = -(1 - SHARED) * 0.02 * (1 - accuracy)  # of both figures: classes are alike
            hits, shown = dict.fromkeys(figures, 0), 0
            for _ in range(REPEATS[size]):
                sides = outcomes(rng, actual, classes, accuracy)
                if np.count_nonzero((sides[0] == actual) != (sides[1] == actual)) < FEWEST_DIFFERING:
                    continue
                shown += 1
                for name, figure in figures.items():
                    (a, pull_a), (b, pull_b) = (figure(actual, side, classes) for side in sides)
                    found = pull_difference(b - a, pull_b - pull_a, actual, classes)
                    hits[name] += found.low <= truth <= found.high
            for name, count in hits.items():
                if shown > REPEATS[size] / 4:
                    yield told(f"{name}, {size}, accuracy {accuracy}, {shown} test sets", count / shown)


def outcomes(
    rng: np.random.Generator, actual: NDArray[np.int64], classes: int, accuracy: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw what two models answer, the second a little worse; each class has two others that it is taken for."""
    first = answers(rng, actual, classes, accuracy)
    second = answers(rng, actual, classes, accuracy - 0.02 * (1 - accuracy))
    return first, np.where(rng.random(len(actual)) < SHARED, first, second)


def answers(rng: np.random.Generator, actual: NDArray[np.int64], classes: int, accuracy: float) -> NDArray[np.int64]:
    """Draw one model's answers."""
    wrong = (actual + rng.integers(1, 3, len(actual))) % classes
    return np.where(rng.random(len(actual)) < accuracy, actual, wrong)


def mean_coverage() -> Iterator[tuple[str, float]]:
    """Yield the coverage of the bootstrap of the mean difference of log loss and of Brier."""
    for size, (classes, each) in SIZES.items():
        if classes * each > 5000:
            continue  # minutes, and easier than the smaller ones
        for accuracy in ACCURACIES:
            rng = np.random.default_rng(2)
            truth = losses(rng, 400_000, accuracy).mean(axis=1)
            hits = np.zeros(2)
            for seed in range(MEANS):
                drawn = losses(rng, classes * each, accuracy)
                for row, (values, mean) in enumerate(zip(drawn, truth, strict=True)):
                    found = mean_difference(values, seed)
                    hits[row] += found.low <= mean <= found.high
            for name, count in zip(("log loss", "Brier"), hits, strict=True):
                yield told(f"{name}, {size}, accuracy {accuracy}", float(count) / MEANS)


def losses(rng: np.random.Generator, count: int, accuracy: float) -> NDArray[np.float64]:
    """Draw differences of log loss and Brier, (2, N), of two models that share much of what they see."""
    margin = rng.normal(scipy.special.ndtri(accuracy) * 2, 2, count)
    p = 1 / (1 + np.exp(-margin - rng.normal(0, 0.5, (2, count))))
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return np.stack([-np.log(p[1]) + np.log(p[0]), 2 * ((1 - p[1]) ** 2 - (1 - p[0]) ** 2)])


def told(about: str, share: float) -> tuple[str, float]:
    """Print a figure and return it, rounded."""
    print(f"{about}: {share:.4f}", flush=True)
    return about, round(share, 4)


def host() -> dict[str, str]:
    """Return versions and commit; no device matters here."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"python": sys.version.split()[0], "numpy": np.__version__, "scipy": scipy.__version__, "commit": commit}


if __name__ == "__main__":
    main()
