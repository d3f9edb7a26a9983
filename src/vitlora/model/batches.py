"""Batches on their way to the device: loaded in chunks, copied ahead of time, and what had to be waited for."""

import time
from collections.abc import Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from vitlora.storage.squares import Squares

Batch = dict[str, Tensor]


class Loader(Protocol):
    """Yields batches, each as chunks in CPU memory that follow one another.

    Attributes:
        skipped: Batches that the next pass leaves out.
    """

    skipped: int

    @property
    def dataset(self) -> Sized:
        """What the Trainer asks for the number of images."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[Batch]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""

    def close(self) -> None:
        """End what loads ahead."""


class SquareLoader:
    """A pre-transformed split in order, read by a thread a batch ahead: worker processes have nothing to decode."""

    def __init__(self, squares: Squares, batch_size: int, pinned: bool) -> None:
        self.squares, self.batch_size, self.pinned = squares, batch_size, pinned
        self.dataset = squares.labels
        self.skipped = 0

    def __len__(self) -> int:
        return -(-len(self.squares.labels) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""

    def close(self) -> None:
        """Its thread ends with each pass."""

    def __iter__(self) -> Iterator[list[Batch]]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, 0)
            for number in range(len(self)):
                batch = ahead.result()
                ahead = reader.submit(self._read, number + 1)
                yield [batch]

    def _read(self, number: int) -> Batch:
        part = slice(number * self.batch_size, (number + 1) * self.batch_size)
        images = self.squares.images[part]
        pixels = torch.empty(images.shape, dtype=torch.uint8, pin_memory=self.pinned)
        pixels.numpy()[:] = images
        return {"pixel_values": pixels, "labels": torch.from_numpy(self.squares.labels[part])}


class Feed:
    """A loader's batches on a device: `pixel_values`, uint8 (B, 3, H, W), and `labels`, int64 (B,).

    On a GPU the next batch is copied on a stream of its own while the step runs. The time that the device stands idle
    for want of a batch is measured on the device, between the end of one step's work and the moment the next batch is
    there; on the CPU it is the time spent in the loader.
    """

    def __init__(self, loader: Loader, device: torch.device) -> None:
        self.loader, self.device = loader, device
        self.dataset = loader.dataset
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._idle: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._waited_s, self._images = 0.0, 0

    def __len__(self) -> int:
        return len(self.loader)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""
        self.loader.set_epoch(epoch)

    def skip(self, batches: int) -> "Feed":
        """Let the next pass, and no other, begin after so many batches."""
        self.loader.skipped = batches
        return self

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self.loader)
        done = self._mark()
        ready = self._fetch(batches)
        while ready is not None:
            # The next batch is under way before this one's step, so that whoever waits for the device in between, as
            # the Trainer does to log a loss, doesn't wait for a copy too.
            batch, ready = ready, self._fetch(batches)
            self._images += len(batch["labels"])
            go = self._mark()
            if done and go:
                self._idle.append((done, go))
            yield batch
            done = self._mark()

    def close(self) -> None:
        """End what loads ahead."""
        self.loader.close()

    def _fetch(self, batches: Iterator[list[Batch]]) -> Batch | None:
        if self.stream is not None:
            torch.cuda.current_stream().wait_stream(self.stream)  # the copy begun a step ago
        start = time.perf_counter()
        chunks = next(batches, None)
        self._waited_s += time.perf_counter() - start
        if chunks is None:
            return None
        return {name: self._join([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _join(self, parts: list[Tensor]) -> Tensor:
        if self.stream is None:
            return torch.cat(parts) if len(parts) > 1 else parts[0]
        shape = sum(len(part) for part in parts), *parts[0].shape[1:]
        layout = torch.contiguous_format if parts[0].is_contiguous() else torch.channels_last
        with torch.cuda.stream(self.stream):
            whole = torch.empty(shape, dtype=parts[0].dtype, device=self.device, memory_format=layout)
            for target, part in zip(torch.split(whole, [len(part) for part in parts]), parts, strict=True):
                target.copy_(part, non_blocking=True)
        whole.record_stream(torch.cuda.current_stream())
        return whole

    def _mark(self) -> torch.cuda.Event | None:
        if self.stream is None:
            return None
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def take(self) -> tuple[float, int]:
        """Return the seconds that the device waited for batches since the last call, and the images it got."""
        waited, images, self._waited_s, self._images = self._waited_s, self._images, 0.0, 0
        if self.stream is not None:
            torch.cuda.synchronize()
            waited = sum(done.elapsed_time(go) for done, go in self._idle) / 1000
            self._idle.clear()
        return waited, images


def feed_squares(squares: Squares, batch_size: int, device: torch.device) -> Feed:
    """Return a split's batches on the device, in order."""
    return Feed(SquareLoader(squares, batch_size, device.type == "cuda"), device)
