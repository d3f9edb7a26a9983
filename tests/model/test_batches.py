"""Batches on their way: the same for any number of workers, through all epochs, with the waiting told."""

import time
from itertools import chain

import loading
import numpy as np
import pytest
import torch

from vitlora.model.batches import Feed, feed_squares
from vitlora.storage.squares import Squares
from vitlora.train.augment import epoch_order
from vitlora.train.dataset import CHUNK, TrainLoader, epoch_chunks
from vitlora.train.timing import TIMINGS, Timing

CPU = torch.device("cpu")
COUNT = 2 * CHUNK + 9


@pytest.fixture
def images(tmp_path):
    return loading.packed(tmp_path, COUNT)


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


def test_loading_goes_on_into_the_next_epoch_and_begins_anew_at_another(images, monkeypatch):
    begun = []
    start = TrainLoader.start
    monkeypatch.setattr(TrainLoader, "start", lambda self, *place: begun.append(place) or start(self, *place))
    loader = TrainLoader(images, 3, 70, 4, 0, pinned=False)
    _, second, _, again = epochs_of(loader, 0, 1, 3, 1)
    assert begun == [(0, 0), (3, 0), (1, 0)]
    assert all(torch.equal(a["pixel_values"], b["pixel_values"]) for a, b in zip(second, again, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_can_begin_within_an_epoch_and_the_next_is_whole(images, workers):
    whole = epochs_of(TrainLoader(images, 3, 70, 4, 0, pinned=False), 1, 2)
    loader = TrainLoader(images, 3, 70, 4, workers, pinned=False)
    loader.skipped = 1
    feed, seen = Feed(loader, CPU), []
    for epoch in (1, 2):
        feed.set_epoch(epoch)
        seen += list(feed)
    feed.close()
    assert len(whole[0]) == 2
    for ours, theirs in zip(seen, [*whole[0][1:], *whole[1]], strict=True):
        assert torch.equal(ours["pixel_values"], theirs["pixel_values"])
        assert torch.equal(ours["labels"], theirs["labels"])


def test_a_batch_is_shared_out_in_chunks():
    chunks = list(epoch_chunks(lambda epoch: epoch * COUNT + np.arange(COUNT), COUNT - 1, range(2)))
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

    def __init__(self, pause_s: float = 0.05, at_work: int = 0) -> None:
        self.pause_s, self.at_work = pause_s, at_work

    def __len__(self) -> int:
        return 3

    def set_epoch(self, epoch: int) -> None:
        pass

    def beside(self):
        return {"labels": torch.arange(3)}

    def __iter__(self):
        for number in range(3):
            time.sleep(self.pause_s)
            yield [torch.full((1, 3, 2, 2), number, dtype=torch.uint8)]


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


@pytest.mark.parametrize(("workers", "said"), [(0, "images;"), (1, "images from 1 worker;"), (14, "from 14 workers;")])
def test_the_workers_that_were_needed_are_told(tmp_path, monkeypatch, workers, said):
    monkeypatch.chdir(tmp_path)
    timing = Timing("simplejpeg")
    timing.feed = Feed(Slow(0, workers), CPU)
    timing.begin()
    assert len(list(timing.feed)) == 3
    timing.end()
    line, *_ = timing.report(1, 2.0, 50.0)
    assert said in line
    assert len(line) <= 100


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
