"""Where a training epoch's time goes: one line for people, one row in a file that nothing tracks."""

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from vitlora.core.cores import cores
from vitlora.core.text import counted
from vitlora.model.batches import Feed

TIMINGS = Path(".work/train_timing.csv")
COLUMNS = ("epoch", "images", "train_s", "images_per_s", "data_wait_s", "data_wait_share", "val_s", "val_images_per_s")
STARVED = 0.1  # share of an epoch spent waiting for images from which a note is worth its line


class Timing:
    """Clock of an epoch.

    Args:
        decoder: What decodes the training photos.

    Attributes:
        feed: Of the training batches; set once there is one.
        images: Of the last epoch.
        images_of_all: Of it, where several processes share each step; else 0.
        waited_s: How long its device, or on a CPU the processor, waited for them.
    """

    def __init__(self, decoder: str) -> None:
        self.decoder = decoder
        self.feed: Feed | None = None
        self._rows: list[tuple[object, ...]] = []
        self.images = self.images_of_all = 0
        self._start: float | None = None

    def begin(self) -> None:
        """Start an epoch."""
        self._start = time.perf_counter()

    def end(self) -> None:
        """End its training part, once the device has caught up."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._train_s = time.perf_counter() - (self._start or 0.0)
        self.waited_s, images = self.feed.take() if self.feed else (0.0, 0)
        self.images = self.images_of_all or images

    def report(self, epoch: int, val_s: float, val_rate: float) -> Iterator[str]:
        """Add the epoch to the file and yield the line about it, and what to change if the loader holds it up."""
        if not self.images:
            return  # resumed where only validation was due
        rate, share = self.images / self._train_s, self.waited_s / self._train_s
        figures = (self._train_s, rate, self.waited_s, share, val_s, val_rate)
        self._rows.append((epoch, self.images, *(round(figure, 3) for figure in figures)))
        TIMINGS.parent.mkdir(parents=True, exist_ok=True)
        with TIMINGS.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([COLUMNS, *self._rows])
        workers = self.feed.loader.at_work if self.feed else 0
        by = f" from {counted(workers, 'worker')}" if workers else ""
        yield (
            f"  {rate:,.0f} images/s, {share:.1%} of {self._train_s:.1f} s waiting for images{by}; val {val_rate:,.0f} "
            f"images/s, {val_s:.1f} s"
        )
        if share > STARVED:
            faster = "" if self.decoder == "simplejpeg" else ", or set train.decoder: simplejpeg"
            yield (
                f"  note: loading is the bottleneck; raise train.dataloader_num_workers (this machine has "
                f"{cores()} cores){faster}"
            )
