"""One way from a file's bytes to pixels, used alike for training, evaluation and prediction."""

import io
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from vitlora.images import tiff
from vitlora.images.formats import MAX_BYTES, BadImageError, Reason, essence, refuse_length, refuse_size, sole_scan

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SCALED_PIXELS = 100_000_000
BAND = 256  # rows
THUMBNAIL = 16  # px, the side of a square
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
NO_LEVEL = "Could not determine subsampling level"  # TurboJPEG has six of them; the decoder below it takes all
AHEAD = 8  # bytes
RARE = ("lzma", "zstd", "webp", "tiff_sgilog", "tiff_sgilog24", "tiff_thunderscan")  # what a libtiff may lack
# Its directory ends early, or the places and lengths of its strips or tiles are beyond the end.
CUT = r"Corrupt EXIF data|Tag data larger than file\. Skipping tag (25[67]|273|279|324|325)\b"
PILLOW_SAYS: tuple[tuple[str, Reason], ...] = (
    ("decoder error -9", "bomb"),  # it got no memory
    ("truncated", "truncated"),
    ("only got", "truncated"),
    ("larger than file", "truncated"),
    ("palette size", "corrupt"),
    ("unsupported", "unsupported"),
    ("not available", "unsupported"),
)
PNG_DEPTH = 24  # byte of the file
LITTLE = 0.1  # of the range; less is most often a camera's 12 bits in a file of 16
SLACK = 0.01  # of the range, as resizing leaves beyond it
Box = tuple[int, int, int, int]


class Levels(NamedTuple):
    """Of a picture of more than 8 bits: what black and white are, and the lowest and highest value that it has."""

    black: float
    white: float
    lowest: float
    highest: float


