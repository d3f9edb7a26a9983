"""What a contestant is told: the same for all of them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common import cores


class NotHereError(RuntimeError):
    """The contestant can't run here; the message says why and becomes its row."""


def places(available: int, count: int) -> list[int]:
    """Return ``count`` row numbers: all again and again, or fewer at even distances, as rows come class by class."""
    if count < available:
        return [number * available // count for number in range(count)]
    return [number % available for number in range(count)]


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        data: Folder in Hub layout; empty where there is none.
        model: `ViT-B/16` or `ViT-S/14`.
        files: Folder of class folders of the same pictures as files, below train and val.
        train, val, labels: The same pictures as our preprocess writes them, repeated.
        base: Model folder.
        params: Parameter file of our pipeline.
        train_images, val_images: How many an epoch has; pictures are repeated to it.
        epochs: Measured ones and the one before them.
        busy_steps: Optimiser steps to profile in one more epoch, 0 for none.
        size: Side of the square, px.
        batch, accumulation: Images at once, and how often before a step; None is the tutorial's, for ours the preset's.
        workers: Loader processes; None is all cores but two, at most 14, for ours the preset's.
        changes: Of the parameter file, by dotted key.
        started: Unix time at which the process was started.
        out: File for the row.
    """

    data: str
    model: str
    files: str
    train: str
    val: str
    labels: str
    base: str
    params: str
    train_images: int
    val_images: int
    epochs: int
    busy_steps: int
    size: int
    batch: int | None
    accumulation: int | None
    workers: int | None
    tiny: bool
    changes: dict[str, Any]
    started: float
    out: str

    @property
    def all_epochs(self) -> int:
        """Epochs to ask for; the one that is profiled is cut short."""
        return self.epochs + (self.busy_steps > 0)

    @property
    def steps(self) -> tuple[int, int]:
        """Batch and accumulation, the tutorial's where nothing else is asked for."""
        return self.batch or 128, self.accumulation or 4

    @property
    def loaders(self) -> int:
        """Loader processes of a contestant that has some."""
        return max(1, min(14, cores() - 2)) if self.workers is None else self.workers

    def write(self, path: Path) -> None:
        """Save as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Load what ``write`` saved."""
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return cls(**content)
