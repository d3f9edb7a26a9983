"""Training pictures as finished uint8 batches, in an order that numbers them through all epochs."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitlora.core.errors import VitloraError
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import Box, crop_and_resize, decode
from vitlora.model.batches import Batch
from vitlora.storage.packed import Packed
from vitlora.train.augment import draw_crops, epoch_mixing
from vitlora.train.jpeg import decode_rows, scale_crop
from vitlora.train.params import Augment, Decoder, Sampling
from vitlora.train.policies import alter
from vitlora.train.sampling import epoch_numbers
from vitlora.train.shares import Share, Span
from vitlora.train.workers import Ring

# Images that a worker loads at a time: a batch is shared out among all workers, so the first one is there at once, and
# what waits in shared memory stays small.
CHUNK = 64
AHEAD = 2  # slots for chunks a worker, and for each chunk of a batch
Numbers = Callable[[int], NDArray[np.int64]]


class TrainImages:
    """Training pictures, decoded, cropped and altered when asked for, by the numbers of ``epoch_numbers``.

    Args:
        folder: Of the packed pictures.
        size: Side of a finished square, px.
        interpolation: `bilinear` or `bicubic`.
        augment: What is drawn for each picture.
        seed: Of these draws.
        decoder: Of JPEGs.
        fill: Bytes of what is erased.
        sampling: What an epoch holds.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        interpolation: str,
        augment: Augment,
        seed: int,
        decoder: Decoder = "simplejpeg",
        fill: tuple[int, int, int] = (0, 0, 0),
        sampling: Sampling = "shuffled",
    ) -> None:
        self.packed = Packed(folder)
        self.labels = torch.from_numpy(self.packed.index["label"].astype(np.int64))
        self.size, self.interpolation, self.decoder = size, interpolation, decoder
        self.augment, self.seed, self.fill, self.sampling = augment, seed, fill, sampling

    def __len__(self) -> int:
        return len(self.packed)

    def load(self, numbers: Sequence[int], squares: Tensor | None = None) -> Tensor:
        """Load images.

        Args:
            numbers: ``visit * count + row`` each.
            squares: uint8 (B, size, size, 3), gets them; None: made here.

        Returns:
            A view of these, uint8 (B, 3, size, size), so channels last in memory.

        Raises:
            VitloraError: A picture can't be decoded any more.
        """
        if squares is None:
            squares = torch.empty((len(numbers), self.size, self.size, 3), dtype=torch.uint8)
        pixels = squares.permute(0, 3, 1, 2)
        places = [divmod(number, len(self)) for number in numbers]
        about = self.packed.index[[row for _, row in places]]
        sizes = np.stack([about["width"], about["height"]], axis=1).astype(np.int64)
        law = self.augment.scale, self.augment.ratio, self.augment.horizontal_flip_p
        boxes, flips = draw_crops(self.seed, places, sizes, *law)
        drawn = zip(boxes.tolist(), flips.tolist(), about["plain"].tolist(), strict=True)
        with _one_thread():
            for square, (visit, row), (box, flip, plain) in zip(pixels, places, drawn, strict=True):
                crop = self._load(row, tuple(box), bool(plain))
                picture = crop.flip(-1) if flip else crop
                altered = alter(picture, self.augment, self.fill, row, self.seed, visit)
                np.copyto(square.numpy(), altered.numpy())  # from channels first in a third of torch's time
        return pixels

    def _load(self, row: int, box: Box, plain: bool) -> Tensor:
        data = self.packed[row]
        try:
            return self._decode(data, box, plain)
        except BadImageError as error:
            name = self.packed.about(row)["path"]
            raise VitloraError(
                f"{self.packed.folder}: {name} can't be decoded ({error}), though preprocess accepted it; make the "
                "folder anew: `dvc repro --force preprocess`"
            ) from None

    def _decode(self, data: bytes, box: Box, plain: bool) -> Tensor:
        if self.decoder == "pil":
            return torch.from_numpy(crop_and_resize(decode(data, checked=True), box, self.size, self.interpolation))
        pixels = decode_rows(data, box[3]) if plain else None
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


def epoch_chunks(
    numbers: Numbers, batch_size: int, epochs: range, first: int = 0, share: Share | None = None
) -> Iterator[Sequence[int]]:
    """Yield what each epoch shows, by ``numbers`` of it, chunk by chunk; of a process's share nothing else.

    They run from the first epoch, at image ``first`` of its order, to the last: loading doesn't stop where an epoch
    ends.
    """
    whole = share or Share(0, 1, batch_size)
    for epoch in epochs:
        order = numbers(epoch)
        for span in whole.spans(first if epoch == epochs.start else 0, len(order), batch_size):
            batch = order[span.start : span.stop]
            yield from (batch[at : at + CHUNK].tolist() for at in range(0, len(batch), CHUNK))


