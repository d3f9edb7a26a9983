"""Batches on their way to the device: loaded in chunks, copied ahead of time, and what had to be waited for."""

import time
from collections.abc import Generator, Iterator, Sized
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
from torch import Tensor

from vitlora.storage.squares import Squares

Batch = dict[str, Tensor]


class Loader(Protocol):
    """Yields the pixels of batches, uint8 (B, 3, H, W), each as chunks in CPU memory that follow one another.

    They may be read until the next batch is asked for, or, where a device does so, until the event that is sent then.

    Attributes:
        skipped: Batches that the next pass leaves out.
    """

    skipped: int

    @property
    def at_work(self) -> int:
        """Worker processes that load."""

    @property
    def dataset(self) -> Sized:
        """What the Trainer asks for the number of images."""

    def __len__(self) -> int: ...

    def beside(self) -> Batch:
        """Return what stands beside each image of the next pass, in its order: `labels`, int64 (N,), and other rows."""

    def __iter__(self) -> Generator[list[Tensor], torch.cuda.Event | None, None]: ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""

    def close(self) -> None:
        """End what loads ahead."""


class SquareLoader:
    """A pre-transformed split in order, read by a thread a batch ahead: worker processes have nothing to decode."""

    at_work = 0

    def __init__(self, squares: Squares, batch_size: int, pinned: bool, batches: range | None = None) -> None:
        self.squares, self.batch_size, self.pinned = squares, batch_size, pinned
        self.dataset = squares.labels
        self.skipped = 0
        self.batches = range(-(-len(squares.labels) // batch_size)) if batches is None else batches

    def __len__(self) -> int:
        return len(self.batches)

    def set_epoch(self, epoch: int) -> None:
        """Every pass is the same."""

    def close(self) -> None:
        """Its thread ends with each pass."""

    def beside(self) -> Batch:
        """Return the labels of the batches."""
        labels = torch.from_numpy(self.squares.labels)
        parts = [labels[number * self.batch_size : (number + 1) * self.batch_size] for number in self.batches]
        return {"labels": torch.cat(parts) if parts else labels[:0]}

    def __iter__(self) -> Generator[list[Tensor], torch.cuda.Event | None, None]:
        with ThreadPoolExecutor(1) as reader:
            ahead = reader.submit(self._read, self.batches.start)
            for number in self.batches:
                pixels = ahead.result()
                ahead = reader.submit(self._read, number + self.batches.step)
                yield [pixels]  # torch itself waits for the copy before it uses this memory again

    def _read(self, number: int) -> Tensor:
        images = self.squares.images[number * self.batch_size : (number + 1) * self.batch_size]
        pixels = torch.empty(images.shape, dtype=torch.uint8, pin_memory=self.pinned)
        pixels.numpy()[:] = images
        return pixels


class Feed:
    """A loader's batches on a device: `pixel_values`, uint8 (B, 3, H, W), and what stands beside them: `labels`, ...

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
        beside, at = {name: rows.to(self.device) for name, rows in self.loader.beside().items()}, 0
        batches = iter(self.loader)
        done = self._mark()
        try:
            ready = self._fetch(batches, None)
            while ready is not None:
                # The next batch is under way before this one's step, so that whoever waits for the device in between,
                # as the Trainer does to log a loss, doesn't wait for a copy too.
                pixels, copied = ready
                if copied:
                    torch.cuda.current_stream().wait_event(copied)  # begun a step ago
                ready = self._fetch(batches, copied)
                self._images += len(pixels)
                go = self._mark()
                if done and go:
                    self._idle.append((done, go))
                end = at + len(pixels)
                yield {"pixel_values": pixels, **{name: rows[at:end] for name, rows in beside.items()}}
                at = end
                done = self._mark()
        finally:
            if self.stream is not None:  # a copy whose batch nobody has taken
                torch.cuda.current_stream().wait_stream(self.stream)

    def close(self) -> None:
        """End what loads ahead."""
        self.loader.close()

    def _fetch(
        self, batches: Generator[list[Tensor], torch.cuda.Event | None, None], copied: torch.cuda.Event | None
    ) -> tuple[Tensor, torch.cuda.Event | None] | None:
        """Begin to copy the next batch.

        Args:
            batches: Of the loader.
            copied: End of the copy before.

        Returns:
            Its pixels, and the event from which on they are there; None after the last batch.
        """
        start = time.perf_counter()
        try:
            parts = batches.send(copied)
        except StopIteration:
            return None
        finally:
            self._waited_s += time.perf_counter() - start
        if self.stream is None:
            return torch.cat(parts), None
        shape = sum(map(len, parts)), *parts[0].shape[1:]
        layout = torch.contiguous_format if parts[0].is_contiguous() else torch.channels_last
        # Memory of the stream that takes the batches, which may hold as many as it likes. The copy waits for what that
        # stream has been given by now: what still reads memory that it has freed since, and what fills new memory with
        # one value, as torch does where algorithms are to be deterministic.
        whole = torch.empty(shape, dtype=torch.uint8, device=self.device, memory_format=layout)
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for target, part in zip(torch.split(whole, [len(part) for part in parts]), parts, strict=True):
                target.copy_(part, non_blocking=True)
        return whole, self.stream.record_event()

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


def feed_squares(squares: Squares, batch_size: int, device: torch.device, batches: range | None = None) -> Feed:
    """Return a split's batches on the device, in order; or those of them whose numbers are given."""
    return Feed(SquareLoader(squares, batch_size, device.type == "cuda", batches), device)
