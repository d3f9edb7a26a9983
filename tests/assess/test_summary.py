"""What the scores of a folder come to, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from vitlora.assess.summary import summarise
from vitlora.storage.squares import Squares

NAMES = ["a", "b", "c", "d", "e"]


def drawn(seed, count=200, classes=4):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.normal(size=(count, len(NAMES))).astype(np.float32)
    logits[np.arange(count), labels] += random.random(count) * 3
    digests = [f"{row:064x}" for row in range(count)]
    return logits, Squares(
        np.empty((count, 3, 0, 0), np.uint8), labels, [f"{row}.png" for row in range(count)], digests
    )


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_scikit_learns(seed):
    logits, squares = drawn(seed)
    found, guess = summarise(logits, squares, NAMES, None), logits.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(squares.labels, guess), abs=1e-6)
    assert found["low"] < found["accuracy"] < found["high"]
    for name, score in (("balanced_accuracy", recall_score), ("macro_f1", f1_score)):
        present = score(squares.labels, guess, labels=range(4), average="macro")
        assert found[name] == pytest.approx(present, abs=1e-6)
    assert found["missing"] == ["e"]
    assert found["met"] is None


def test_classes_come_worst_first_with_what_they_are_taken_for():
    logits = np.eye(5, dtype=np.float32)[[0, 0, 1, 1, 1, 2, 0, 3]] * 5
    labels = np.array([0, 0, 1, 0, 0, 2, 2, 2])
    squares = Squares(np.empty((8, 3, 0, 0), np.uint8), labels, list("stuvwxyz"), ["0"] * 8)
    rows = summarise(logits, squares, NAMES, None)["classes"]
    assert [(row["class"], row["images"], row["taken_for"], row["times"]) for row in rows] == [
        ("c", 3, "a", 1),
        ("a", 4, "b", 2),
        ("b", 1, None, 0),
    ]


def test_the_surest_mistakes_come_first():
    logits, squares = drawn(7)
    found = summarise(logits, squares, NAMES, None)["mistakes"]
    sure = [row["confidence"] for row in found]
    assert sure == sorted(sure, reverse=True)
    assert len(found) == 20
    assert all(row["actual"] != row["predicted"] and row["confidence"] >= row["confidence_in_actual"] for row in found)


def test_the_accuracy_of_new_pictures_stands_apart():
    logits = np.eye(5, dtype=np.float32)[[0, 0, 1, 1]]
    squares = Squares(np.empty((4, 3, 0, 0), np.uint8), np.array([0, 0, 1, 0]), list("wxyz"), ["0"] * 4)
    met = summarise(logits, squares, NAMES, ["train", "val", "", ""])["met"]
    assert (met["train"], met["val"], met["others"]["images"], met["others"]["accuracy"]) == (1, 1, 2, 0.5)
    assert summarise(logits, squares, NAMES, ["train"] * 4)["met"]["others"] is None
