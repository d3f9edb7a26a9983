"""Two models on the same pictures: differences with their uncertainty.

All here is about these two models, and about pictures like those of the test set. What another seed of the same recipe
would have given, is asked of several seeds: ``welch``.

Broken pictures are those that only the first model has right, fixed ones those that only the second has right.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, gammaln, ndtri, stdtr, stdtrit  # scipy.stats would take a second more

from vitlora.evaluate.intervals import mean_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LEVEL, ONE_SIDED = 0.95, 0.90  # a one-sided test at 5 % is one end of the 90 % interval
POWER = 0.80
FEWEST_DIFFERING = 10  # pictures that only one model has right; with fewer, pulls say little of their own spread
FEWEST_FOR_F1 = 2  # pictures a class, mean; with fewer an F1 is 0 or 1, and no interval holds


class Interval(NamedTuple):
    """A figure, and what it may be instead."""

    value: float
    low: float
    high: float


def bonett_price(broken: ArrayLike, fixed: ArrayLike, pairs: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Return the interval of the difference of two shares that were counted on the same pictures, second minus first.

    One is added to each count of pictures that only one model has right, so that the interval keeps its promise where
    these are few; where they are very few it is wider than it need be.

    Args:
        broken, fixed: Counts of any one shape.
        pairs: Pictures in all, of that shape or one number.
        level: Share of such intervals that hold the truth.

    Returns:
        low, high: float64 of that shape, -1 to 1.

    Source:
        Bonett and Price, Statistics in Medicine 31 (2012), 479: adjusted Wald interval.
    """
    only_a, only_b = np.asarray(broken, np.float64) + 1, np.asarray(fixed, np.float64) + 1
    count = np.asarray(pairs, np.float64) + 2
    middle = (only_b - only_a) / count
    reach = ndtri((1 + level) / 2) * np.sqrt(((only_a + only_b) / count - middle**2) / count)
    return np.clip(middle - reach, -1, 1), np.clip(middle + reach, -1, 1)


def accuracy_difference(broken: int, fixed: int, pairs: int, level: float = LEVEL) -> Interval:
    """Return second minus first with its Bonett-Price interval, as shares."""
    low, high = bonett_price(broken, fixed, pairs, level)
    return Interval((fixed - broken) / pairs, float(low), float(high))


def mid_p_worse(broken: ArrayLike, fixed: ArrayLike) -> Floats:
    """Return McNemar's one-sided mid-p: how likely so many broken pictures are if the second model is no worse.

    Args:
        broken, fixed: Counts of one shape.

    Source:
        Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13 (2013), 91.
    """
    lost, won = np.asarray(broken, np.int64), np.asarray(fixed, np.int64)
    tail: Floats = bdtr(won.astype(np.float64), lost + won, 0.5) - _half_point(lost, won)
    return tail


def mid_p(broken: ArrayLike, fixed: ArrayLike) -> Floats:
    """Return McNemar's two-sided mid-p: how likely such an imbalance is if the two models are equally good.

    Args:
        broken, fixed: Counts of one shape; 1.0 where both are 0.
    """
    lost, won = np.asarray(broken, np.int64), np.asarray(fixed, np.int64)
    fewer = np.minimum(lost, won).astype(np.float64)
    tail = bdtr(fewer, lost + won, 0.5) - _half_point(lost, won)
    both: Floats = np.minimum(1.0, 2 * tail)
    return both


def _half_point(lost: Ints, won: Ints) -> Floats:
    ways = gammaln(lost + won + 1) - gammaln(lost + 1) - gammaln(won + 1)
    half: Floats = 0.5 * np.exp(ways - (lost + won) * np.log(2))
    return half


def smallest_visible_drop(broken: int, fixed: int, pairs: int, tolerance: float = 0.0) -> float:
    """Return the drop of accuracy that a one-sided test at 5 % would have shown in 80 of 100 such test sets.

    The share of pictures on which only one model is right is taken as observed; a drop can't be larger than it.

    Args:
        broken, fixed, pairs: Counts.
        tolerance: Drop that is accepted, as a share.
    """
    count = pairs + 2
    differing = (broken + fixed + 2) / count
    reach = (ndtri((1 + ONE_SIDED) / 2) + ndtri(POWER)) / np.sqrt(count)
    drop = tolerance
    for _ in range(60):  # a contraction: each round leaves at most a third of the error
        drop = min(1.0, tolerance + reach * np.sqrt(max(differing, drop) - drop**2))
    return float(drop)


def pictures_needed(drop: float, differing: float) -> int:
    """Return how many pictures show a true drop in 80 of 100 test sets, to a one-sided test at 5 %.

    Args:
        drop: True drop of accuracy, as a share above 0.
        differing: Share of pictures on which only one of the two models is right.
    """
    reach = ndtri((1 + ONE_SIDED) / 2) + ndtri(POWER)
    return int(np.ceil((reach / drop) ** 2 * (differing - drop**2)))


