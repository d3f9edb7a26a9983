"""From one input to the square that the model sees: the same path as in preprocess, in this process or another."""

import io
import sys
from dataclasses import dataclass, replace
from os import PathLike, fspath
from os.path import isdir, islink

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitlora.core.text import is_address
from vitlora.images.formats import MAX_BYTES, BadImageError, refuse_length, refuse_size
from vitlora.images.pixels import decode, read_picture, resize_and_crop
from vitlora.predict.inputs import STDIN

Picture = str | PathLike[str] | bytes | Image.Image | NDArray[np.uint8]
Square = NDArray[np.uint8]  # (3, H, W), RGB
AS_PNG = ("RGB", "RGBA", "L", "LA", "P", "1", "I;16", "I;16L", "I;16B")  # modes that a PNG keeps whole
LINK = "a link to a folder, which is not followed; name it itself to read what lies there"
FOLDER = "a folder, where one picture is wanted; name the files in it"
CONVERTED = ("CMYK", "YCbCr", "HSV", "LAB", "RGBX")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that could not be read.

    Attributes:
        name: The path or address; empty where a picture had none.
        reason: Why, in a few words.
    """

    name: str
    reason: str


def name_of(picture: Picture) -> str:
    """Return the path or address; empty for bytes, a PIL image and an array."""
    return fspath(picture) if isinstance(picture, str | PathLike) else ""


def opened(picture: Picture, allow_private: bool) -> bytes | Image.Image | Unreadable:
    """Read a file or address but decode nothing; a PIL image or array becomes plain RGB.

    Raises:
        TypeError, ValueError: It is no picture by its type, or an array of another shape or dtype.
    """
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return bytes(picture)
    if not isinstance(picture, str | PathLike | Image.Image):
        raise TypeError(
            f"got {type(picture).__name__}; the rule: a path, an address, bytes, a PIL image or a uint8 array (H, W, 3)"
        )
    try:
        if isinstance(picture, Image.Image):
            return _plain(picture)
        return _data(fspath(picture), allow_private)
    except (OSError, BadImageError, ValueError) as error:
        return Unreadable(name_of(picture), getattr(error, "strerror", None) or str(error))


def _data(name: str, allow_private: bool) -> bytes | Unreadable:
    if name == STDIN:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
        refuse_length(len(data))
        return data
    if is_address(name):
        return _fetched(name, allow_private)
    if isdir(name):
        return Unreadable(name, FOLDER if not islink(name) else LINK)
    return read_picture(name)


def _fetched(url: str, allow_private: bool) -> bytes | Unreadable:
    from vitlora.net.fetch import PICTURE, FetchError, PrivateError, read_url  # 0.05 s, for addresses only

    # The latter lets an address lead into one's own network, where other people's servers have no business.
    rules = replace(PICTURE, allowed=lambda address: True) if allow_private else PICTURE
    try:
        return read_url(url, rules)
    except PrivateError as error:
        return Unreadable(url, f"{error}; --allow-private reads it all the same")
    except FetchError as error:
        return Unreadable(url, str(error))


def _of_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"got an array {array.dtype} {array.shape}; the rule: uint8 (H, W, 3), RGB, 0 to 255")
    return Image.fromarray(array)


def _plain(image: Image.Image) -> Image.Image:
    """Return RGB as ``decode`` gives it of a file: upright, transparency on white, 16-bit grey scaled to 8 bits."""
    refuse_size(*image.size)
    if image.mode not in (*AS_PNG, *CONVERTED):
        raise BadImageError("unsupported", f"a PIL image of mode {image.mode}; convert it to RGB, L or I;16 first")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in CONVERTED:
        return upright.convert("RGB")
    if upright.mode == "RGB" and not upright.has_transparency_data:
        return upright
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return decode(buffer.getvalue())


def square(size: int, interpolation: str, item: bytes | Image.Image | Unreadable) -> Square | Unreadable:
    """Return the square that the model sees, uint8 (3, size, size), of what ``opened`` gave.

    Raises:
        BadImageError: The bytes are no picture, or a damaged one; or its shape is of none that can be scaled.
    """
    if isinstance(item, Unreadable):
        return item
    image = decode(item) if isinstance(item, bytes) else item
    refuse_size(*image.size)
    return resize_and_crop(image, size, interpolation)
