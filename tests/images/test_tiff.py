"""TIFF: grey of more than 8 bits as the file means it, in any byte order and packing; camera raw, told by its tags."""

import zlib

import numpy as np
import pytest
from corpus import DEEP, NOISE, filtered, ihdr, in_bits, noisy, png, put, saved, tiff, tiff_of
from PIL import Image

from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect

RAMP = np.linspace(0, 1, 48 * 64).reshape(48, 64)  # what is shown, black to white
# By name: sample format, bits, and the values that show the ramp.
KINDS = {
    "12 bits": (1, 12, np.round(RAMP * 4095).astype(np.uint16)),
    "16 bits": (1, 16, np.round(RAMP * 65535).astype(np.uint16)),
    "signed 16 bits": (2, 16, np.round(RAMP * 65535 - 32768).astype(np.int16)),
    "signed 8 bits": (2, 8, np.round(RAMP * 255 - 128).astype(np.int8)),
    "32 bits": (1, 32, np.round(RAMP * 65535).astype(np.uint32)),
    "signed 32 bits": (2, 32, np.round(RAMP * (2**32 - 1) - 2**31).astype(np.int32)),
    "signed 32 bits that need 16": (2, 32, np.round(RAMP * 65535 - 32768).astype(np.int32)),
    "signed 32 bits that need 8": (2, 32, np.round(RAMP * 255 - 128).astype(np.int32)),
    "float": (3, 32, RAMP.astype(np.float32)),
    "float to 255": (3, 32, (RAMP * 255).astype(np.float32)),
    "double": (3, 64, RAMP),
}


def write(values, kind, bits, photometric, order, packing):
    """Write grey rows as one strip, plain or deflated."""
    rows = in_bits(values, bits) if bits % 8 else values.astype(values.dtype.newbyteorder(order))
    data = zlib.compress(rows.tobytes()) if packing == 8 else rows.tobytes()
    height, width = values.shape
    fields = {256: width, 257: height, 273: 8, 278: height, 279: len(data)}
    shorts = {258: bits, 259: packing, 262: photometric, 277: 1, 339: kind}
    entries = [(tag, 4, [value]) for tag, value in fields.items()] + [(t, 3, [value]) for t, value in shorts.items()]
    return tiff(order, entries, data)


def shown(data):
    """Decode grey, and return uint8 (H, W)."""
    found = np.asarray(decode(data))
    assert (found == found[..., :1]).all()
    return found[..., 0]


def refusal(data):
    with pytest.raises(BadImageError) as refused:
        decode(data)
    with pytest.raises(BadImageError) as again:
        inspect(data)
    assert (again.value.reason, str(again.value)) == (refused.value.reason, str(refused.value))
    return refused.value.reason, str(refused.value)


@pytest.mark.parametrize("packing", [1, 8], ids=["plain", "deflated"])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", KINDS)
def test_grey_is_scaled_by_what_the_file_states(name, order, packing):
    kind, bits, values = KINDS[name]
    expected = np.round(RAMP * 255).astype(int)
    assert np.abs(shown(write(values, kind, bits, 1, order, packing)) - expected).max() <= 1
    if bits > 8:  # with 8 signed bits and white at 0 Pillow opens none
        assert np.abs(shown(write(values, kind, bits, 0, order, packing)) - (255 - expected)).max() <= 1


@pytest.mark.parametrize("bits", [9, 10, 11, 13, 14, 15, 24])
def test_bits_that_pillow_cannot_unpack_are_named_and_saved_with_16_they_are_read(bits):
    values = np.round(RAMP * (2**bits - 1)).astype(np.uint32)
    for order in "<>":
        reason, text = refusal(write(values, 1, bits, 1, order, 1) if bits < 24 else tiff_of(values, 1, t258=(3, [24])))
        assert reason == "unsupported"
        assert text.startswith(f"TIFF of {bits} bits (sample format 1, ")
        assert text.endswith("; save it as PNG, or as TIFF of 8 or 16 bits")
    mended = np.round(values / (2**bits - 1) * 65535).astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.abs(shown(saved(mended, kind)) - np.round(RAMP * 255)).max() <= 1


def test_a_float_of_16_bits_is_named():
    assert "TIFF of 16 bits (sample format 3, " in refusal(tiff_of(RAMP.astype(np.float16), 1, kind=3))[1]


def test_unsigned_32_bits_beyond_31_are_white_and_not_black():
    values = np.array([[0, 100, 2**31, 2**32 - 1]] * 4, np.uint32)
    for order in "<>":
        assert shown(tiff_of(values, 1, order))[0].tolist() == [0, 0, 255, 255]


