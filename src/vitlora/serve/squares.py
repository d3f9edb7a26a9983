"""What a decoding process does. It imports this and little else, so that it starts soon and is small."""

import io
import signal
from functools import partial

from PIL import Image

from vitlora.images.formats import refuse_size
from vitlora.predict.classifier import Item, Make
from vitlora.predict.pictures import Square, Unreadable, square


def square_maker(size: int, interpolation: str, pixels: int) -> Make:
    """Return what a decoder does to a picture of one model.

    Args:
        size: Side of the square that the model sees, px.
        interpolation: Its filter.
        pixels: Most pixels of a picture.
    """
    return partial(_square, size, interpolation, pixels)


def _square(size: int, interpolation: str, pixels: int, item: Item) -> Square | Unreadable:
    # A service manager may signal the whole group; requests under way need their decoder, which ends with its parent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if isinstance(item, bytes) and (shape := _shape(item)):
        refuse_size(*shape, pixels)
    return square(size, interpolation, item)


def _shape(data: bytes) -> tuple[int, int] | None:
    """Return width and height in px as the header says; None where decoding will say what is wrong."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.size
    except Exception:  # Pillow's readers raise all kinds
        return None


def ready(_: object) -> bool:
    """Say that the process has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return True
