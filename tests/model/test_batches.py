"""Batches on their way: the same for any number of workers, through all epochs, with the waiting told."""

import io
import time
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from vitlora.model.batches import Feed, feed_squares
from vitlora.storage.packed import write_packed
from vitlora.storage.squares import Squares
from vitlora.train.augment import epoch_order
from vitlora.train.dataset import CHUNK, EpochChunks, TrainImages, TrainLoader
from vitlora.train.params import Augment
from vitlora.train.timing import TIMINGS, Timing

CPU = torch.device("cpu")
COUNT = 2 * CHUNK + 9
AUGMENT = Augment(scale=(0.5, 1.0), ratio=(0.75, 1.33), horizontal_flip_p=0.5)


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)

    def items():
        for number in range(COUNT):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(buffer, "PNG")
            yield (f"{number}.png", number, 14, 12, 0), buffer.getvalue()

    write_packed(tmp_path, ("path", "label", "width", "height", "plain"), items())
    return TrainImages(tmp_path, 8, "bilinear", AUGMENT, 3, "simplejpeg")


def epochs_of(loader: TrainLoader, *epochs: int) -> list[list[dict]]:
    feed = Feed(loader, CPU)
    seen = []
    for epoch in epochs:
        feed.set_epoch(epoch)
        batches = iter(feed)
        seen.append([next(batches) for _ in range(len(feed))])  # as the Trainer does: no more than there are
    return seen


def test_an_epoch_is_its_seeded_order_in_batches(images):
    (batches,) = epochs_of(TrainLoader(images, 3, 70, 1, 0, pinned=False), 0)
    assert [len(batch["labels"]) for batch in batches] == [70, COUNT - 70]
    assert torch.cat([batch["labels"] for batch in batches]).tolist() == epoch_order(3, 0, COUNT).tolist()
    assert all(batch["pixel_values"].shape[1:] == (3, 8, 8) for batch in batches)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_workers(images, workers):
    alone = epochs_of(TrainLoader(images, 3, 70, 2, 0, pinned=False), 0, 1)
    shared = epochs_of(TrainLoader(images, 3, 70, 2, workers, pinned=False), 0, 1)
    for one, other in zip(chain(*alone), chain(*shared), strict=True):
        assert torch.equal(one["labels"], other["labels"])
        assert torch.equal(one["pixel_values"], other["pixel_values"])


def test_loading_goes_on_into_the_next_epoch_and_begins_anew_at_another(images, monkeypatch):
    begun = []
    begin = TrainLoader._begin
    monkeypatch.setattr(TrainLoader, "_begin", lambda self, first: begun.append(self.epoch) or begin(self, first))
    loader = TrainLoader(images, 3, 70, 4, 0, pinned=False)
    _, second, _, again = epochs_of(loader, 0, 1, 3, 1)
    assert begun == [0, 3, 1]
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(second, again, strict=True))


def test_a_pass_can_begin_within_an_epoch_and_the_next_is_whole(images):
    whole = epochs_of(TrainLoader(images, 3, 70, 4, 0, pinned=False), 1, 2)
    loader = TrainLoader(images, 3, 70, 4, 0, pinned=False)
    loader.skipped = 1
    feed, seen = Feed(loader, CPU), []
    for epoch in (1, 2):
        feed.set_epoch(epoch)
        seen += list(feed)
    assert len(whole[0]) == 2
    for ours, theirs in zip(seen, [*whole[0][1:], *whole[1]], strict=True):
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])


def test_a_batch_is_shared_out_in_chunks():
    chunks = list(EpochChunks(COUNT, 0, COUNT - 1, range(2)))
    assert [len(chunk) for chunk in chunks] == 2 * [CHUNK, CHUNK, COUNT - 1 - 2 * CHUNK, 1]
    assert sorted(chain(*chunks)) == list(range(2 * COUNT))


def test_squares_come_in_order():
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 4, 4), np.uint8)
    feed = feed_squares(Squares(images, np.arange(7), [], []), 3, CPU)
    for _ in range(2):
        batches = list(feed)
        assert len(batches) == len(feed) == 3
        assert np.array_equal(torch.cat([batch["pixel_values"] for batch in batches]).numpy(), images)
        assert torch.cat([batch["labels"] for batch in batches]).tolist() == list(range(7))


class Slow:
    """A loader whose every batch takes its time."""

    dataset = range(3)
    skipped = 0

    def __init__(self, pause_s: float = 0.05) -> None:
        self.pause_s = pause_s

    def __len__(self) -> int:
        return 3

    def set_epoch(self, epoch: int) -> None:
        pass

    def __iter__(self):
        for number in range(3):
            time.sleep(self.pause_s)
            yield [{"labels": torch.tensor([number])}]


def test_waiting_is_counted_and_the_remedy_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timing = Timing("simplejpeg")
    timing.feed = Feed(Slow(), CPU)
    timing.begin()
    assert [batch["labels"].item() for batch in timing.feed] == [0, 1, 2]
    timing.end()
    line, note = timing.report(1, 2.0, 50.0)
    assert "waiting for images; val 50 images/s, 2.0 s" in line
    assert "train.dataloader_num_workers" in note
    rows = TIMINGS.read_text().splitlines()
    assert rows[0].startswith("epoch,images,train_s,images_per_s,data_wait_s")
    assert float(rows[1].split(",")[4]) >= 0.15


def test_an_epoch_that_does_not_wait_needs_no_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timing = Timing("simplejpeg")
    timing.feed = Feed(Slow(pause_s=0), CPU)
    timing.begin()
    assert len(list(timing.feed)) == 3
    time.sleep(0.01)
    timing.end()
    line, *_ = timing.report(1, 2.0, 50.0)
    assert "waiting for images" in line


def test_a_remedy_that_is_taken_already_is_not_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def note(decoder):
        timing = Timing(decoder)
        timing.feed = Feed(Slow(), CPU)
        timing.begin()
        assert len(list(timing.feed)) == 3
        timing.end()
        return list(timing.report(1, 2.0, 50.0))[1]

    assert "train.decoder: simplejpeg" in note("pil")
    assert "train.decoder" not in note("simplejpeg")
