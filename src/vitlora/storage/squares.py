"""Splits that are decoded once: uint8 squares in one memory-mapped file, with their paths and labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, write_csv

PIXELS, INDEX = "images.npy", "index.csv"


@dataclass(frozen=True)
class Squares:
    """One pre-transformed split.

    Attributes:
        images: uint8 (N, 3, H, W), RGB, memory-mapped.
        labels: int64 (N,), positions in the class names.
        paths: Name of each image in its source.
        digests: SHA-256 of each image's file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    paths: list[str]
    digests: list[str]

    def pick(self, rows: Iterable[int]) -> "Squares":
        """Return some of them, in the order given."""
        rows = list(rows)
        names = ([texts[row] for row in rows] for texts in (self.paths, self.digests))
        return Squares(self.images[rows], self.labels[rows], *names)


def create_split(folder: Path, size: int, paths: Sequence[str], labels: Sequence[int], digests: Sequence[str]) -> int:
    """Write paths, labels and digests, and a file of black squares to fill in; return the byte where these begin."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / INDEX, ("path", "label", "sha256"), zip(paths, labels, digests, strict=True))
    pixels = np.lib.format.open_memmap(folder / PIXELS, mode="w+", dtype=np.uint8, shape=(len(paths), 3, size, size))
    return pixels.offset


def open_pixels(folder: Path, mode: Literal["r", "r+"]) -> NDArray[np.uint8]:
    """Map the squares into memory: uint8 (N, 3, H, W)."""
    return np.lib.format.open_memmap(folder / PIXELS, mode=mode)


def write_square(folder: Path, begin: int, place: int, square: NDArray[np.uint8]) -> None:
    """Fill in one square, uint8 (3, H, W); many processes may do so at a time.

    A write costs a fifth of a memory map, whose pages are faulted in one by one.
    """
    with (folder / PIXELS).open("r+b") as file:
        file.seek(begin + place * square.nbytes)
        file.write(square.data)


def load_split(folder: Path) -> Squares:
    """Read a split that preprocess wrote.

    Stored as uint8 after resize and crop, a quarter of float32; mean and std are applied where the model runs.

    Raises:
        VitloraError: Pixels and labels don't belong together.
    """
    try:
        images, rows = open_pixels(folder, "r"), read_csv(folder / INDEX)
    except ValueError as error:  # cut, no array at all, or one of Python objects, which are never loaded
        raise VitloraError(f"{folder / PIXELS}: {str(error).splitlines()[0]}; make it anew") from None
    if images.dtype != np.uint8 or len(images) != len(rows):
        raise VitloraError(f"{folder}: {images.dtype} {images.shape} pixels for {len(rows)} labels; make it anew")
    labels = np.array([int(row["label"]) for row in rows], np.int64)
    return Squares(images, labels, [row["path"] for row in rows], [row["sha256"] for row in rows])
