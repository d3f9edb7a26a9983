"""Statistics of two models on the same pictures: against references, and whether they keep their promises."""

import importlib.util

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import balanced_accuracy_score, f1_score
from tiny import ROOT

from vitlora.compare import paired

SPEC = importlib.util.spec_from_file_location("coverage_figures", ROOT / "benchmarks/coverage.py")
coverage = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(coverage)

COUNTS = [(0, 0), (1, 0), (0, 1), (7, 1), (1, 7), (6, 16), (30, 30), (211, 180), (900, 1100)]


@pytest.mark.parametrize(("broken", "fixed"), COUNTS)
def test_mid_p_is_the_exact_tests_p_less_half_the_probability_of_what_was_seen(broken, fixed):
    total = broken + fixed
    seen = scipy.stats.binom.pmf(broken, total, 0.5)
    one_sided = scipy.stats.binomtest(fixed, total, alternative="less").pvalue if total else 1.0
    assert paired.mid_p_worse(broken, fixed) == pytest.approx(one_sided - seen / 2, rel=1e-9)
    both = scipy.stats.binomtest(fixed, total).pvalue if total else 1.0
    expected = 1.0 if broken == fixed else both - seen
    assert paired.mid_p(broken, fixed) == pytest.approx(expected, rel=1e-9)


def test_published_examples_of_the_mid_p_and_of_the_interval_come_out():
    """Counts and mid-p of Fagerland, Lydersen and Laake (2013): airway hyper-responsiveness 1, 7 of 21; complete
    response 6, 16 of 161. The intervals are Bonett and Price's formula worked out by hand.
    """
    assert paired.mid_p([1, 6], [7, 16]) == pytest.approx([0.0391, 0.0347], abs=5e-5)
    low, high = paired.bonett_price([7, 16], [1, 6], [21, 161])
    assert low == pytest.approx([-0.5084, -0.1195], abs=1e-4)
    assert high == pytest.approx([-0.0134, -0.0032], abs=1e-4)


def test_an_interval_of_no_pictures_that_differ_has_a_width_and_ends_stay_in_range():
    assert paired.accuracy_difference(0, 0, 50) == pytest.approx((0, -0.0533, 0.0533), abs=5e-4)
    assert paired.accuracy_difference(0, 3, 3) == pytest.approx((1, -0.101, 1), abs=5e-3)


SIZES = [(classes * each, accuracy) for classes, each in coverage.SIZES.values() for accuracy in (0.6, 0.9, 0.99)]


@pytest.mark.parametrize(("pairs", "accuracy"), SIZES)
def test_the_interval_of_the_difference_holds_the_truth_in_95_of_100_test_sets(pairs, accuracy):
    """Two pictures that differ, of 360, can't: the interval is then too wide, never too narrow."""
    differing, difference = coverage.shares(accuracy)
    found = coverage.exactly(pairs, differing, difference, coverage.covers(pairs, difference))
    assert 0.947 <= found <= (0.97 if differing * pairs > 5 else 1.0)


@pytest.mark.parametrize("pairs", [100, 360, 2000, 25250])
@pytest.mark.parametrize("differing", [0.01, 0.03, 0.12, 0.3])
def test_the_gate_calls_an_equal_model_worse_in_at_most_five_of_a_hundred_test_sets(pairs, differing):
    assert coverage.exactly(pairs, differing, 0.0, coverage.worse(pairs)) <= 0.05


@pytest.mark.parametrize("differing", [0.03, 0.06, 0.1, 0.12])
def test_the_gate_sees_a_drop_of_two_points_at_2000_pictures_in_eighty_of_a_hundred_test_sets(differing):
    assert coverage.exactly(2000, differing, -0.02, coverage.worse(2000)) >= 0.8


def test_drawn_test_sets_agree_with_what_was_computed():
    rng = np.random.default_rng(3)
    broken, fixed, _ = rng.multinomial(2000, [0.07, 0.05, 0.88], 20_000).T
    low, high = paired.bonett_price(broken, fixed, 2000)
    held = np.mean((low <= -0.02) & (high >= -0.02))
    assert held == pytest.approx(coverage.exactly(2000, 0.12, -0.02, coverage.covers(2000, -0.02)), abs=0.005)
    assert 0.93 <= held <= 0.97
    called = np.mean(paired.bonett_price(broken, fixed, 2000, paired.ONE_SIDED)[1] < 0)
    assert called == pytest.approx(coverage.exactly(2000, 0.12, -0.02, coverage.worse(2000)), abs=0.01)


@pytest.mark.parametrize(("pairs", "differing"), [(360, 0.1), (2000, 0.05), (2000, 0.2), (25250, 0.1)])
def test_the_smallest_visible_drop_is_seen_in_eighty_of_a_hundred_test_sets(pairs, differing):
    each = round(pairs * differing / 2)
    drop = paired.smallest_visible_drop(each, each, pairs)
    assert coverage.exactly(pairs, differing, -drop, coverage.worse(pairs)) == pytest.approx(0.8, abs=0.03)
    assert paired.pictures_needed(drop, differing) == pytest.approx(pairs, rel=0.05)