# What a person should know


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (saved(DEEP // 21, "PNG"), "its values go from 0 to 3071, of 0 to 65535, so it looks dark or flat"),
        (tiff_of(DEEP // 21, 1, ">"), "its values go from 0 to 3071, of 0 to 65535, so it looks dark or flat"),
        (tiff_of(30000 + DEEP // 40, 1), "its values go from 30000 to 31612, of 0 to 65535, so it"),
        (write(DEEP >> 8, 1, 12, 1, "<", 1), "its values go from 0 to 251, of 0 to 4095, so it looks"),
        (tiff_of((DEEP >> 4).astype(np.int16), 1, kind=2), "its values go from 0 to 4030, of -32768 to 32767, so it"),
        (
            png(ihdr(64, 48, 16, 2), filtered((noisy(64, 48).astype(int) * 16).astype(">u2"))),
            "its values go from 0 to 15, of 0 to 255, so it",
        ),
        (tiff_of((RAMP * 0.05).astype(np.float32), 1, kind=3), "its values go from 0 to 0.05, of 0 to 1, so it"),
        (tiff_of((RAMP * 2 - 1).astype(np.float32), 1, kind=3), "go from -1 to 1; what is beyond 0 to 1 is cut off"),
        (tiff_of(DEEP.astype(np.uint32) * 3, 1), "what is beyond 0 to 65535 is cut off"),
        (tiff_of(np.full((8, 8), 700, np.uint16), 1), "its values go from 700 to 700, of 0 to 65535, so it"),
    ],
    ids=["PNG", "TIFF", "narrow", "12 bits", "signed", "48 bits", "float", "negative float", "32 bits", "flat"],
)
def test_a_picture_that_shows_little_of_its_levels_gets_a_note(data, note):
    assert note in inspect(data).note


@pytest.mark.parametrize(
    "data",
    [
        saved(DEEP, "PNG"),
        saved(DEEP // 9, "PNG"),
        tiff_of(DEEP, 0),
        write(DEEP >> 4, 1, 12, 1, "<", 8),
        tiff_of((RAMP - 1e-7).astype(np.float32), 1, kind=3),
        saved(np.full((8, 8), 3, np.uint8), "PNG"),
        saved(np.full((8, 8, 3), 3, np.uint8), "TIFF"),
        saved(Image.fromarray(NOISE[..., 0] > 9), "TIFF"),
        saved(np.full((8, 8, 3), 3, np.uint8), "JPEG"),
    ],
    ids=["PNG", "a ninth", "white is 0", "12 bits", "rounding", "8 bits", "8-bit TIFF", "1 bit", "JPEG"],
)
def test_other_pictures_get_none(data):
    assert inspect(data).note == ""


# Camera raw


def with_inner(first, inner, order="<"):
    """Write a small first picture and a directory inside its own, in the place of its pixels."""
    directory = tiff(order, inner, b"")[8:]
    pixels = noisy(64, 48)
    data = directory.ljust(pixels.nbytes, b"\0")
    fields = {256: (4, [64]), 257: (4, [48]), 258: (3, [8] * 3), 259: (3, [1]), 262: (3, [2]), 273: (4, [8])}
    fields |= {277: (3, [3]), 278: (4, [48]), 279: (4, [len(data)]), 330: (4, [8])} | first
    return tiff(order, [(tag, *field) for tag, field in fields.items()], data)


LARGE, SMALL = [(256, 4, [6000]), (257, 4, [4000])], [(256, 4, [16]), (257, 4, [12])]
MAKE = {271: (3, [1, 2, 3])}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("first", "inner", "name"),
    [
        ({50706: (3, [1, 4])}, SMALL, "camera raw (DNG); the rule: JPEG, PNG, WEBP, GIF, BMP, TIFF"),
        ({50706: (3, [1, 6]), 254: (4, [0])}, LARGE, "camera raw (DNG)"),
        ({254: (4, [1])}, LARGE, "TIFF whose first picture is a small version of another, as in camera raw"),
        ({254: (4, [1])}, SMALL, "TIFF whose first picture is a small version of another"),
        (MAKE, LARGE, "TIFF whose first picture is a small version of another"),
        (MAKE, [*SMALL, (262, 3, [32803])], "camera raw; the rule"),
        ({}, [*SMALL, (262, 3, [34892])], "camera raw; the rule"),
        ({262: (3, [32803])}, SMALL, "camera raw; the rule"),
    ],
    ids=["DNG", "DNG in full", "flag", "flag and small", "larger inside", "sensor inside", "linear", "sensor"],
)
def test_camera_raw_is_refused_by_its_tags(first, inner, name, order):
    reason, text = refusal(with_inner(first, inner, order))
    assert reason == "unsupported"
    assert text.startswith(name)


def test_a_first_page_that_is_a_small_version_of_the_next_is_refused_and_a_lone_page_is_not():
    pages = [Image.fromarray(noisy(30, 20)), Image.fromarray(noisy(300, 200))]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], tiffinfo={254: 1})
    assert refusal(data)[0] == "unsupported"
    assert decode(saved(pages[0], "TIFF", tiffinfo={254: 1})).size == (30, 20)


@pytest.mark.parametrize(
    ("first", "inner"),
    [(MAKE, SMALL), ({}, SMALL), ({254: (4, [0])}, SMALL), ({254: (4, [2])}, SMALL), ({330: (4, [2**31])}, SMALL)],
    ids=["a camera's", "smaller versions inside", "no flag", "a page", "points to nothing"],
)
def test_a_whole_picture_with_small_versions_inside_is_read(first, inner):
    data = with_inner(first, inner)
    assert decode(data).size == (64, 48)


def test_a_directory_that_leads_in_a_circle_ends():
    assert decode(with_inner({330: (4, [8] * 500)}, [*SMALL, (330, 4, [8])])).size == (64, 48)


def test_random_damage_in_the_tags_gives_pixels_or_a_reason():
    whole, random, refused = with_inner(MAKE, SMALL), np.random.default_rng(5), 0
    for _ in range(300):
        data = put(whole, int(random.integers(len(whole) - 200, len(whole))), bytes([int(random.integers(256))]))
        try:
            decode(data)
        except BadImageError:
            refused += 1
    assert 0 < refused < 300
