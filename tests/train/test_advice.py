"""After a poor result one line says what to turn first; after a good one nothing is said."""

import pytest

from vitlora.train.advice import advice

EVEN = [0, 1, 2, 3] * 10


def told(accuracy, labels, steps, epochs, wanted=3):
    return advice({"val_accuracy": accuracy, "steps": steps, "epochs": epochs}, labels, wanted)


@pytest.mark.parametrize(("accuracy", "steps"), [(0.9, 3), (1.0, 5000), (0.7, 60), (0.5, 900)])
def test_a_result_that_is_not_poor_or_had_its_steps_is_let_alone(accuracy, steps):
    assert told(accuracy, EVEN, steps, 3) is None


@pytest.mark.parametrize(
    ("accuracy", "labels"),
    [(0.25, EVEN), (0.35, EVEN), (0.0, EVEN), (0.8, [0] * 8 + [1] * 2), (0.5, [0, 1]), (0.86, [0] * 80 + [1] * 20)],
)
def test_chance_is_what_the_most_frequent_class_gives(accuracy, labels):
    said = told(accuracy, labels, 500, 3)
    assert f"val accuracy {accuracy:.4f} on {len(labels)} is not beyond naming the most frequent class always" in said
    assert "train.learning_rate" in said


def test_few_steps_come_before_all_else():
    assert told(0.25, EVEN, 12, 3).endswith(
        "0.2500, after only 12 steps; raise train.num_train_epochs (3 now) or lower "
        "train.per_device_train_batch_size first"
    )
    assert told(0.6, EVEN, 12, 3).startswith("note: val accuracy 0.6000, after only 12 steps; ")


def test_a_run_that_ended_before_its_last_epoch_is_not_told_to_have_more():
    said = told(0.25, EVEN, 12, 3, 20)
    assert "raise what ended it after epoch 3 of 20, train.max_minutes or early_stopping_patience, or lower" in said
    assert "num_train_epochs" not in said
