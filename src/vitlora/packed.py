"""Many pictures in one file: the original bytes end to end, and a table of where each begins.

A hundred thousand small files cost seconds on every ``dvc repro``; two large ones cost nothing.
"""

import mmap
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from vitlora.errors import VitloraError
from vitlora.files import read_csv, write_csv

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
    """A folder that ``write_packed`` wrote. Cheap to send to a worker process: each opens the file for itself.

    Attributes:
        rows: One mapping from column name to text a picture.

    Raises:
        VitloraError: The table points outside the file, so one of the two is cut or foreign.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = read_csv(folder / INDEX)
        self.spans = [(int(row["offset"]), int(row["length"])) for row in self.rows]
        size = (folder / BYTES).stat().st_size
        if any(start < 0 or length < 0 or start + length > size for start, length in self.spans):
            raise VitloraError(f"{folder}: {INDEX} points past the end of {BYTES} ({size} bytes); make it anew")
        self._view: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> bytes:
        """Return one picture's bytes, read through a memory map."""
        start, length = self.spans[index]
        if length == 0:
            return b""
        if self._view is None:
            with closing((self.folder / BYTES).open("rb")) as file:
                self._view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._view[start : start + length]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_view": None}
