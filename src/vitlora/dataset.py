"""Torch datasets that hand out finished uint8 batches, and the sampler that numbers images through all epochs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from vitlora.augment import epoch_crops, epoch_order
from vitlora.images import crop_and_resize, decode
from vitlora.packed import Packed
from vitlora.sections.train import Augment
from vitlora.tensors import Squares

Batch = dict[str, Tensor]


class EpochSampler(Sampler[int]):
    """Yield ``epoch * count + index`` in a seeded order, so that whoever loads the image knows its epoch."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the Trainer calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return (self.epoch * self.count + int(index) for index in epoch_order(self.seed, self.epoch, self.count))


class TrainImages(Dataset[Batch]):
    """Training pictures, decoded, cropped and flipped when asked for; index as ``EpochSampler`` yields it.

    Gives `pixel_values`, uint8 (B, 3, size, size), and `labels`, int64 (B,).
    """

    def __init__(self, folder: Path, size: int, interpolation: str, augment: Augment, seed: int) -> None:
        self.packed = Packed(folder)
        self.labels = [int(row["label"]) for row in self.packed.rows]
        self.sizes = np.array([(int(row["width"]), int(row["height"])) for row in self.packed.rows], np.int64)
        self.size, self.interpolation = size, interpolation
        self.augment, self.seed = augment, seed
        self._drawn: tuple[int, np.ndarray, np.ndarray] | None = None  # the epoch whose crops are at hand

    def __len__(self) -> int:
        return len(self.packed)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Load a batch; torch's loader calls this in place of one ``__getitem__`` an image."""
        pairs = [divmod(index, len(self)) for index in indices]
        pixels = np.stack([self._load(epoch, row) for epoch, row in pairs])
        labels = torch.tensor([self.labels[row] for _, row in pairs], dtype=torch.int64)
        return {"pixel_values": torch.from_numpy(pixels), "labels": labels}

    def _load(self, epoch: int, row: int) -> np.ndarray:
        if self._drawn is None or self._drawn[0] != epoch:
            law = self.augment
            crops = epoch_crops(self.seed, epoch, self.sizes, law.scale, law.ratio, law.horizontal_flip_p)
            self._drawn = (epoch, *crops)
        _, boxes, flips = self._drawn
        left, top, right, bottom = (int(edge) for edge in boxes[row])
        box = (left, top, right, bottom)
        pixels = crop_and_resize(decode(self.packed[row]), box, self.size, self.interpolation)
        return pixels[:, :, ::-1] if flips[row] else pixels


class SquareImages(Dataset[Batch]):
    """A pre-transformed split as batches; nothing is decoded."""

    def __init__(self, squares: Squares) -> None:
        self.squares = squares

    def __len__(self) -> int:
        return len(self.squares.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Read a batch from the memory map: uint8 (B, 3, H, W) and int64 (B,)."""
        rows = list(indices)
        return {
            "pixel_values": torch.from_numpy(self.squares.images[rows]),
            "labels": torch.from_numpy(self.squares.labels[rows]),
        }
