"""JPEGs whose colours are sampled as TurboJPEG has no name for: Pillow reads them, and damage in them still shows."""

import io

import numpy as np
import pytest
import simplejpeg
import tiny
import torch
from corpus import noisy, photo, put, without
from jpegs import jpeg, segment
from PIL import Image

from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect
from vitlora.storage.packed import write_packed
from vitlora.train.augment import draw_crops
from vitlora.train.dataset import TrainImages
from vitlora.train.jpeg import decode_rows, scale_crop
from vitlora.train.params import Augment

PHOTO, NOISE = photo(150, 110), noisy(150, 110)
RARE = {
    "4:1:0": [(4, 2), (1, 1), (1, 1)],
    "4:1:0 upright": [(2, 4), (1, 1), (1, 1)],
    "a third": [(3, 1), (1, 1), (1, 1)],
    "a third upright": [(1, 3), (1, 1), (1, 1)],
    "a sixth": [(3, 2), (1, 1), (1, 1)],
    "a third and a half": [(3, 2), (3, 1), (1, 1)],
    "each its own": [(2, 2), (2, 1), (1, 1)],
    "more colour than light": [(1, 1), (2, 1), (1, 2)],
    "one colour in full": [(2, 1), (1, 1), (2, 1)],
    "4:2:2 in fours": [(4, 1), (2, 1), (2, 1)],
}
COMMON = {
    "4:4:4": [(1, 1)] * 3,
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:1:1": [(4, 1), (1, 1), (1, 1)],
    "4:1:1 upright": [(1, 4), (1, 1), (1, 1)],
}
WAYS = ("one scan", "apart", "progressive")
each_rare = pytest.mark.parametrize("factors", RARE.values(), ids=RARE)


def reason(data):
    """Return why a file is refused, by both readers, or None."""
    found = []
    for read in (inspect, decode):
        try:
            read(data)
            found.append(None)
        except BadImageError as error:
            found.append(error.reason)
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("factors", COMMON.values(), ids=COMMON)
def test_the_tests_own_encoder_makes_sound_files(factors, way):
    data = jpeg(PHOTO, factors, way=way)
    theirs = simplejpeg.decode_jpeg(data, strict=True)
    assert np.abs(theirs.astype(int) - PHOTO).max() <= 12
    assert np.array_equal(theirs, np.asarray(decode(data)))


@pytest.mark.parametrize("way", WAYS)
@each_rare
def test_a_rare_sampling_is_read(factors, way):
    data = jpeg(PHOTO, factors, way=way)
    with pytest.raises(ValueError, match="subsampling level"):
        simplejpeg.decode_jpeg(data)
    assert np.abs(np.asarray(decode(data)).astype(int) - PHOTO).max() <= 12
    seen = inspect(data)
    assert (seen.width, seen.height, seen.plain, seen.kind, seen.mode) == (150, 110, False, "JPEG", "RGB")


@pytest.mark.parametrize("restart", [1, 3, 100])
@pytest.mark.parametrize("size", [(2, 2), (7, 9), (33, 31), (64, 200)])
@each_rare
def test_any_size_with_or_without_restarts_is_read(factors, size, restart):
    pixels = np.full((*size, 3), (200, 100, 50), np.uint8)
    for options in ({}, {"restart": restart}, {"restart": restart, "way": "progressive"}):
        found = np.asarray(decode(jpeg(pixels, factors, **options)))
        assert found.shape == pixels.shape
        assert np.abs(found.astype(int) - pixels).max() <= 6


@pytest.mark.parametrize("pixels", [NOISE, np.full_like(PHOTO, 255), np.zeros_like(PHOTO)], ids=["noise", "255", "0"])
@each_rare
def test_codes_of_any_length_pass(factors, pixels):
    assert reason(jpeg(pixels, factors)) is None


