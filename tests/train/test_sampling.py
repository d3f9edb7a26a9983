"""What an epoch shows, balanced or not, and that a run which is stopped goes on with the very same."""

import re
from pathlib import Path

import loading
import numpy as np
import pytest
import torch
import training
from hypothesis import given
from hypothesis import strategies as st

from vitlora.core.errors import VitloraError
from vitlora.model.batches import Feed
from vitlora.storage.packed import Packed
from vitlora.train.augment import epoch_order
from vitlora.train.dataset import TrainLoader
from vitlora.train.optimise import OptimiserStep
from vitlora.train.sampling import epoch_numbers

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=8).filter(any)


def labels_of(counts, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).permutation(labels).astype(np.int64)


def test_shuffled_shows_every_image_once_in_the_order_of_before():
    labels = labels_of([5, 1, 9])
    for epoch in range(3):
        assert np.array_equal(epoch_numbers(labels, "shuffled", 7, epoch), epoch * 15 + epoch_order(7, epoch, 15))


@given(counts=COUNTS, seed=st.integers(0, 2**32 - 1), epochs=st.integers(1, 5))
def test_balanced_shows_as_many_of_each_class_and_each_image_as_often_as_its_neighbours(counts, seed, epochs):
    labels, classes = labels_of(counts), np.flatnonzero(counts)
    shown = [epoch_numbers(labels, "balanced", seed, epoch) for epoch in range(epochs)]
    for numbers in shown:
        assert len(numbers) == len(labels)
        of_each = np.bincount(labels[numbers % len(labels)], minlength=len(counts))[classes]
        assert of_each.max() - of_each.min() <= 1
    together = np.concatenate(shown)
    assert len(set(together.tolist())) == len(together)  # no picture looks twice the same way
    times = np.bincount(together % len(labels), minlength=len(labels))
    overall = np.bincount(labels, weights=times, minlength=len(counts))[classes]
    assert overall.max() - overall.min() <= 1
    for label in classes:
        mine = times[labels == label]
        assert mine.max() - mine.min() <= 1
        of_rows = (together[together % len(labels) == row] for row in np.flatnonzero(labels == label))
        visits = [sorted(numbers // len(labels)) for numbers in of_rows]
        assert all(each == list(range(len(each))) for each in visits)


def test_balanced_draws_another_order_for_each_seed_epoch_and_visit():
    labels = labels_of([40, 4])
    first, second, other = (epoch_numbers(labels, "balanced", *each) % 44 for each in ((0, 0), (0, 1), (1, 0)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    rare = np.flatnonzero(labels == 1)
    visits = first[np.isin(first, rare)]
    assert len(visits) == 22
    assert len({tuple(epoch_numbers(labels, "balanced", 0, epoch)[:5]) for epoch in range(9)}) == 9


@pytest.mark.parametrize("workers", [0, 3])
def test_a_picture_that_is_shown_again_looks_another_way_and_workers_change_nothing(tmp_path, workers):
    images = loading.packed(tmp_path, 60, size=24)
    images.sampling, images.labels = "balanced", torch.tensor([0] * 57 + [1] * 3)
    feed = Feed(TrainLoader(images, 3, 16, 2, workers, pinned=False), torch.device("cpu"))
    seen = list(feed)
    feed.close()
    labels = torch.cat([batch["labels"] for batch in seen])
    pixels = torch.cat([batch["pixel_values"] for batch in seen])
    assert labels.tolist().count(1) == 30
    rare = {row.numpy().tobytes() for row in pixels[labels == 1]}
    assert len(rare) == 30  # ten views of each of three pictures
    alone = images.load(epoch_numbers(images.labels.numpy(), "balanced", 3, 0).tolist())
    assert torch.equal(alone, pixels)


@pytest.mark.slow
def test_a_balanced_run_that_is_stopped_and_resumed_ends_with_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.chdir(training.prepare(tmp_path))
    settings = {"train__sampling": "balanced"}
    training.fit(**settings)
    golden = training.hashes()
    for step in (1, 5, 8):
        with training.stopped_after(step):
            training.fit(**settings)
        training.fit(**settings, train__dataloader_num_workers=2)
        assert training.hashes() == golden, step
    training.fit()
    assert training.hashes()["adapter/adapter_model.safetensors"] != golden["adapter/adapter_model.safetensors"]


@pytest.mark.parametrize(
    "other",
    [
        {"train__class_weights": "balanced"},
        {"train__class_weights": {"blue": 2.0}},
        {"train__class_weights": "effective_number"},
        {"train__logit_adjustment": 0.5},
    ],
)
def test_unequal_classes_are_made_up_for_once(other):
    with pytest.raises(VitloraError, match=r"train\.sampling.*twice"):
        training.fit(train__sampling="balanced", **other)


def test_a_loss_that_is_no_number_names_the_images_that_were_shown(tmp_path, monkeypatch):
    """With balanced sampling these are others than in an epoch's plain order."""
    monkeypatch.chdir(training.prepare(tmp_path))
    original = OptimiserStep.__call__

    def spoiled(self, number, batches):
        if number == 1:
            with torch.no_grad():
                self.trained[0].fill_(torch.nan)
        return original(self, number, batches)

    monkeypatch.setattr(OptimiserStep, "__call__", spoiled)
    packed = Packed(Path("train"))
    labels = packed.index["label"]
    shown = epoch_numbers(labels, "balanced", 0, 0)[6:11] % len(labels)
    named = ", ".join(packed.about(row)["path"] for row in shown)
    with pytest.raises(VitloraError, match=rf"step 2, epoch 1: the loss is nan; images {re.escape(named)} and 1 more"):
        training.fit(train__sampling="balanced")
