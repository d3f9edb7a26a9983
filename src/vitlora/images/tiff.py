"""TIFF, where Pillow knows too little of it: grey of more than 8 bits, and camera raw that poses as TIFF."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    IMAGELENGTH,
    IMAGEWIDTH,
    OPEN_INFO,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    STRIPOFFSETS,
    SUBIFD,
    TILEOFFSETS,
    ImageFileDirectory_v2,
)

from vitlora.images.formats import KINDS, BadImageError

DNG_VERSION, SUBFILE_TYPE = 50706, 254
SENSOR = (32803, 34892)  # photometric interpretations: values behind a colour filter, and such values made linear
INNER = 16  # directories looked at; cameras write up to five
SIGNED = 2
MEANING = ((COMPRESSION, 1), (PHOTOMETRIC_INTERPRETATION, 1))  # and what they are where they are missing
# Grey, by sample format and bits: Pillow's mode and raw mode of either byte order. It knows most of them, but not all
# in both orders, and few where white is 0, which is for us to turn.
GREY: dict[tuple[int, int], tuple[tuple[str, str], tuple[str, str]]] = {
    (1, 12): (("I;16", "I;12"), ("I;16", "I;12")),
    (1, 16): (("I;16", "I;16"), ("I;16B", "I;16B")),
    (2, 16): (("I", "I;16S"), ("I", "I;16BS")),
    (1, 32): (("I", "I;32"), ("I", "I;32B")),
    (2, 32): (("I", "I;32S"), ("I", "I;32BS")),
    (3, 32): (("F", "F;32F"), ("F", "F;32BF")),
    (3, 64): (("F", "F;64F"), ("F", "F;64BF")),
}
for (sample, bits), modes in GREY.items():
    for order, known in zip((b"II", b"MM"), modes, strict=True):
        for photometric in (0, 1):
            OPEN_INFO.setdefault((order, photometric, (sample,), 1, (bits,), ()), known)
# What libtiff unpacks is in the machine's own order; Pillow minds it for two of these.
NATIVE = {"I;16S": "I;16NS", "I;32": "I;32N", "I;32S": "I;32NS", "F;32F": "F;32NF", "F;64F": "F;64NF"}
NATIVE |= {"I;16BS": "I;16NS", "I;32B": "I;32N", "I;32BS": "I;32NS", "F;32BF": "F;32NF", "F;64BF": "F;64NF"}


def refuse_raw(data: bytes) -> None:
    """Refuse a file whose first picture is a small version of the one that it is about.

    Raises:
        BadImageError: `unsupported`.
    """
    try:
        name = _raw_name(*_directories(data))
    except Exception:  # damaged; whoever opens it says how
        return
    if name:
        raise BadImageError("unsupported", f"{name}; the rule: {', '.join(KINDS)}")


def refuse_unknown(data: bytes) -> None:
    """Say what a TIFF is that Pillow doesn't know, if its directory is whole.

    Raises:
        BadImageError: `unsupported`.
    """
    try:
        first = _directories(data)[0]
        facts = [first.get(tag, default) for tag, default in ((BITSPERSAMPLE, 1), (SAMPLEFORMAT, 1), *MEANING)]
        is_whole = _area(first) > 0 and (STRIPOFFSETS in first or TILEOFFSETS in first)
    except Exception:  # as above
        return
    if is_whole:
        bits, kind, packing, meaning = ("+".join(map(str, np.atleast_1d(fact)[:8])) for fact in facts)
        raise BadImageError(
            "unsupported",
            f"TIFF of {bits} bits (sample format {kind}, compression {packing}, photometric interpretation {meaning}); "
            "save it as PNG, or as TIFF of 8 or 16 bits",
        )


def set_native(image: ImageFile.ImageFile) -> None:
    """Mend the byte order of what libtiff will unpack."""
    image.tile = [
        tile._replace(args=(NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]


def stated(image: Image.Image) -> tuple[int, bool, bool]:
    """Return the bits of a value, whether it is signed, and whether 0 is white, as the file says; 16 of no TIFF."""
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {BITSPERSAMPLE: (16,)})
    bits = tags.get(BITSPERSAMPLE, (1,))
    return bits[0], tags.get(SAMPLEFORMAT) == (SIGNED,), tags.get(PHOTOMETRIC_INTERPRETATION) == 0


def values_of(image: Image.Image, bits: int, signed: bool) -> NDArray[np.float64]:
    """Return the values of a picture in mode I or F, as the file means them; what is no number becomes 0."""
    values = np.asarray(image)
    if bits == 32 and values.dtype == np.int32 and not signed:
        values = values.view(np.uint32)
    return np.nan_to_num(values.astype(np.float64))


def _directories(data: bytes) -> list[ImageFileDirectory_v2]:
    """Read the first directory and those within it."""
    is_big = 43 in data[2:4]
    first = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    file = io.BytesIO(data)
    _load(first, first.next, file)
    places = first.get(SUBIFD, ())
    found = [first]
    for place in (places if isinstance(places, tuple) else (places,))[:INNER]:
        found.append(ImageFileDirectory_v2(data[: 16 if is_big else 8]))
        _load(found[-1], place, file)
    return found


def _load(directory: ImageFileDirectory_v2, place: int, file: io.BytesIO) -> None:
    file.seek(place)
    directory.load(file)


def _raw_name(first: ImageFileDirectory_v2, *inner: ImageFileDirectory_v2) -> str:
    if DNG_VERSION in first:
        return "camera raw (DNG)"
    if any(each.get(PHOTOMETRIC_INTERPRETATION) in SENSOR for each in (first, *inner)):
        return "camera raw"
    is_small = int(first.get(SUBFILE_TYPE, 0)) & 1 and (inner or first.next)
    if is_small or any(_area(each) > _area(first) for each in inner):
        return "TIFF whose first picture is a small version of another, as in camera raw"
    return ""


def _area(directory: ImageFileDirectory_v2) -> int:
    return int(directory.get(IMAGEWIDTH, 0)) * int(directory.get(IMAGELENGTH, 0))
