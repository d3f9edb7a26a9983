"""Intervals cover what they say, on simulated classifiers of many sizes; edges are no numbers out of nothing."""

import numpy as np
import pytest
from scipy.stats import binomtest
from simulated import classifier, draw

from vitlora.evaluate.intervals import FEWEST_FOR_F1, macro_intervals, mean_interval, wilson

SIZES = [(10, 36), (10, 200), (101, 20), (20, 2)]  # classes, images of each


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (3, 7), (0, 20), (20, 20), (358, 368), (25_000, 25_250)])
def test_wilson_is_scipys(right, images):
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert np.allclose(wilson(right, images), expected, atol=1e-12)


def test_wilson_takes_tables_and_knows_nothing_of_no_images():
    low, high = wilson([[3, 0], [0, 5]], [[4, 0], [9, 5]])
    assert low.shape == high.shape == (2, 2)
    assert np.isnan([low[0, 1], high[0, 1]]).all()
    assert (low[1, 0], high[1, 1]) == (0, 1)


@pytest.mark.parametrize("accuracy", [0.6, 0.9, 0.99])
@pytest.mark.parametrize(("classes", "images"), SIZES)
def test_macro_scores_are_covered_by_their_intervals(classes, images, accuracy):
    """The full table, of 400 to 2,000 tries a case, is benchmarks/results/coverage.json."""
    random = np.random.default_rng(1)
    tries, held = (60 if classes < 50 else 12), {"balanced_accuracy": 0, "macro_f1": 0}
    for _ in range(tries):
        shares, true = classifier(random, classes, accuracy)
        found = macro_intervals(draw(random, shares, images))
        for name, interval in found.items():
            assert (interval is None) == (name == "macro_f1" and images < FEWEST_FOR_F1)
            held[name] += interval is None or interval.low <= true[name] <= interval.high
    least = tries * 0.95 - 4 * np.sqrt(tries * 0.95 * 0.05)  # four standard deviations
    assert min(held.values()) >= least, held


def test_a_single_image_of_each_class_leaves_much_open():
    """Drawn anew it is as right or wrong as before, which made an interval of no width."""
    found = macro_intervals(np.eye(100, dtype=np.int64)[np.r_[:60, np.zeros(40, np.int64)]])
    low, high = found["balanced_accuracy"]
    assert low < 0.55
    assert high > 0.65
    assert found["macro_f1"] is None


def test_without_a_mistake_the_interval_is_that_of_the_accuracy():
    found = macro_intervals(np.diag([12, 30, 5]))
    expected = tuple(map(float, wilson(47, 47)))
    assert {tuple(interval) for interval in found.values()} == {expected}
    assert expected[0] < 0.93


def test_a_class_without_images_or_predictions_is_no_nan():
    counts = np.array([[5, 1, 2, 0], [0, 9, 1, 0], [0, 0, 0, 0], [3, 0, 0, 0]])
    for low, high in macro_intervals(counts).values():
        assert 0 < low < high < 1


def test_a_mean_is_covered():
    random = np.random.default_rng(3)
    held = 0
    for _ in range(200):
        low, high = mean_interval(random.gamma(0.5, 2.0, 300), seed=int(random.integers(1e9)))
        held += low <= 1.0 <= high
    assert 0.88 <= held / 200 <= 0.99


def test_equal_input_gives_equal_intervals():
    counts = np.array([[30, 4], [6, 25]])
    assert macro_intervals(counts) == macro_intervals(counts.copy())
    losses = np.linspace(0, 3, 77)
    assert mean_interval(losses) == mean_interval(losses.copy()) != mean_interval(losses, seed=1)
