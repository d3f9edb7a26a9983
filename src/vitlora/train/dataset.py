"""Training pictures as finished uint8 batches, in an order that numbers them through all epochs."""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from vitlora.images.pixels import Box, crop_and_resize, decode
from vitlora.model.batches import Batch
from vitlora.storage.packed import Packed
from vitlora.train.augment import epoch_crops, epoch_order
from vitlora.train.jpeg import decode_rows, scale_crop
from vitlora.train.params import Augment, Decoder

# Images that a worker loads at a time: a batch is shared out among all workers, so the first one is there at once, and
# what waits in shared memory stays small.
CHUNK = 64
PREFETCH = 4  # chunks a worker is ahead


class TrainImages(Dataset[Batch]):
    """Training pictures, decoded, cropped and flipped when asked for; index as ``EpochChunks`` yields it.

    Gives `pixel_values`, uint8 (B, 3, size, size), channels last in memory, and `labels`, int64 (B,).
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        interpolation: str,
        augment: Augment,
        seed: int,
        decoder: Decoder = "simplejpeg",
    ) -> None:
        self.packed = Packed(folder)
        labels, width, height, plain = self.packed.numbers("label", "width", "height", "plain").T
        self.labels, self.sizes, self.plain = torch.tensor(labels), np.stack([width, height], axis=1), plain == 1
        self.size, self.interpolation, self.decoder = size, interpolation, decoder
        self.augment, self.seed = augment, seed
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None  # the epoch whose crops are at hand

    def __len__(self) -> int:
        return len(self.packed)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Load a batch; torch's loader calls this in place of one ``__getitem__`` an image."""
        pairs = [divmod(index, len(self)) for index in indices]
        squares = torch.empty((len(pairs), self.size, self.size, 3), dtype=torch.uint8)
        if get_worker_info():
            squares.share_memory_()  # type: ignore[no-untyped-call]  # while it is empty: the loader would copy it full
        pixels = squares.permute(0, 3, 1, 2)
        with _one_thread():
            for square, (epoch, row) in zip(pixels, pairs, strict=True):
                box, flip = self._crop(epoch, row)
                crop = self._load(row, box)
                square.copy_(crop.flip(-1) if flip else crop)
        return {"pixel_values": pixels, "labels": self.labels[[row for _, row in pairs]]}

    def _crop(self, epoch: int, row: int) -> tuple[Box, bool]:
        if self._drawn is None or self._drawn[0] != epoch:
            law = self.augment
            crops = epoch_crops(self.seed, epoch, self.sizes, law.scale, law.ratio, law.horizontal_flip_p)
            self._drawn = (epoch, *crops)
        _, boxes, flips = self._drawn
        left, top, right, bottom = boxes[row].tolist()
        return (left, top, right, bottom), bool(flips[row])

    def _load(self, row: int, box: Box) -> Tensor:
        data = self.packed[row]
        if self.decoder == "pil":
            return torch.from_numpy(crop_and_resize(decode(data, checked=True), box, self.size, self.interpolation))
        pixels = decode_rows(data, box[3]) if self.plain[row] else None
        if pixels is None:
            pixels = np.array(decode(data, checked=True))
        return scale_crop(pixels, box, self.size, self.interpolation)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to one thread, as in a loader process: these steps are so short that threads only wait for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class EpochChunks(Sampler[list[int]]):
    """Numbers of images, ``epoch * count + index`` so that whoever loads one knows its epoch, chunk by chunk.

    One pass runs from the first epoch, at image ``first`` of its order, to the last: loading doesn't stop where an
    epoch ends.
    """

    def __init__(self, count: int, seed: int, batch_size: int, epochs: range, first: int = 0) -> None:
        self.count, self.seed, self.batch_size, self.epochs, self.first = count, seed, batch_size, epochs, first

    def __iter__(self) -> Iterator[list[int]]:
        for epoch in self.epochs:
            order = (epoch * self.count + epoch_order(self.seed, epoch, self.count)).tolist()
            begin = self.first if epoch == self.epochs.start else 0
            for start in range(begin, self.count, self.batch_size):
                batch = order[start : start + self.batch_size]
                yield from (batch[at : at + CHUNK] for at in range(0, len(batch), CHUNK))


class TrainLoader:
    """Training batches of the epoch that was set last, loaded by workers that go on into the next epoch.

    Args:
        images: The training pictures.
        seed: Of the order.
        batch_size: Images of a (micro-)batch.
        epochs: How many there will be at most.
        workers: Processes; 0 loads where the batch is asked for.
        pinned: Whether batches stand in memory that a GPU can copy from while it computes.
    """

    def __init__(
        self, images: TrainImages, seed: int, batch_size: int, epochs: int, workers: int, pinned: bool
    ) -> None:
        self.dataset, self.seed, self.batch_size, self.epochs = images, seed, batch_size, epochs
        self.workers, self.pinned = workers, pinned
        self.epoch = 0
        self.skipped = 0  # batches that the next pass leaves out
        self._next_epoch = -1  # the one that the running pass would go on with
        self._chunks: Iterator[Batch] = iter(())

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""
        self.epoch = epoch

    def close(self) -> None:
        """End the workers, which may have loaded ahead: torch alone would wait 5 s for each."""
        for process in multiprocessing.active_children():
            process.terminate()
        self._chunks = iter(())  # torch cleans up after them here and now, not whenever it is collected

    def __iter__(self) -> Iterator[list[Batch]]:
        first, self.skipped = self.skipped * self.batch_size, 0
        if self._next_epoch != self.epoch or self.epoch >= self.epochs:
            self._chunks = self._begin(first)
        self._next_epoch = -1  # until this epoch is through
        for start in range(first, len(self.dataset), self.batch_size):
            images = min(self.batch_size, len(self.dataset) - start)
            chunks = [next(self._chunks) for _ in range(0, images, CHUNK)]
            if start + images == len(self.dataset):
                self._next_epoch = self.epoch + 1  # before the last batch: the Trainer asks for no more
            yield chunks

    def _begin(self, first: int) -> Iterator[Batch]:
        epochs = range(self.epoch, max(self.epochs, self.epoch + 1))
        loader: DataLoader[Batch] = DataLoader(
            self.dataset,
            batch_sampler=EpochChunks(len(self.dataset), self.seed, self.batch_size, epochs, first),
            collate_fn=_as_it_is,
            num_workers=self.workers,
            prefetch_factor=PREFETCH if self.workers else None,
            pin_memory=self.pinned,
        )
        return iter(loader)


def _as_it_is(batch: Any) -> Any:
    return batch  # the data set hands out whole chunks
