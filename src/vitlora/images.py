"""One way from a file's bytes to pixels, used alike for training, evaluation and prediction."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SCALED_PIXELS = 100_000_000
Box = tuple[int, int, int, int]


class BadImageError(ValueError):
    """The bytes are not a picture we can use; the message is the reason, without the file's name."""


def decode(data: bytes) -> Image.Image:
    """Decode a picture to RGB as a person would see it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits (Pillow's own
    ``convert`` would clip it to white), of an animation the first frame is taken. Content decides, not a file name.

    Args:
        data: The whole file: JPEG, PNG, WEBP, GIF, BMP or TIFF.

    Returns:
        RGB.

    Raises:
        BadImageError: Empty, of another format, cut short, corrupt, or so large that it may be a decompression bomb.
    """
    with _refusing():
        image = _open(data)
        image.load()
        return _to_rgb(_upright(image))


@dataclass(frozen=True)
class Inspected:
    """Width and height in px as seen upright; plain: a JPEG, RGB or grey, that is upright as it is stored."""

    width: int
    height: int
    plain: bool


def inspect(data: bytes) -> Inspected:
    """Refuse what ``decode`` refuses, at half its cost where the picture is a plain JPEG.

    Damage in a JPEG shows where its codes are read, and they are read to the last one at an eighth of the size too.

    Raises:
        BadImageError: As ``decode``.
    """
    with _refusing():
        image = _open(data)
        if image.format == "JPEG" and image.mode in ("RGB", "L") and not _is_turned(image):
            width, height = image.size
            image.draft(None, (1, 1))
            image.load()
            return Inspected(width, height, True)
    return Inspected(*decode(data).size, False)


def _open(data: bytes) -> ImageFile.ImageFile:
    if not data:
        raise BadImageError("empty file")
    return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever Pillow raises into the reason that a person reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata warns; the pixels may be fine
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except BadImageError:
        raise
    except UnidentifiedImageError:
        raise BadImageError(f"not a picture of a known format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadImageError(f"too many pixels: {error}") from None
    except Exception as error:  # on damaged files Pillow's plugins raise seven types, OSError to struct.error
        raise BadImageError(f"{type(error).__name__}: {error}") from None


def _upright(image: Image.Image) -> Image.Image:
    try:
        # Of an upright picture exif_transpose makes a copy, a quarter of the time it takes to decode it.
        return ImageOps.exif_transpose(image) if _is_turned(image) else image
    except Exception:  # broken metadata is no reason to lose a good picture
        return image


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # likewise
        return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _wide_grey(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _wide_grey(image: Image.Image) -> Image.Image:
    """Scale grey to 8 bits: 16-bit by its own range; 32-bit and float, which have none, by the least that fits."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64))
    tops = {"I": (255, 65535), "F": (1, 255, 65535)}.get(image.mode, ())
    top = next((top for top in tops if values.max(initial=0) <= top), 65535)
    return Image.fromarray((np.clip(values / top, 0, 1) * 255 + 0.5).astype(np.uint8))


def scaled_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return width and height in px once the shorter side is ``size``; the longer one is truncated.

    Raises:
        BadImageError: The picture is so long and narrow that scaled it would fill the memory.
    """
    scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if scaled[0] * scaled[1] > SCALED_PIXELS:
        raise BadImageError(f"{width} x {height} px is too long and narrow to be scaled to {size} px")
    return scaled


def resize_and_crop(image: Image.Image, size: int, interpolation: str) -> NDArray[np.uint8]:
    """Scale the shorter side to ``size`` and cut the centre square: torchvision's Resize and CenterCrop on PIL.

    Args:
        image: RGB.
        size: Side of the square, px.
        interpolation: `bilinear` or `bicubic`; Pillow's filters, which antialias.

    Returns:
        uint8 (3, size, size), RGB.

    Raises:
        BadImageError: The picture is too long and narrow.

    Source:
        torchvision.transforms.functional: the longer side is truncated, the crop offset is rounded half to even.
    """
    scaled = scaled_size(*image.size, size)
    if image.size != scaled:
        image = image.resize(scaled, FILTERS[interpolation])
    left, top = round((scaled[0] - size) / 2.0), round((scaled[1] - size) / 2.0)
    return to_array(image.crop((left, top, left + size, top + size)))


def crop_and_resize(image: Image.Image, box: Box, size: int, interpolation: str) -> NDArray[np.uint8]:
    """Cut a box and scale it to a square: torchvision's resized_crop on PIL.

    Args:
        image: RGB.
        box: Left, top, right, bottom in px, inside the picture.
        size: Side of the square, px.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        uint8 (3, size, size), RGB, channels last in memory as Pillow has them.
    """
    return np.array(image.crop(box).resize((size, size), FILTERS[interpolation])).transpose(2, 0, 1)


def to_array(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGB picture as uint8 (3, H, W)."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale pixels to 0..1 and standardise each channel, in the order of torchvision's ToTensor and Normalize.

    Args:
        images: uint8 (N, 3, H, W).
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.

    Returns:
        float32 (N, 3, H, W).
    """
    centre, spread = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - centre) / spread
