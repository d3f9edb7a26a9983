"""The luck of the best: against what it really was, in searches whose truth is known."""

import numpy as np
import pytest

from vitlora.tune.luck import without_luck
from vitlora.tune.search import worth_pictures

REPEATS = 60


def searches(worths, pictures, seed=0):
    """Return the mean luck that the best trial really had, and the mean that was estimated."""
    draw = np.random.default_rng(seed)
    real, told = [], []
    for _ in range(REPEATS):
        worth = worths(draw)
        scores = draw.binomial(pictures, worth) / pictures
        best = int((scores + 1e-9 * draw.random(len(scores))).argmax())
        real.append(scores[best] - worth[best])
        told.append(scores[best] - without_luck(scores, pictures)[best])
    return np.mean(real), np.mean(told)


@pytest.mark.parametrize(
    ("worths", "pictures"),
    [
        (lambda draw: np.full(12, 0.97), 179),
        (lambda draw: np.full(30, 0.8), 400),
        (lambda draw: 0.95 + 0.01 * draw.standard_normal(20), 179),
        (lambda draw: np.where(draw.random(16) < 0.5, 0.97, draw.uniform(0.2, 0.9, 16)), 179),
        (lambda draw: 0.985 - draw.exponential(0.03, 12), 1000),
    ],
)
def test_the_estimated_luck_is_near_the_real_one(worths, pictures):
    real, told = searches(worths, pictures)
    assert real > 0.001
    assert 0.6 * real < told < 1.5 * real


def test_a_lead_that_chance_can_not_explain_is_no_luck():
    scores = [0.5, 0.52, 0.48, 0.9]
    assert without_luck(scores, 2000)[3] == pytest.approx(0.9, abs=0.002)


@pytest.mark.parametrize("images", [(170, 9), (90, 89), (900, 20), (30, 30, 4), (60, 0, 12)])
def test_a_mean_over_unequal_classes_leaves_as_much_to_chance_as_so_many_pictures(images):
    """Of balanced accuracy, where each class is right equally often."""
    there, worth = np.array([count for count in images if count]), 0.85
    scores = (np.random.default_rng(1).binomial(there, worth, (200_000, len(there))) / there).mean(axis=1)
    alike = worth_pictures("balanced_accuracy", images)
    assert scores.var() == pytest.approx(worth * (1 - worth) / alike, rel=0.03)
    assert worth_pictures("accuracy", images) == sum(images)


@pytest.mark.parametrize("scores", [[1.0, 1.0, 1.0], [0.0, 0.0], [0.3], [1.0, 0.0]])
@pytest.mark.parametrize("pictures", [1, 4, 25_000])
def test_scores_at_the_ends_and_lone_ones_give_shares(scores, pictures):
    found = without_luck(scores, pictures)
    assert found.shape == (len(scores),)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_order_is_kept_and_equal_scores_are_worth_the_same():
    found = without_luck([0.9, 0.7, 0.9, 0.8], 100)
    assert found[0] == found[2] >= found[3] >= found[1]
