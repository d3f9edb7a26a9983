"""Scores are scikit-learn's; an absent class is not a class that was got wrong."""

import numpy as np
import pytest
from scipy.special import softmax as scipy_softmax
from sklearn import metrics

from vitlora.evaluate.scores import among_top, confusion, macro, per_class, softmax

CLASSES = 7
NAMES = [f"class {label}" for label in range(CLASSES)]
ALL = range(CLASSES)


def scored(seed, count=400, classes=CLASSES):
    """Return labels, and logits that lean towards them."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.standard_normal((count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 0.8
    return labels, logits


@pytest.mark.parametrize("seed", range(5))
def test_top_k_is_scikit_learns(seed):
    labels, logits = scored(seed)
    for k in range(1, CLASSES):
        theirs = metrics.top_k_accuracy_score(labels, logits, k=k, labels=list(ALL), normalize=False)
        assert among_top(labels, logits, k) == theirs


def test_top_1_is_accuracy_where_logits_tie():
    logits = np.array([[1, 1, 0], [0, 2, 2], [3, 3, 3]], np.float32)
    labels = np.array([0, 1, 2])
    assert among_top(labels, logits, 1) == (labels == logits.argmax(axis=1)).sum() == 2


def test_a_k_that_covers_all_classes_is_always_right():
    labels, logits = scored(0)
    assert among_top(labels, logits, CLASSES) == among_top(labels, logits, 100) == len(labels)


@pytest.mark.parametrize("seed", range(5))
def test_scores_of_each_class_are_scikit_learns(seed):
    labels, logits = scored(seed)
    predicted = logits.argmax(axis=1)
    rows = per_class(labels, predicted, NAMES)
    theirs = metrics.precision_recall_fscore_support(labels, predicted, labels=list(ALL))
    assert [row[0] for row in rows] == NAMES
    for column, values in enumerate(theirs, start=1):
        assert [row[column] for row in rows] == values.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_macro_means_are_scikit_learns(seed):
    labels, logits = scored(seed, count=60)
    predicted = logits.argmax(axis=1)
    precision, recall, f1, _ = metrics.precision_recall_fscore_support(labels, predicted, average="macro")
    found = macro(per_class(labels, predicted, NAMES))
    assert found["macro_precision"] == pytest.approx(precision, abs=1e-12)
    assert found["macro_recall"] == pytest.approx(recall, abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1, abs=1e-12)


def test_an_absent_class_has_no_score_and_does_not_pull_the_mean_down():
    labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    rows = per_class(labels, predicted, ["a", "b", "absent"])
    assert rows[2] == ["absent", None, None, None, 0]
    present = metrics.precision_recall_fscore_support(labels, predicted, labels=[0, 1], average="macro")
    assert list(macro(rows).values()) == pytest.approx(present[:3])


def test_a_class_without_test_images_that_was_predicted_has_precision_zero_and_no_recall():
    rows = per_class(np.array([0, 0, 1]), np.array([0, 2, 1]), ["a", "b", "c"])
    assert rows[2] == ["c", 0.0, None, 0.0, 0]


def test_a_class_that_was_never_predicted_has_recall_zero_and_counts_as_zero_in_the_mean():
    labels, predicted = np.array([0, 0, 1]), np.array([0, 0, 0])
    rows = per_class(labels, predicted, ["a", "b"])
    assert rows[1] == ["b", None, 0.0, 0.0, 1]
    with_zeros = metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    assert list(macro(rows).values()) == pytest.approx(with_zeros[:3])


def test_scores_hold_plain_numbers_that_json_can_carry():
    labels, logits = scored(0)
    rows = per_class(labels, logits.argmax(axis=1), NAMES)
    assert {type(value) for row in rows for value in row} == {str, float, int}
    assert {type(value) for value in macro(rows).values()} == {float}
    assert type(among_top(labels, logits, 2)) is int


@pytest.mark.parametrize("seed", range(3))
def test_the_confusion_matrix_is_scikit_learns_with_rows_true(seed):
    labels, logits = scored(seed)
    predicted = logits.argmax(axis=1)
    ours = confusion(labels, predicted, CLASSES)
    assert ours.dtype == np.int64
    assert np.array_equal(ours, metrics.confusion_matrix(labels, predicted, labels=list(ALL)))
    assert ours[2, 4] == ((labels == 2) & (predicted == 4)).sum()


def test_the_confusion_matrix_has_a_row_and_column_for_an_absent_class():
    ours = confusion(np.array([0, 2]), np.array([2, 2]), 4)
    assert ours.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_softmax_is_scipys():
    _, logits = scored(0)
    ours = softmax(logits)
    assert ours.dtype == np.float32
    assert np.allclose(ours, scipy_softmax(logits, axis=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shift", [0, 1000, -1000, 3e38])
def test_softmax_holds_for_large_logits(shift):
    logits = np.array([[0, 1, 2]], np.float32) * (1 if abs(shift) < 1e6 else 0) + np.float32(shift)
    expected = scipy_softmax([[0, 1, 2]] if abs(shift) < 1e6 else [[0, 0, 0]], axis=1)
    assert np.allclose(softmax(logits), expected, rtol=1e-4)


def test_softmax_of_logits_far_apart_is_one_and_zero():
    assert softmax(np.array([[-1e4, 1e4, 0]], np.float32)).tolist() == [[0, 1, 0]]
