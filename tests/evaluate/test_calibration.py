"""Temperature, calibration error and prediction sets against truths that are known."""

import numpy as np
import pytest
from simulated import scored
from sklearn import metrics

from vitlora.evaluate.calibration import (
    Calibration,
    brier_scores,
    calibrate,
    calibration_error,
    fit_temperature,
    fit_threshold,
    log_losses,
    prediction_sets,
    reliability,
)
from vitlora.evaluate.scores import softmax


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("classes", [2, 10, 101])
def test_the_temperature_that_was_put_in_is_found(random, classes, temperature):
    labels, logits = scored(random, 6000, classes, temperature=temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.06)


def test_a_class_without_images_does_no_harm(random):
    labels, logits = scored(random, 3000, 10, temperature=2.0)
    kept = labels != 7
    assert fit_temperature(logits[kept], labels[kept]) == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("images", [5, 100, 5000])
def test_a_perfect_val_does_not_drive_confidences_to_one(images):
    """scikit-learn's would go to its stop: confidences of 1.000 from a hundred images."""
    labels = np.arange(images) % 5
    logits = np.eye(5, dtype=np.float32)[labels] * 8
    temperature = fit_temperature(logits, labels)
    assert 0.25 < temperature < 10
    assert softmax(logits / np.float32(temperature)).max() == pytest.approx(1 - 0.8 / (images + 1), abs=2e-3)


def test_what_is_no_better_than_chance_ends_at_the_limit(random):
    labels = random.integers(0, 4, 500)
    logits = random.normal(0, 30, (500, 4)).astype(np.float32)
    assert fit_temperature(logits, labels) == pytest.approx(10, rel=1e-3)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("val", [40, 400])
def test_prediction_sets_hold_the_truth_as_often_as_promised(random, coverage, val):
    held = []
    for _ in range(150):
        labels, logits = scored(random, val + 400, 6, sharpness=1.5)
        shares = softmax(logits)
        sets = prediction_sets(shares[val:], fit_threshold(shares[:val], labels[:val], coverage))
        held.append(sets[np.arange(400), labels[val:]].mean())
    assert coverage - 0.01 <= np.mean(held) <= coverage + 1 / (val + 1) + 0.02


def test_too_few_images_promise_nothing_and_sets_hold_every_class(random):
    labels, logits = scored(random, 18, 6)
    shares = softmax(logits)
    assert fit_threshold(shares, labels, 0.95) == 0
    assert prediction_sets(shares, 0.0).all()
    labels, logits = scored(random, 19, 6)
    assert fit_threshold(softmax(logits), labels, 0.95) > 0


def test_no_prediction_set_is_empty():
    shares = np.array([[0.4, 0.35, 0.25], [0.9, 0.06, 0.04]], np.float32)
    assert prediction_sets(shares, 0.5).tolist() == [[True, False, False]] * 2


def test_a_calibrated_model_is_not_refuted_and_an_overconfident_one_is(random):
    beyond = {1.0: 0, 2.5: 0}
    for temperature in beyond:
        for seed in range(40):
            labels, logits = scored(random, 400, 10, sharpness=1.5, temperature=temperature)
            shares = softmax(logits)
            error = calibration_error(shares.max(axis=1), shares.argmax(axis=1) == labels, seed)
            assert 0 <= error.chance <= error.most
            beyond[temperature] += error.value > error.most
    assert beyond[1.0] <= 6
    assert beyond[2.5] == 40


def test_the_calibration_error_is_the_weighted_gap_of_the_bins():
    confidence = np.array([0.05, 0.06, 0.95, 0.95, 0.95, 1.0], np.float32)
    right = np.array([True, False, True, True, False, True])
    # bins of a fifteenth: {0.05, 0.06}, {0.95 three times, 1.0}
    expected = abs(0.11 - 1) / 6 + abs(3.85 - 3) / 6
    assert calibration_error(confidence, right).value == pytest.approx(expected, abs=1e-6)
    bins = reliability(confidence, right)
    assert [(right, images) for _, right, images in bins] == [(1, 2), (3, 4)]
    assert [sure for sure, *_ in bins] == pytest.approx([0.055, 0.9625])


@pytest.mark.parametrize("classes", [2, 7])
def test_losses_are_scikit_learns(random, classes):
    labels, logits = scored(random, 300, classes)
    shares = softmax(logits.astype(np.float64))
    every = list(range(classes))
    assert log_losses(logits, labels).mean() == pytest.approx(metrics.log_loss(labels, shares, labels=every), rel=1e-5)
    theirs = metrics.brier_score_loss(
        labels, shares if classes > 2 else shares[:, 1], labels=every, scale_by_half=False
    )
    assert brier_scores(logits, labels).mean() == pytest.approx(theirs, rel=1e-4)


def test_calibrating_leaves_every_class_and_lowers_the_loss(random):
    labels, logits = scored(random, 2000, 8, temperature=3.0)
    found = calibrate(logits[:1000], labels[:1000], 0.9)
    assert isinstance(found, Calibration)
    assert (found.images, found.coverage) == (1000, 0.9)
    scaled = found.scale(logits)
    assert scaled.dtype == np.float32
    assert (scaled.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert log_losses(scaled[1000:], labels[1000:]).mean() < 0.9 * log_losses(logits[1000:], labels[1000:]).mean()
