"""Many pictures in a few files: the original bytes end to end, and a table of where each begins.

A hundred thousand small files cost seconds on every ``dvc repro``; a few large ones cost nothing. The table is mapped
into memory, so that ten million pictures take no more of it than ten, and every process reads the same pages.
"""

import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError

BYTES, SHARDS, INDEX, TEXTS = "images-{:05d}.bin", "images-*.bin", "index.npy", "texts.bin"
SHARD_BYTES = 2_000_000_000
AT_ONCE = 4096  # rows of the table written together
BLOCK = 1_000_000  # rows of it checked together
NUMBERS = {"label": "<i4", "width": "<i4", "height": "<i4", "plain": "<u1"}
DIGEST = "sha256"
# The texts of a row stand end to end, each with its length, in bytes, in a field that is named as the column.
PLACE = [("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("text_at", "<i8")]
Item = tuple[Sequence[object], bytes]


def write_packed(folder: Path, columns: Sequence[str], items: Iterable[Item], shard_bytes: int = SHARD_BYTES) -> int:
    """Write pictures in the order given.

    Args:
        folder: Created; gets ``images-00000.bin`` and so on, ``index.npy`` and ``texts.bin``.
        columns: Names of the values that stand beside each picture: whole numbers where ``NUMBERS`` has the name,
            a SHA-256 in hex where it is ``sha256``, else text.
        items: One (values, bytes) pair a picture; read lazily, so memory stays flat.
        shard_bytes: A file of images ends with the picture that reaches this size.

    Returns:
        The number of pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(SHARDS):
        old.unlink()
    kind, count = _dtype(columns), 0
    with (folder / INDEX).open("wb") as index, (folder / TEXTS).open("wb") as texts:
        _write_header(index, kind, 0)  # of the same length, however many there will be
        rows = _append(folder, texts, columns, items, shard_bytes)
        while some := list(islice(rows, AT_ONCE)):
            index.write(np.array(some, kind).tobytes())
            count += len(some)
        index.seek(0)
        _write_header(index, kind, count)
    return count


def _dtype(columns: Sequence[str]) -> np.dtype[Any]:
    kinds = {DIGEST: "V32", **NUMBERS}
    return np.dtype([(name, kinds.get(name, "<i4")) for name in columns] + PLACE)


def _write_header(file: BinaryIO, kind: np.dtype[Any], count: int) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_2_0(file, about)


def _append(
    folder: Path, texts: BinaryIO, columns: Sequence[str], items: Iterable[Item], shard_bytes: int
) -> Iterator[tuple[object, ...]]:
    """Write bytes and texts, and yield a row of the table a picture."""
    shard, file = 0, (folder / BYTES.format(0)).open("wb")
    try:
        for values, data in items:
            if file.tell() >= shard_bytes:
                file.close()
                shard, file = shard + 1, (folder / BYTES.format(shard + 1)).open("wb")
            place = shard, file.tell(), len(data), texts.tell()
            fields = [_field(texts, name, value) for name, value in zip(columns, values, strict=True)]
            file.write(data)
            yield (*fields, *place)
    finally:
        file.close()


def _field(texts: BinaryIO, name: str, value: object) -> object:
    if name in NUMBERS:
        return int(str(value))
    if name == DIGEST:
        return bytes.fromhex(str(value))
    return texts.write(str(value).encode(errors="surrogateescape"))


class Packed:
    """A folder that ``write_packed`` wrote. Cheap to send to another process, which maps the table for itself.

    Attributes:
        index: Structured (N,), memory-mapped: the columns of numbers; `sha256`, 32 bytes; the lengths of texts; and
            ``PLACE``.

    Raises:
        VitloraError: The table is missing, damaged, or points outside the files, so one of them is cut or foreign.
    """

    def __init__(self, folder: Path) -> None:
        self.__setstate__({"folder": folder})
        self._check()

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.folder = state["folder"]
        self._files: dict[str, int] = {}
        for name in (INDEX, TEXTS):
            if not (self.folder / name).is_file():
                raise VitloraError(
                    f"{self.folder / name}: missing; an earlier version wrote index.csv in its place. Make the folder "
                    "anew: `dvc repro`"
                )
        try:
            self.index: np.memmap[Any, Any] = np.load(self.folder / INDEX, mmap_mode="r")
            self.columns = [name for name in self.index.dtype.names or () if name not in dict(PLACE)]
            whole = self.index.offset + self.index.nbytes == (self.folder / INDEX).stat().st_size
            if self.index.ndim != 1 or self.index.dtype != _dtype(self.columns) or not whole:
                raise ValueError(f"{self.index.dtype} {self.index.shape}")
        except Exception as error:  # a damaged header is parsed as Python, which raises of all kinds
            raise self._damaged(f"{type(error).__name__}: {error}".splitlines()[0][:80]) from None

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    def _check(self) -> None:
        files = [BYTES.format(number) for number in range(len(list(self.folder.glob(SHARDS))))]
        sizes, texts = [(self.folder / name).stat().st_size for name in files], (self.folder / TEXTS).stat().st_size
        for at in range(0, len(self.index), BLOCK):  # its pages are read, and may be dropped again
            rows = self.index[at : at + BLOCK]
            for shard in np.unique(rows["shard"]).tolist():
                if not 0 <= shard < len(files):
                    raise self._damaged(f"file {shard} of {len(files)}")
                ours = rows[rows["shard"] == shard]
                self._check_ends(ours["offset"], [ours["length"]], files[shard], sizes[shard])
            self._check_ends(rows["text_at"], [rows[name] for name in self._texts], TEXTS, texts)

    def _check_ends(self, begins: NDArray[np.int64], lengths: list[NDArray[np.int32]], name: str, size: int) -> None:
        total, below = np.zeros(len(begins), np.int64), begins < 0
        for each in lengths:
            total += each
            below |= each < 0  # each by itself too: a sum of damaged numbers may be right
        if below.any() or (begins > size - total).any():
            raise VitloraError(f"{self.folder}: {INDEX} points past the end of {name} ({size} bytes); make it anew")

    @cached_property
    def _texts(self) -> list[str]:
        return [name for name in self.columns if name not in (*NUMBERS, DIGEST)]

    @property
    def rows(self) -> list[dict[str, str]]:
        """What stands beside all pictures; of many, ``about``, ``texts`` and ``numbers`` take less memory."""
        return [self.about(row) for row in range(len(self))]

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return int(self.index["length"].sum(dtype=np.int64))

    def about(self, row: int) -> dict[str, str]:
        """Return what stands beside a picture, as text, by column name."""
        record, found = self.index[row], {}
        at = int(record["text_at"])
        for name in self.columns:
            if name in NUMBERS:
                found[name] = str(record[name])
            elif name == DIGEST:
                found[name] = record[name].tobytes().hex()
            else:
                text = self._read(TEXTS, int(record[name]), at)
                found[name], at = text.decode(errors="surrogateescape"), at + len(text)
        return found

    def texts(self, column: str) -> Iterator[str]:
        """Yield one column, as text, row by row."""
        if column == DIGEST:
            return (digest.tobytes().hex() for digest in self.index[DIGEST])
        return (self.about(row)[column] for row in range(len(self)))

    def numbers(self, *columns: str) -> NDArray[np.int64]:
        """Return columns of whole numbers: int64 (N, number of columns)."""
        return np.stack([self.index[column].astype(np.int64) for column in columns], axis=1)

    def _damaged(self, why: str) -> VitloraError:
        return VitloraError(f"{self.folder}: {INDEX} is damaged ({why}); make it anew")

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> bytes:
        """Return one picture's bytes."""
        record = self.index[row]
        return self._read(BYTES.format(record["shard"]), int(record["length"]), int(record["offset"]))

    def _read(self, name: str, length: int, offset: int) -> bytes:
        if name not in self._files:  # each process opens it for itself
            self._files[name] = os.open(self.folder / name, os.O_RDONLY)
            weakref.finalize(self, os.close, self._files[name])
        # Through a memory map, every page that was ever read would count as this process's memory.
        return os.pread(self._files[name], length, offset)