def read_picture(path: Path | str) -> bytes:
    """Read a file for ``decode``: only a regular one, which can't keep us waiting, and never more than may be used.

    Raises:
        OSError: It is not there or may not be read.
        BadImageError: It is a folder, pipe, socket or device, or longer than ``MAX_BYTES``.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise BadImageError("not_an_image", "not a regular file")
        refuse_length(status.st_size)
        return file.read(MAX_BYTES + 1)


def decode(data: bytes, checked: bool = False) -> Image.Image:
    """Decode a picture to RGB as a person would see it.

    EXIF orientation is applied, transparency is laid on white, 16-bit grey is scaled to 8 bits (Pillow's own
    ``convert`` would clip it to white), of an animation the first frame is taken. Content decides, not a file name.
    Colour profiles are passed over, as in the tutorials and training sets that models come from.

    Args:
        data: The whole file: JPEG, PNG, WEBP, GIF, BMP or TIFF.
        checked: ``inspect`` has passed it, so a JPEG's codes need not be read twice.

    Returns:
        RGB.

    Raises:
        BadImageError: Empty, of another format, cut short, corrupt, too small or so large that it may be a
            decompression bomb; ``reason`` tells which.
    """
    with _refusing():
        kind, kept = essence(data)
        if kind == "JPEG" and not checked:
            _refuse_codes(kept)
        return _decode(kind, kept)[0]


@dataclass(frozen=True, slots=True)
class Inspected:
    """Width and height in px as seen upright; plain: a JPEG, RGB or grey, that is upright as it is stored; the format
    and the mode by Pillow's names; the picture in 16 x 16 grey levels, stretched to a square, row by row; what a person
    should know of its levels, if it has more than 8 bits and shows little of them.
    """

    width: int
    height: int
    plain: bool
    kind: str
    mode: str
    thumbnail: bytes
    note: str = ""


def inspect(data: bytes) -> Inspected:
    """Refuse what ``decode`` refuses, at half its cost where the picture is a plain JPEG, and tell what it is.

    Damage in a JPEG shows where its codes are read, and they are read to the last one at an eighth of the size too.

    Raises:
        BadImageError: As ``decode``.
    """
    with _refusing():
        kind, kept = essence(data)
        grey = _refuse_codes(kept) if kind == "JPEG" else None
        image = _open(kind, kept)
        if grey is not None and image.mode in ("RGB", "L") and _orientation(image) not in TURNS:
            return Inspected(
                *image.size, True, kind, image.mode, _thumbnail(Image.frombytes("L", grey.shape[::-1], grey))
            )
        upright, note = _decode(kind, kept)
        return Inspected(*upright.size, False, kind, image.mode, _thumbnail(upright), note)


def _thumbnail(image: Image.Image) -> bytes:
    small = image.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return (small if small.mode == "L" else small.convert("L")).tobytes()


def _decode(kind: str, kept: bytes) -> tuple[Image.Image, str]:
    """Return the picture, and a note on its levels."""
    image = _open(kind, kept)
    try:
        image.load()
    except OSError:
        if image.info.get("compression") in RARE:
            raise BadImageError("unsupported", f"TIFF compression {image.info['compression']}") from None
        raise
    turn = TURNS.get(_orientation(image))
    levels = _levels(image, _stated_bits(kind, kept, image))
    rgb, note = _to_rgb(image, levels), _note(levels)
    del image  # so that no more than two copies are there at once
    upright = rgb.transpose(turn) if turn is not None else rgb
    upright.info = {}  # profiles and the like, which would be written into whatever is saved of it
    return upright, note


def _open(kind: str, kept: bytes) -> ImageFile.ImageFile:
    if kind == "TIFF":  # of a cut one, Pillow shows what it finds
        tiff.refuse_raw(kept)
        warnings.filterwarnings("error", CUT)
    try:
        image = Image.open(io.BytesIO(kept), formats=(kind,))
    except UnidentifiedImageError:
        if kind == "TIFF":
            tiff.refuse_unknown(kept)
        raise BadImageError("corrupt", f"a {kind} file that is damaged") from None
    refuse_size(*image.size)
    if kind == "TIFF":
        tiff.set_native(image)
    return image


def _refuse_codes(jpeg: bytes) -> NDArray[np.uint8] | None:
    """Read all of a JPEG's codes, since Pillow lets the decoder fill what damage leaves with grey.

    Returns:
        uint8 (h, w): what it shows, grey, as stored, as small as it can be and still have 32 px a side. None where
        TurboJPEG doesn't know the sampling of its colours.
    """
    try:
        grey = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY", min_width=32, min_height=32, strict=True)
        return np.asarray(grey)[:, :, 0]
    except ValueError as error:
        if NO_LEVEL not in str(error):
            raise BadImageError("corrupt", str(error)) from None
    _refuse_rare_codes(jpeg)
    return None


def _refuse_rare_codes(jpeg: bytes) -> None:
    """Let Pillow read the codes where TurboJPEG can't, such as 4:1:0, and count them by where it stops.

    Without the end marker its decoder fills nothing in: it needs all bytes of the scan, looks a word ahead, and takes
    no more. Of several scans, as in a progressive file, it reads the last marker first, so there nothing shows.
    """
    end = sole_scan(jpeg)
    if end and (_is_enough(jpeg[: end - 1]) or not _is_enough(jpeg[:end] + bytes(AHEAD))):
        raise BadImageError("corrupt", "damaged JPEG scan: its codes end early or late")


def _is_enough(jpeg: bytes) -> bool:
    image = _open("JPEG", jpeg)
    image.draft(image.mode, (1, 1))  # an eighth of the size
    with suppress(OSError):
        image.load()
        return True
    return False


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever Pillow raises into the reason that a person reads."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata warns; the pixels may be fine
            yield
    except BadImageError:
        raise
    except MemoryError:
        raise BadImageError("bomb", "takes more memory to decode than there is for it") from None
    except Image.DecompressionBombError as error:
        raise BadImageError("bomb", f"too many pixels: {error}") from None
    except Exception as error:  # on damaged files Pillow's plugins raise seven types, OSError to struct.error
        text = f"{type(error).__name__}: {error}"
        reasons: list[Reason] = [reason for words, reason in PILLOW_SAYS if words in text.lower()]
        raise BadImageError([*reasons, "corrupt"][0], text) from None


def _orientation(image: Image.Image) -> int:
    try:
        # EXIF's number or, where there is none, XMP's.
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata is no reason to lose a good picture
        return 1


def _to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    if levels and image.mode.startswith(("I", "F")):
        clear = image.info.get("transparency")  # the one value that a grey PNG may name
        bits, signed, _ = tiff.stated(image)
        return _by_bands(image, lambda band: _narrow(tiff.values_of(band, bits, signed), levels, clear))
    if image.has_transparency_data:
        return _by_bands(image, _on_white)
    if image.mode == "L" and tiff.stated(image)[1]:  # its 8 bits are signed, which Pillow passes over
        image = image.point([value ^ 128 for value in range(256)])
    return image if image.mode == "RGB" else image.convert("RGB")


def _by_bands(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert some rows at a time: of a whole large picture the copies on the way would take half a gigabyte."""
    out = Image.new("RGB", image.size)
    for top, band in _bands(image):
        out.paste(to_rgb(band), (0, top))
    return out


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    for top in range(0, image.height, BAND):
        yield top, image.crop((0, top, image.width, min(top + BAND, image.height)))


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _stated_bits(kind: str, kept: bytes, image: ImageFile.ImageFile) -> int:
    if kind == "PNG":
        return kept[PNG_DEPTH]
    return tiff.stated(image)[0] if kind == "TIFF" else 8