class TrainLoader:
    """Training batches of the epoch that was set last, loaded by workers that go on into the next epoch.

    Args:
        images: The training pictures.
        seed: Of the order.
        batch_size: Images of a (micro-)batch.
        epochs: How many there will be at most.
        workers: Processes at most; 0 loads where the batch is asked for.
        pinned: Whether batches stand in memory that a GPU can copy from while it computes.
        at_first: How many workers begin; others join them when a batch is late. None: all.
        mixed_among: Images that are mixed among themselves, of which a batch holds whole groups; None: a batch's.
        share: Of each step's images, where several processes have one each; None: all of them. Batches, and those that
            are left out, are counted as a single process has them.
    """

    def __init__(
        self,
        images: TrainImages,
        seed: int,
        batch_size: int,
        epochs: int,
        workers: int,
        pinned: bool,
        at_first: int | None = None,
        mixed_among: int | None = None,
        share: Share | None = None,
    ) -> None:
        self.dataset, self.seed, self.batch_size, self.epochs = images, seed, batch_size, epochs
        self.workers, self.pinned, self.at_first = workers, pinned, workers if at_first is None else at_first
        self.mixed_among = mixed_among or batch_size
        self.share = share
        self.numbers: Numbers = partial(epoch_numbers, images.labels.numpy(), images.sampling, seed)
        self.epoch = 0
        self.skipped = 0  # batches that the next pass leaves out
        self._next: tuple[int, int] | None = None  # epoch and image that come next of what has been begun
        self._ring: Ring | None = None
        self._chunks: Iterator[Tensor] = iter(())

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def rows(self, epoch: int) -> NDArray[np.int64]:
        """Return the images of an epoch, in its order."""
        return self.numbers(epoch) % len(self.dataset)

    @property
    def at_work(self) -> int:
        """Workers that load, by now."""
        return self._ring.at_work if self._ring else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""
        self.epoch = epoch

    def start(self, epoch: int = 0, image: int = 0) -> None:
        """Let the workers begin, at an image of an epoch's order: a pass that begins there finds its batches loaded."""
        self.close()
        count, epochs = len(self.dataset), range(epoch, max(self.epochs, epoch + 1))
        chunks = partial(epoch_chunks, self.numbers, self.batch_size, epochs, image, self.share)
        if self.workers:
            size, images = self.dataset.size, min(self.most, count)
            slots = AHEAD * (self.workers + -(-images // CHUNK))
            shape = (slots, min(images, CHUNK), size, size, 3)
            self._ring = Ring(self.dataset.load, chunks, shape, self.workers, self.at_first, self.pinned)
        self._chunks = self._ring or map(self.dataset.load, chunks())
        self._next = epoch, image

    def split(self, batch_size: int) -> None:
        """Let batches be smaller; what has been begun goes on where its chunks are those of the new batches."""
        before, self.batch_size = self.batch_size, batch_size
        if self.share:
            anew = self._borders(before) != self._borders(batch_size)
        else:
            anew = batch_size != before and batch_size % CHUNK > 0
        if anew:
            self.close()

    def _borders(self, batch_size: int) -> list[int]:
        """Return where the chunks of this process's batches of an epoch begin."""
        assert self.share
        spans = self.share.spans(0, len(self.dataset), batch_size)
        return [at for span in spans for at in range(span.start, span.stop, CHUNK)]

    @property
    def most(self) -> int:
        """Images of this process's batches at most."""
        return min(self.batch_size, self.share.most()) if self.share else self.batch_size

    def spans(self, first: int = 0) -> Iterator[Span]:
        """Yield this process's batches of an epoch, from an image on at which a step begins."""
        whole = self.share or Share(0, 1, self.batch_size)
        return whole.spans(first, len(self.dataset), self.batch_size)

    def close(self) -> None:
        """End the workers, whatever they are at."""
        if self._ring:
            self._ring.close()
        self._ring, self._next = None, None

    def beside(self) -> Batch:
        """Return labels, and how images are mixed, of the next pass, in its order."""
        count, images = len(self.dataset), self.dataset
        beside = {"labels": images.labels[torch.from_numpy(self.rows(self.epoch))]}
        if images.augment.mixes:
            assert self.batch_size % self.mixed_among == 0, "a group in two batches"
            law = images.augment.mixup_alpha, images.augment.cutmix_alpha
            drawn = epoch_mixing(self.seed, self.epoch, count, self.mixed_among, images.size, *law)
            beside |= {name: torch.from_numpy(rows) for name, rows in drawn.items()}
        first = self.skipped * self.batch_size
        if self.share:
            mine = [place for span in self.spans(first) for place in range(span.start, span.stop)]
            return {name: rows[mine] for name, rows in beside.items()}
        return {name: rows[first:] for name, rows in beside.items()}

    def __iter__(self) -> Generator[list[Tensor], torch.cuda.Event | None, None]:
        first, self.skipped = self.skipped * self.batch_size, 0
        if self._next != (self.epoch, first):
            self.start(self.epoch, first)
        self._next = None  # until this epoch is through
        for span in self.spans(first):
            images = span.stop - span.start
            copied = yield [next(self._chunks)[: images - at] for at in range(0, images, CHUNK)]
            if self._ring:
                self._ring.give_back(copied)
        if self.epoch + 1 < self.epochs:
            self._next = self.epoch + 1, 0
