"""How often the 95 % intervals of a run's own scores (metrics/evaluate/intervals.csv) hold the truth.

    PYTHONPATH=src python benchmarks/intervals.py --out benchmarks/results/intervals.json

Simulated classifiers, whose true scores are known (tests/support/simulated.py): classes of differing accuracy, each
confused with a few others. Shares are computed over all outcomes, without chance; macro scores and means of losses are
drawn. No model, no picture. Twenty minutes on one core.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.stats import binom

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from coverage import host
from simulated import classifier, draw, scored

from vitlora.core.files import write_json
from vitlora.evaluate.calibration import brier_scores, log_losses
from vitlora.evaluate.intervals import macro_intervals, mean_interval, wilson

FEW = {"20 x 2": (20, 2), "20 x 4": (20, 4)}  # for macro scores, which are drawn
SIZES = {"10 x 36": (10, 36), "10 x 200": (10, 200), "101 x 20": (101, 20), "101 x 250": (101, 250)}
ACCURACIES = (0.6, 0.9, 0.99)
REPEATS = {"20 x 2": 2000, "20 x 4": 2000, "10 x 36": 2000, "10 x 200": 1000, "101 x 20": 600, "101 x 250": 400}
MEANS = 1000


def main() -> None:
    """Compute, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figures = {
        "share_of_all": dict(shares()),
        "share_of_a_class": dict(class_shares()),
        "macro_scores": dict(macro_scores()),
        "losses": dict(losses()),
    }
    write_json(args.out, {**figures, "repeats": REPEATS, "host": host()})


def wilson_coverage(images: int, share: float) -> float:
    """Return how often Wilson's interval holds a share, summed over all counts."""
    counts = np.arange(images + 1)
    low, high = wilson(counts, np.full(images + 1, images))
    return float(binom.pmf(counts, images, share)[(low <= share) & (share <= high)].sum())


def shares() -> Iterator[tuple[str, float]]:
    """Yield the coverage of accuracy."""
    for name, (classes, each) in SIZES.items():
        for accuracy in ACCURACIES:
            yield said(f"{name}, accuracy {accuracy}", wilson_coverage(classes * each, accuracy))


def class_shares() -> Iterator[tuple[str, float]]:
    """Yield the coverage of a class's recall: the mean over recalls that lie around the accuracy."""
    for name, (_, each) in SIZES.items():
        for accuracy in ACCURACIES:
            around = np.random.default_rng(0).beta(accuracy * 20, (1 - accuracy) * 20, 400)
            yield said(f"{name}, accuracy {accuracy}", float(np.mean([wilson_coverage(each, p) for p in around])))


def macro_scores() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the coverage of the macro scores, where they have an interval."""
    for name, (classes, each) in {**FEW, **SIZES}.items():
        for accuracy in ACCURACIES:
            random, held = (
                np.random.default_rng(0),
                dict.fromkeys(("balanced_accuracy", "macro_f1"), 0),
            )
            for seed in range(REPEATS[name]):
                rows, true = classifier(random, classes, accuracy)
                found = macro_intervals(draw(random, rows, each), seed)
                for score, interval in found.items():
                    if interval:
                        held[score] += interval.low <= true[score] <= interval.high
                    else:
                        held.pop(score, None)
            rates = {score: round(float(count / REPEATS[name]), 4) for score, count in held.items()}
            print(f"macro, {name}, accuracy {accuracy}: {rates}", flush=True)
            yield f"{name}, accuracy {accuracy}", rates


def losses() -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the coverage of log loss and Brier score of a calibrated classifier, whose mean is known from many."""
    for classes, each in SIZES.values():
        random, images, held = np.random.default_rng(0), min(classes * each, 2500), {"log_loss": 0, "brier": 0}
        labels, logits = scored(random, 200_000, classes)
        every = {"log_loss": log_losses(logits, labels), "brier": brier_scores(logits, labels)}
        for seed in range(MEANS):
            chosen = random.integers(0, len(labels), images)
            for score, values in every.items():
                low, high = mean_interval(values[chosen], seed)
                held[score] += low <= values.mean() <= high
        rates = {score: round(float(count / MEANS), 4) for score, count in held.items()}
        print(f"losses, {images} images of {classes} classes: {rates}", flush=True)
        yield f"{images} images of {classes} classes", rates


def said(name: str, rate: float) -> tuple[str, float]:
    """Print a figure and return it, rounded."""
    print(f"{name}: {rate:.4f}", flush=True)
    return name, round(rate, 4)


if __name__ == "__main__":
    main()