def test_a_tolerance_and_more_pictures_that_differ_hide_larger_drops():
    base = paired.smallest_visible_drop(50, 50, 2000)
    assert paired.smallest_visible_drop(50, 50, 2000, tolerance=0.01) == pytest.approx(base + 0.01, abs=1e-3)
    assert paired.smallest_visible_drop(100, 100, 2000) > base
    assert 0 < paired.smallest_visible_drop(0, 0, 2000) < 0.01
    assert 0 < paired.smallest_visible_drop(0, 0, 20) <= 1


def many_classes(seed, classes=12, count=900):
    rng = np.random.default_rng(seed)
    actual = rng.integers(0, classes, count)
    return actual, coverage.answers(rng, actual, classes, 0.8)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("seed", range(4))
def test_figures_of_the_classes_are_scikit_learns(seed):
    actual, predicted = many_classes(seed)
    actual[actual == 5] = 4  # a class without pictures, that is predicted all the same
    assert paired.balanced_accuracy(actual, predicted, 12)[0] == pytest.approx(
        balanced_accuracy_score(actual, predicted)
    )
    present = np.unique(actual)
    expected = f1_score(actual, predicted, labels=present, average="macro")
    assert paired.macro_f1(actual, predicted, 12)[0] == pytest.approx(expected)


@pytest.mark.parametrize("figure", [paired.balanced_accuracy, paired.macro_f1])
def test_pulls_tell_what_a_little_more_weight_of_a_picture_does(figure):
    """Every picture counts a thousand times; one of them once more."""
    actual, predicted = many_classes(1, classes=4, count=60)
    value, pull = figure(np.repeat(actual, 1000), np.repeat(predicted, 1000), 4)
    within = figure(actual, predicted, 4)[1]
    within = within - (np.bincount(actual, within) / np.bincount(actual))[actual]
    for place in (0, 7, 21, 40):
        other = np.flatnonzero(actual == actual[place])[-1]  # the class keeps its number of pictures
        counts = np.full(60, 1000)
        counts[place], counts[other] = counts[place] + 1, counts[other] - 1
        moved = figure(np.repeat(actual, counts), np.repeat(predicted, counts), 4)[0]
        assert (moved - value) * 1000 == pytest.approx(within[place] - within[other], abs=1e-3)
    assert pull.shape == (60_000,)


def test_the_interval_of_a_macro_f1_difference_is_that_of_drawing_pictures_anew():
    rng = np.random.default_rng(5)
    actual = np.repeat(np.arange(8), 60)
    first, second = coverage.outcomes(rng, actual, 8, 0.7)
    (a, pull_a), (b, pull_b) = (paired.macro_f1(actual, side, 8) for side in (first, second))
    found = paired.pull_difference(b - a, pull_b - pull_a, actual, 8)
    drawn = []
    for _ in range(1500):
        rows = (rng.integers(0, 60, (8, 60)) + 60 * np.arange(8)[:, None]).ravel()
        drawn.append(paired.macro_f1(actual, second[rows], 8)[0] - paired.macro_f1(actual, first[rows], 8)[0])
    assert (found.high - found.low) / 2 / 1.96 == pytest.approx(np.std(drawn), rel=0.1)


@pytest.mark.parametrize("each", [1, 4])
def test_classes_of_one_picture_or_all_alike_leave_the_difference_open(each):
    """Within them nothing varies, which made an interval of no width."""
    actual = np.repeat(np.arange(30), each)
    first = np.where(actual < 20, actual, 0)
    second = np.where(actual >= 10, actual, 29)
    (a, pull_a), (b, pull_b) = (paired.balanced_accuracy(actual, side, 30) for side in (first, second))
    found = paired.pull_difference(b - a, pull_b - pull_a, actual, 30)
    assert found.low < found.value - 0.05 < found.value + 0.05 < found.high


@pytest.mark.parametrize("seed", range(5))
def test_raised_p_values_are_scipys(seed):
    values = np.random.default_rng(seed).random(101) ** 3
    values[:7] = values[7]
    assert paired.false_discovery(values) == pytest.approx(scipy.stats.false_discovery_control(values))
    assert paired.false_discovery([0.3]) == pytest.approx([0.3])


def test_means_of_differences_and_their_intervals_repeat_and_are_scipys():
    values = np.random.default_rng(0).normal(0.1, 1, 800)
    found = paired.mean_difference(values)
    assert found == paired.mean_difference(values)
    reference = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=1)
    assert found[1:] == pytest.approx(reference.confidence_interval, abs=0.015)
    assert found.value == pytest.approx(values.mean())


@pytest.mark.parametrize("sizes", [(2, 2), (3, 5), (10, 4)])
def test_several_seeds_are_compared_as_scipy_does(sizes):
    rng = np.random.default_rng(1)
    first, second = (rng.normal(0.9, 0.01, size) for size in sizes)
    reference = scipy.stats.ttest_ind(second, first, equal_var=False)
    found, p = paired.welch(first, second)
    assert p == pytest.approx(reference.pvalue)
    assert found[1:] == pytest.approx(reference.confidence_interval(0.95))
    mean = paired.t_interval(first)
    expected = scipy.stats.t.interval(0.95, len(first) - 1, first.mean(), scipy.stats.sem(first))
    assert mean[1:] == pytest.approx(expected)


def test_seeds_that_all_give_the_same_make_no_warning():
    assert paired.welch([0.5, 0.5], [0.5, 0.5]) == ((0, 0, 0), 1.0)
    assert paired.welch([0.5, 0.5], [0.75, 0.75]) == ((0.25, 0.25, 0.25), 0.0)
