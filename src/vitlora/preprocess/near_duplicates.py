"""Pictures that look alike though their files differ: re-encoded, resized, brightened, mirrored or slightly cropped.

A thumbnail of 16 x 16 grey levels gives 63 bits, the signs of its lowest frequencies. Pairs that differ in few of them
are then held against each other level by level. A hundred thousand pictures are five thousand million pairs, so they
are put in order of how much brighter their upper half is, and only neighbours are compared. All sums are of whole
numbers, so they are the same on every machine.

The library for such hashes, imagehash, would bring SciPy and PyWavelets into a stage that loads neither, and takes one
picture at a time.

Source:
    Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1; signs in place of
    its median, so that mirroring a picture turns known bits over.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 16  # of a thumbnail
MIN_SIDE = 32  # px of the picture; digits and icons below it are all alike
MIN_CONTRAST = 4  # grey levels, standard deviation of the thumbnail; plain colours are all alike
# Together these miss one in a hundred altered copies and take no other photograph for one: benchmarks/duplicates.py.
MAX_TILT = 0.15  # difference in tilt; leaves a fifth of the pairs of photographs
MAX_BITS = 16
MIN_SIMILARITY = 0.88
MAX_CANDIDATES = 256  # that one is held against level by level, so that thousands alike stay cheap
MAX_PAIRS = 8  # kept of those
ROWS, COLUMNS = 64, 4096  # compared at a time: 2 MB, which a processor's cache holds
COSINES = np.rint(64 * np.cos(np.pi / 32 * np.outer(np.arange(8), 2 * np.arange(SIDE) + 1))).astype(np.int32)
ARRAYS = ("thumbnails", "tilts", "hashes", "places")
Numbers = NDArray[np.int64]


class Sketches:
    """What ``find_alike`` needs, in files that all processes map into memory: sent to another, it is their folder.

    Args:
        folder: As ``sketch`` wrote it.

    Attributes:
        thumbnails: uint8 (N, 16, 16), in order of their tilts.
        tilts: float64 (N,), from -1 to 1.
        hashes: uint64 (N,).
        places: int64 (N,): where each stood before.
    """

    thumbnails: NDArray[np.uint8]
    tilts: NDArray[np.float64]
    hashes: NDArray[np.uint64]
    places: Numbers

    def __init__(self, folder: Path) -> None:
        self.__setstate__({"folder": folder})

    def __getstate__(self) -> dict[str, Path]:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.folder = state["folder"]
        for name in ARRAYS:
            setattr(self, name, np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r")))


class Pair(NamedTuple):
    """Two places in the list compared, the earlier first; similarity: correlation of the thumbnails, at most 1."""

    first: int
    second: int
    similarity: float
    mirrored: bool


def has_contrast(thumbnails: Sequence[bytes]) -> NDArray[np.bool_]:
    """Tell which thumbnails, of 16 x 16 levels row by row, show enough to be compared: (N,)."""
    found = [_spread(_flat(block)) >= (MIN_CONTRAST * SIDE**2) ** 2 for block in _blocks(thumbnails)]
    return np.concatenate([np.zeros(0, np.bool_), *found])


def sketch(thumbnails: Sequence[bytes], folder: Path) -> Sketches:
    """Write what ``find_alike`` needs, of thumbnails of 16 x 16 levels row by row; a block at a time is in memory.

    Args:
        thumbnails: Of the pictures to compare.
        folder: Gets the files; it exists.
    """
    tilts, hashes = [np.zeros(0)], [np.zeros(0, np.uint64)]
    for block in _blocks(thumbnails):
        tilts.append(correlate(block, TILTED))
        hashes.append(hash_bits(block))
    places = np.argsort(np.concatenate(tilts), kind="stable")
    for name, values in (("tilts", np.concatenate(tilts)), ("hashes", np.concatenate(hashes))):
        np.save(folder / f"{name}.npy", values[places])
    np.save(folder / "places.npy", places)
    shape = len(places), SIDE, SIDE
    ordered = np.lib.format.open_memmap(folder / "thumbnails.npy", "w+", np.uint8, shape)
    for at in range(0, len(places), COLUMNS):
        ordered[at : at + COLUMNS] = _joined([thumbnails[place] for place in places[at : at + COLUMNS].tolist()])
    ordered.flush()
    return Sketches(folder)


def _blocks(thumbnails: Sequence[bytes]) -> Iterator[NDArray[np.uint8]]:
    return (_joined(thumbnails[at : at + COLUMNS]) for at in range(0, len(thumbnails), COLUMNS))


def _joined(thumbnails: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, SIDE, SIDE)


def hash_bits(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return the bits of each thumbnail, uint8 (N, 16, 16): uint64 (N,); that of the mean is 0."""
    return _pack(COSINES @ thumbnails.astype(np.int32) @ COSINES.T > 0)


