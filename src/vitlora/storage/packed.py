"""Many pictures in one file: the original bytes end to end, and a table of where each begins.

A hundred thousand small files cost seconds on every ``dvc repro``; two large ones cost nothing.
"""

import csv
import os
import weakref
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, write_csv

BYTES, INDEX = "images.bin", "index.csv"
Item = tuple[Sequence[object], bytes]


def write_packed(folder: Path, columns: Sequence[str], items: Iterable[Item]) -> int:
    """Write pictures in the order given.

    Args:
        folder: Created; gets ``images.bin`` and ``index.csv``.
        columns: Names of the values that stand beside each picture; ``offset`` and ``length`` (bytes) are added.
        items: One (values, bytes) pair a picture; read lazily, so memory stays flat.

    Returns:
        The number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / BYTES).open("wb") as file:
        rows = [_append(file, values, data) for values, data in items]
    write_csv(folder / INDEX, [*columns, "offset", "length"], rows)
    return len(rows)


def _append(file: BinaryIO, values: Sequence[object], data: bytes) -> list[object]:
    offset = file.tell()
    file.write(data)
    return [*values, offset, len(data)]


class Packed:
    """A folder that ``write_packed`` wrote. Cheap to send to a worker process: two numbers a picture.

    Raises:
        VitloraError: The table points outside the file, so one of the two is cut or foreign.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spans = self.numbers("offset", "length")
        self._file: int | None = None
        size = (folder / BYTES).stat().st_size
        # Each by itself too: a sum of damaged numbers may wrap around.
        if (self.spans < 0).any() or (self.spans > size).any() or (self.spans.sum(axis=1) > size).any():
            raise VitloraError(f"{folder}: {INDEX} points past the end of {BYTES} ({size} bytes); make it anew")

    @cached_property
    def rows(self) -> list[dict[str, str]]:
        """One mapping from column name to text a picture."""
        try:
            return read_csv(self.folder / INDEX)
        except csv.Error as error:
            raise self._damaged(error) from None

    def numbers(self, *columns: str) -> NDArray[np.int64]:
        """Return columns of whole numbers: int64 (N, number of columns)."""
        try:
            values = [[int(row[column]) for column in columns] for row in self.rows]
            return np.array(values, np.int64).reshape(-1, len(columns))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> VitloraError:
        return VitloraError(f"{self.folder}: {INDEX} is damaged ({type(error).__name__}: {error}); make it anew")

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: int) -> bytes:
        """Return one picture's bytes."""
        start, length = self.spans[index]
        if self._file is None:  # each process opens it for itself
            self._file = os.open(self.folder / BYTES, os.O_RDONLY)
            weakref.finalize(self, os.close, self._file)
        # Through a memory map, every page that was ever read would count as this process's memory.
        return os.pread(self._file, length, start)

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "spans": self.spans, "_file": None}