@pytest.mark.parametrize(
    ("channels", "factors", "transform"),
    [
        (4, [(2, 1), (1, 1), (1, 1), (1, 1)], 2),
        (4, [(1, 1), (2, 2), (1, 1), (1, 1)], 0),
        (3, [(1, 1), (2, 1), (1, 1)], 0),
    ],
    ids=["YCCK", "CMYK", "RGB"],
)
def test_other_colours_in_a_rare_sampling_are_read(channels, factors, transform):
    adobe = segment(0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))
    data = jpeg(np.dstack([PHOTO, PHOTO[..., 0]])[..., :channels], factors, marks=[adobe])
    assert reason(data) is None
    assert decode(data).size == (150, 110)


def test_two_colours_are_none_that_we_know():
    assert reason(jpeg(PHOTO[..., :2], [(1, 1), (1, 1)])) == "unsupported"


@pytest.mark.parametrize("factors", [[(3, 2), (2, 1), (1, 1)], [(1, 3), (1, 2), (1, 1)], [(4, 1), (3, 1), (1, 1)]])
def test_what_the_decoder_below_cannot_take_is_unsupported_and_not_corrupt(factors):
    data = jpeg(PHOTO, factors)
    with pytest.raises(OSError, match="broken data stream"), Image.open(io.BytesIO(data)) as image:
        image.load()
    assert reason(data) == "unsupported"


@each_rare
def test_damage_in_the_only_scan_is_told(factors):
    data = jpeg(NOISE, factors)
    half = len(data) // 2
    for harmed in (
        data[:half] + b"\xff\xd9",
        without(data, half, half + 2000),
        put(data, half, bytes(900)),
        put(data, half, b"\xff\xd3"),
        put(data, half, b"\xff\xe5" * 30),
        put(data, half, b"\xff\xc4\0\x08"),
        data[:-2] + bytes(20) + data[-2:],
    ):
        assert reason(harmed) == "corrupt"
    assert reason(data[:half]) == "truncated"
    assert reason(data[:-2]) == "truncated"


@each_rare
def test_restarts_out_of_turn_are_told(factors):
    data = jpeg(NOISE, factors, restart=2)
    assert reason(data) is None
    first, third = data.index(b"\xff\xd0"), data.index(b"\xff\xd2")
    assert reason(without(data, first, third)) == "corrupt"


def test_what_follows_the_end_and_what_fills_before_a_marker_is_nothing_to_mind():
    data = jpeg(PHOTO, RARE["4:1:0"])
    assert reason(data + b"rubbish" * 30) is None
    assert reason(data + jpeg(NOISE, RARE["a third"])) is None
    assert reason(data[:-2] + b"\xff" * 7 + data[-2:]) is None


@pytest.mark.parametrize("decoder", ["simplejpeg", "pil"])
def test_training_sees_the_pixels_that_decode_gives(tmp_path, decoder):
    files = [jpeg(noisy(60, 50, seed), factors) for seed, factors in enumerate(RARE.values())]
    columns, facts = ("path", "label", "width", "height", "plain"), [inspect(data) for data in files]
    rows = [((f"{n}.jpg", 0, s.width, s.height, int(s.plain)), files[n]) for n, s in enumerate(facts)]
    write_packed(tmp_path / "train", columns, rows)
    whole = Augment(**{**tiny.AUGMENT, "scale": (1.0, 1.0), "ratio": (1.2, 1.2), "horizontal_flip_p": 0.0})
    found = TrainImages(tmp_path / "train", 24, "bilinear", whole, seed=0, decoder=decoder)
    given = found.load(range(len(files)))
    for row, data in enumerate(files):
        assert decode_rows(data, 50) is None
        box = draw_crops(0, [(0, row)], np.array([[60, 50]]), whole.scale, whole.ratio, 0.0)[0][0]
        expected = scale_crop(np.array(decode(data)), tuple(box.tolist()), 24, "bilinear")
        if decoder == "simplejpeg":
            assert torch.equal(given[row], expected)
        else:
            assert (given[row].int() - expected.int()).abs().max() <= 1


def test_a_rare_sampling_turned_by_exif_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(PHOTO, RARE["4:1:0"], marks=[segment(0xE1, b"Exif\0\0" + exif.tobytes()[6:])])
    assert decode(data).size == (110, 150)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (150, 110)