def _levels(image: Image.Image, bits: int) -> Levels | None:
    """Find black and white of a picture that has more than 8 bits. Up to 16 they are the ends of what the file states.

    32 bits and float have no ends that anybody uses, so the least range that holds the values is taken; of float those
    begin at 0, since below it most are rounding. Of 48-bit colour only the high bytes are left.
    """
    if bits <= 8:
        return None
    if not image.mode.startswith(("I", "F")):
        extremes: Any = image.getextrema()
        shown = [pair for name, pair in zip(image.getbands(), extremes, strict=True) if name != "A"]
        return Levels(0, 255, min(low for low, _ in shown), max(high for _, high in shown))
    _, signed, white_is_zero = tiff.stated(image)
    ends = [
        (float(values.min()), float(values.max()))
        for values in (tiff.values_of(band, bits, signed) for _, band in _bands(image))
    ]
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    if image.mode == "F":
        ranges = [(0, 1), (0, 255), (0, 65535)]
    elif bits <= 16:
        ranges = [(-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)]
    elif lowest < 0:
        ranges = [(-(1 << each), (1 << each) - 1) for each in (7, 15, 31)]
    else:
        ranges = [(0, 255), (0, 65535)]
    fitting = (each for each in ranges if highest <= each[1] and (each[0] <= lowest or image.mode == "F"))
    black, white = next(fitting, ranges[-1])
    return Levels(*((white, black) if white_is_zero else (black, white)), lowest, highest)


def _note(levels: Levels | None) -> str:
    if levels is None:
        return ""
    bottom, top = sorted(levels[:2])
    found = f"its values go from {levels.lowest:g} to {levels.highest:g}"
    slack = SLACK * (top - bottom)
    if levels.lowest < bottom - slack or levels.highest > top + slack:
        return f"{found}; what is beyond {bottom:g} to {top:g} is cut off"
    if levels.highest - levels.lowest < LITTLE * (top - bottom):
        return f"{found}, of {bottom:g} to {top:g}, so it looks dark or flat"
    return ""


def _narrow(values: NDArray[np.float64], levels: Levels, clear: int | None) -> Image.Image:
    if clear is not None:
        values[values == clear] = levels.white
    shares = (values - levels.black) / (levels.white - levels.black)
    return Image.fromarray((np.clip(shares, 0, 1) * 255 + 0.5).astype(np.uint8)).convert("RGB")


def scaled_size(width: int, height: int, size: int) -> tuple[int, int]:
    """Return width and height in px once the shorter side is ``size``; the longer one is truncated.

    Raises:
        BadImageError: The picture is so long and narrow that scaled it would fill the memory.
    """
    scaled = (size, int(size * height / width)) if width <= height else (int(size * width / height), size)
    if scaled[0] * scaled[1] > SCALED_PIXELS:
        raise BadImageError("bomb", f"{width} x {height} px is too long and narrow to be scaled to {size} px")
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