def mean_difference(differences: Floats, seed: int = 0) -> Interval:
    """Return the mean of one figure's differences, picture by picture, with its 95 % percentile bootstrap interval.

    Args:
        differences: (N,), second minus first.
        seed: Of the draws; the same numbers give the same interval.
    """
    return Interval(float(differences.mean()), *mean_interval(differences, seed))


def balanced_accuracy(actual: Ints, predicted: Ints, classes: int) -> tuple[float, Floats]:
    """Return the mean of the classes' recalls, and each picture's pull on it.

    Args:
        actual, predicted: int64 (N,), 0 to classes - 1; a class without pictures doesn't count.

    Returns:
        value: 0 to 1.
        pull: float64 (N,); a small change of the pictures' weights changes the value by the sum of change and pull.
    """
    support = np.bincount(actual, minlength=classes)
    present = np.count_nonzero(support)
    share: Floats = (actual == predicted) / (support[actual] * present)
    return float(share.sum()), share


def macro_f1(actual: Ints, predicted: Ints, classes: int) -> tuple[float, Floats]:
    """Return the mean F1 of the classes that have pictures, and each picture's pull on it.

    The arguments and what is returned are those of ``balanced_accuracy``.
    """
    support = np.bincount(actual, minlength=classes)
    hits = np.bincount(actual[actual == predicted], minlength=classes)
    whole = support + np.bincount(predicted, minlength=classes)  # 2 TP + FP + FN
    f1 = np.divide(2 * hits, whole, out=np.zeros(classes), where=whole > 0)
    counted = support > 0
    weight = np.divide(counted, whole, out=np.zeros(classes), where=whole > 0) / np.count_nonzero(counted)
    right = 2 * weight[actual] * (1 - f1[actual])
    wrong = -(f1 * weight)[actual] - (f1 * weight)[predicted]
    return float(f1[counted].mean()), np.where(actual == predicted, right, wrong)


def pull_difference(value: float, pull: Floats, actual: Ints, classes: int) -> Interval:
    """Return the difference of two figures of the classes with its 95 % interval.

    Normal interval; its variance is that of the pictures' pulls within their classes (the infinitesimal jackknife, with
    the number of pictures of each class as given), but no smaller than if one more picture came, as far from the
    class's mean as pictures of all classes are: of a single picture, or of a few that are all alike, there is no
    spread. It is too narrow where fewer than ``FEWEST_DIFFERING`` pictures differ.

    Args:
        value: Second figure minus first.
        pull: float64 (N,), the second figure's pulls minus the first's.
        actual: int64 (N,).
    """
    support = np.bincount(actual, minlength=classes)
    scaled = pull * support[actual]  # of the size that one picture's answer has, in small and large classes alike
    means = np.bincount(actual, scaled, minlength=classes) / np.maximum(support, 1)
    squares = np.bincount(actual, (scaled - means[actual]) ** 2, minlength=classes)[support > 0]
    count = support[support > 0]
    spread = np.maximum(squares / np.maximum(count - 1, 1), (squares + scaled.var()) / count)
    reach = ndtri((1 + LEVEL) / 2) * np.sqrt((spread / count).sum())
    return Interval(value, float(value - reach), float(value + reach))


def false_discovery(p_values: ArrayLike) -> Floats:
    """Return p-values raised so that, of the classes at or below 0.05, at most one in twenty is expected to be chance.

    Source:
        Benjamini and Hochberg, JRSS B 57 (1995), 289; scipy.stats.false_discovery_control, whose import takes a second.
    """
    values = np.asarray(p_values, np.float64)
    order = np.argsort(-values)
    ranks = np.arange(len(values), 0, -1)
    raised = np.empty(len(values))
    raised[order] = np.minimum(np.minimum.accumulate(values[order] * len(values) / ranks), 1.0)
    return raised


def t_interval(values: ArrayLike) -> Interval:
    """Return the mean of at least two values with Student's 95 % interval."""
    given = np.asarray(values, np.float64)
    reach = stdtrit(len(given) - 1, (1 + LEVEL) / 2) * given.std(ddof=1) / np.sqrt(len(given))
    return Interval(float(given.mean()), float(given.mean() - reach), float(given.mean() + reach))


def welch(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> tuple[Interval, float]:
    """Return the difference of two means, second minus first, with Welch's interval and two-sided p.

    Args:
        first, second: At least two values each, one a seed.
        level: Of the interval.

    Returns:
        difference: With its interval; without width where nothing varies.
        p: 1.0 or 0.0 where nothing varies.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    difference = float(b.mean() - a.mean())
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return Interval(difference, difference, difference), float(difference == 0)
    freedom = parts.sum() ** 2 / (parts**2 / (np.array([len(a), len(b)]) - 1)).sum()
    reach = float(stdtrit(freedom, (1 + level) / 2)) * error
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    return Interval(difference, difference - reach, difference + reach), p
