"""Confidences that mean what they say: a temperature and a prediction set from val, and how far test bears them out."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from vitlora.evaluate.scores import Floats, Ints, softmax

COLDEST, HOTTEST = 0.25, 10.0
BINS = 15
DRAWS = 1000


class Error(NamedTuple):
    """Expected calibration error, beside what a calibrated model of the same confidences would show by chance.

    Attributes:
        value: Mean distance of confidence and accuracy over bins, weighted by images.
        chance: Mean of it if every confidence were true.
        most: What chance stays below in 95 of 100 test sets; calibration is refuted beyond it, and only there.
    """

    value: float
    chance: float
    most: float


class Calibration(NamedTuple):
    """What val says about confidences.

    Attributes:
        temperature: Logits are divided by it.
        coverage: Share of images whose prediction set is to hold the truth.
        threshold: Least share that puts a class into the set.
        images: Validation images that both were found on.
    """

    temperature: float
    coverage: float
    threshold: float
    images: int

    def scale(self, logits: Floats) -> Floats:
        """Return the logits at this temperature, float32."""
        return logits / np.float32(self.temperature)


def calibrate(logits: Floats, labels: Ints, coverage: float) -> Calibration:
    """Find the temperature, and at it the threshold of prediction sets, on logits (N, C) and labels (N,) of val."""
    temperature = fit_temperature(logits, labels)
    threshold = fit_threshold(softmax(logits / np.float32(temperature)), labels, coverage)
    return Calibration(temperature, coverage, threshold, len(labels))


def fit_temperature(logits: Floats, labels: Ints) -> float:
    """Return the temperature by which logits are to be divided: the one with the least log loss.

    One image in N + 1 is taken to be of any class. So images that are all right don't drive confidences to 1, and
    few images say little; a class without images does no harm.

    Args:
        logits: float32 (N, C), of val.
        labels: int64 (N,).

    Returns:
        A number from 0.25 to 10, four digits.

    Source:
        Guo et al., "On calibration of modern neural networks" (2017); the image of any class is Platt's (1999).
    """
    from scipy.optimize import minimize_scalar  # a quarter of a second, which `compare` need not pay

    doubt = 1 / (len(labels) + 1)
    found = minimize_scalar(_loss, bounds=(np.log(COLDEST), np.log(HOTTEST)), args=(logits, labels, doubt))
    return float(f"{np.exp(found.x):.4g}")


def _loss(log_temperature: float, logits: Floats, labels: Ints, doubt: float) -> float:
    logs = log_softmax(logits.astype(np.float64) / np.exp(log_temperature), axis=1)
    right = logs[np.arange(len(labels)), labels].mean()
    return -float((1 - doubt) * right + doubt * logs.mean())


def fit_threshold(shares: Floats, labels: Ints, coverage: float) -> float:
    """Return the least share that puts a class into the prediction set, so that sets hold the truth often enough.

    Of new images of the same kind at least ``coverage`` have their class in the set, whatever the model. Split
    conformal prediction: the share of the true class is ranked on val.

    Args:
        shares: float32 (N, C), probabilities of val.
        labels: int64 (N,).
        coverage: Share of images whose set must hold the truth.

    Returns:
        A share, cut after the sixth decimal. 0, which takes every class, where val has too few images to promise more.

    Source:
        Sadinle, Lei, Wasserman, "Least ambiguous set-valued classifiers" (2019).
    """
    true = np.sort(shares[np.arange(len(labels)), labels].astype(np.float64))
    rank = int(np.floor((len(true) + 1) * (1 - coverage) + 1e-9))  # so many may lie below
    return 0.0 if rank < 1 else float(np.floor(true[rank - 1] * 1e6) / 1e6)


def prediction_sets(shares: Floats, threshold: float) -> NDArray[np.bool_]:
    """Return which classes each set holds, (N, C): those with a share of ``threshold``, and always the likeliest."""
    sets = shares >= threshold
    sets[np.arange(len(shares)), shares.argmax(axis=1)] = True
    return np.asarray(sets)


def calibration_error(confidence: Floats, right: NDArray[np.bool_], seed: int = 0) -> Error:
    """Return the expected calibration error in 15 bins, and what chance alone gives.

    It has no interval: the estimate is too high for a good model at any number of images, so that a bootstrap of it
    never covers the truth. Compare models by log loss.

    Args:
        confidence: float32 (N,), of the predicted class.
        right: Whether it was the true one.
        seed: Of the draws.
    """
    bins = _bins(confidence)
    sums = np.bincount(bins, confidence, BINS)
    random = np.random.default_rng(seed)
    drawn = [
        _distance(np.bincount(bins, random.random(len(bins)) < confidence, BINS), sums, len(bins)) for _ in range(DRAWS)
    ]
    value = _distance(np.bincount(bins, right, BINS), sums, len(bins))
    return Error(value, float(np.mean(drawn)), float(np.quantile(drawn, 0.95)))


def _distance(right: NDArray[Any], sums: NDArray[Any], images: int) -> float:
    return float(np.abs(right - sums).sum() / images)


def _bins(confidence: Floats) -> Ints:
    return np.minimum((confidence * BINS).astype(np.int64), BINS - 1)


def reliability(confidence: Floats, right: NDArray[np.bool_]) -> list[tuple[float, int, int]]:
    """Return mean confidence, right images and all images of each of 15 bins that has some."""
    bins = _bins(confidence)
    images = np.bincount(bins, minlength=BINS)
    sums, rights = np.bincount(bins, confidence, BINS), np.bincount(bins, right, BINS)
    return [
        (float(sums[place] / images[place]), int(rights[place]), int(images[place])) for place in np.flatnonzero(images)
    ]


def log_losses(logits: Floats, labels: Ints) -> NDArray[np.float64]:
    """Return minus the logarithm of the true class's share for each image, (N,)."""
    return -np.asarray(log_softmax(logits.astype(np.float64), axis=1))[np.arange(len(labels)), labels]


def brier_scores(logits: Floats, labels: Ints) -> NDArray[np.float64]:
    """Return each image's squared distance of shares and truth, 0 to 2, (N,); scikit-learn's without halving."""
    shares = softmax(logits).astype(np.float64)
    true = shares[np.arange(len(labels)), labels]
    return np.asarray((shares**2).sum(axis=1) - 2 * true + 1)