def find_alike(sketches: Sketches, begin: int) -> list[Pair]:
    """Return pairs of one of ``ROWS`` pictures with a later one, at most ``MAX_PAIRS`` each, the most alike.

    Args:
        sketches: Of all pictures.
        begin: First of these pictures; later means in order of tilt.
    """
    first, second = _candidates(sketches, begin)
    one, other = sketches.thumbnails[first], sketches.thumbnails[second]
    plain, turned = correlate(one, other), correlate(one, other[:, :, ::-1])
    best = np.maximum(plain, turned)
    order = np.lexsort((second, -best, first))
    order = order[_rank(first[order]) < MAX_PAIRS]
    both = np.sort(sketches.places[np.stack([first, second], axis=1)], axis=1).tolist()
    return [
        Pair(both[at][0], both[at][1], float(best[at]), bool(turned[at] > plain[at]))
        for at in order[best[order] >= MIN_SIMILARITY].tolist()
    ]


def correlate(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the correlation of each thumbnail, uint8 (N, 16, 16), with its partner or the only one: (N,)."""
    a, b = _flat(first), _flat(second)
    common = SIDE**2 * _dot(a, b) - _sum(a) * _sum(b)
    return np.asarray(common / np.sqrt(np.maximum(_spread(a) * _spread(b), 1.0)))


def _flat(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    return thumbnails.reshape(-1, SIDE**2).astype(np.float32)


def _dot(a: NDArray[np.float32], b: NDArray[np.float32]) -> Numbers:
    # Exact in any order of summing: 256 products of two bytes stay below 2**24.
    return np.asarray(np.einsum("np,np->n", a, b), np.int64)


def _spread(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return each row's variance, times its length squared."""
    return (SIDE**2 * _dot(values, values) - _sum(values) ** 2).astype(np.float64)


def _sum(values: NDArray[np.float32]) -> Numbers:
    return np.asarray(values.sum(axis=1), np.int64)


def _pack(signs: NDArray[np.bool_]) -> NDArray[np.uint64]:
    bits = signs.reshape(-1, 64).copy()
    bits[:, 0] = False
    return np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)


# A mirrored picture has the opposite sign wherever the horizontal frequency is odd.
MIRROR = _pack(np.tile(np.arange(8) % 2 == 1, (8, 1)))[0]
# Bright at the top and dark below, so that mirroring changes no picture's likeness to it.
TILTED = np.repeat(COSINES[1] + 64, SIDE).reshape(1, SIDE, SIDE).astype(np.uint8)


def _candidates(sketches: Sketches, begin: int) -> tuple[Numbers, Numbers]:
    """Return earlier and later ones of pairs that differ in few bits, the first ``MAX_CANDIDATES`` of each row."""
    nothing = np.zeros(0, np.int64)
    firsts, seconds = zip((nothing, nothing), *_near(sketches, begin), strict=True)
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    order = np.argsort(first, kind="stable")  # each row's later places have come in order
    first, second = first[order], second[order]
    kept = _rank(first) < MAX_CANDIDATES
    return first[kept], second[kept]


def _rank(ordered: Numbers) -> Numbers:
    """Number the entries of each run of equal ones from 0."""
    return np.arange(len(ordered)) - np.searchsorted(ordered, ordered)


def _near(sketches: Sketches, begin: int) -> Iterator[tuple[Numbers, Numbers]]:
    rows = np.arange(begin, min(begin + ROWS, len(sketches.hashes)))
    counts = np.zeros(len(rows), np.int64)
    end = int(np.searchsorted(sketches.tilts, sketches.tilts[rows[-1]] + MAX_TILT, "right"))
    for at in range(begin, end, COLUMNS):
        unlike = sketches.hashes[rows, None] ^ sketches.hashes[None, at : min(at + COLUMNS, end)]
        bits = np.minimum(np.bitwise_count(unlike), np.bitwise_count(unlike ^ MIRROR))
        row, column = np.divmod(np.flatnonzero(bits <= MAX_BITS), bits.shape[1])
        later = rows[row] < at + column
        yield rows[row[later]], at + column[later]
        counts += np.bincount(row[later], minlength=len(rows))
        rows, counts = rows[counts < MAX_CANDIDATES], counts[counts < MAX_CANDIDATES]
