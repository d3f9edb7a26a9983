"""Scale large pictures down before they are packed, where the originals don't fit on the disk."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

from PIL import Image

from vitlora.core.cores import cores
from vitlora.download.found import Picture
from vitlora.download.hub_layout import Row
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect, scaled_size
from vitlora.images.sandbox import Isolated

QUALITY = 95
LONGEST = 65_500  # px, in a JPEG
AT_ONCE = 16  # pictures sent to a process
Pictured = TypeVar("Pictured", Picture, Row)


@contextmanager
def scaling(side: int | None) -> Iterator[Callable[[Iterable[Pictured]], Iterator[Pictured]]]:
    """Give a function that scales down what is larger, in as many processes as there are cores, in order.

    Args:
        side: The most px that the shorter side may have; None lets all through.
    """
    if side is None:
        yield iter
        return
    with Isolated(cores()) as workers:
        yield partial(_scaled, workers, side)


def _scaled(workers: Isolated, side: int, pictures: Iterable[Pictured]) -> Iterator[Pictured]:
    """What can't be decoded goes on as it is, for preprocess to judge and name."""
    sent: deque[Pictured] = deque()

    def data() -> Iterator[bytes]:
        for picture in pictures:
            sent.append(picture)
            yield picture.data

    for smaller in workers.map(partial(scale_down, side), data(), AT_ONCE):
        picture = sent.popleft()
        yield picture if isinstance(smaller, BadImageError | None) else replace(picture, data=smaller)


def scale_down(side: int, data: bytes) -> bytes | None:
    """Return a picture whose shorter side has ``side`` px, as JPEG: upright, RGB, decoded as everywhere.

    Returns:
        None where it is no larger, its file would be, or it is one of more than 8 bits that a person is to look at.

    Raises:
        BadImageError: As ``decode``.
    """
    found = inspect(data)
    size = scaled_size(found.width, found.height, side)
    if min(found.width, found.height) <= side or max(size) > LONGEST or found.note:
        return None
    file = io.BytesIO()
    decode(data, checked=True).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
    return file.getvalue() if file.tell() < len(data) else None
