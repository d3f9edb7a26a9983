"""What each shift does to a picture, that it is the same each time, and the arithmetic of the pairs."""

import io
import math

import numpy as np
import pytest
from corpus import photo
from PIL import Image

from vitlora.assess.shifts import (
    SHIFTS,
    Condition,
    alter,
    blur,
    conditions,
    evenly_spaced,
    expose,
    jpeg,
    noise,
    rotate,
    summarise,
    zoom,
)
from vitlora.storage.squares import Squares

DIGESTS = [character * 64 for character in "0123456789abcdef"]


def random():
    return np.random.default_rng(0)


def square(side=56, seed=0):
    return np.ascontiguousarray(photo(side, side, seed).transpose(2, 0, 1))


def grey(level, side=56):
    return Image.fromarray(np.full((side, side, 3), level, np.uint8))


class ByLight:
    """Calls a picture 1 where it is lighter than the middle, else 0."""

    def score(self, images, batch_size):
        light = images.mean(axis=(1, 2, 3), dtype=np.float32)
        return np.stack([127.5 - light, light - 127.5], axis=1)


def squares_of(levels, side=16):
    images = np.stack([np.full((3, side, side), level, np.uint8) for level in levels])
    labels = np.array([level > 127 for level in levels], np.int64)
    digests = [f"{place:064x}" for place in range(len(levels))]
    return Squares(images, labels, [str(place) for place in range(len(levels))], digests)


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
@pytest.mark.parametrize("side", [8, 42, 56])
def test_every_shift_keeps_the_form_and_is_the_same_each_time(shift, side):
    given = square(side)
    for strength in shift.strengths:
        once, again = (alter(given.copy(), DIGESTS[3], shift, strength, 0) for _ in range(2))
        assert once.shape == given.shape
        assert once.dtype == np.uint8
        assert (once == again).all()
    assert (given == square(side)).all()


@pytest.mark.parametrize("shift", SHIFTS, ids=lambda shift: shift.name)
def test_a_stronger_shift_changes_the_picture_more(shift):
    given = square()
    far = [np.abs(alter(given, DIGESTS[0], shift, each, 0).astype(int) - given).mean() for each in shift.strengths]
    assert 0 < far[0] < far[1] < far[2]


def test_noise_follows_from_seed_picture_and_strength_not_from_its_neighbours():
    by_name = {shift.name: shift for shift in SHIFTS}
    given = square()
    drawn = {
        (seed, digest, strength): alter(given, digest, by_name["noise"], strength, seed).tobytes()
        for seed in (0, 1)
        for digest in DIGESTS[:3]
        for strength in (10, 25)
    }
    assert len(set(drawn.values())) == len(drawn)

    class Kept(ByLight):
        def score(self, images, batch_size):
            seen.append(images.copy())
            return super().score(images, batch_size)

    def noisy(squares):
        seen.clear()
        list(conditions(Kept(), squares, 0, lambda count: None))
        return seen[4]  # clean, three of blur, then noise

    seen = []
    whole = squares_of([0, 60, 127, 200, 255])
    assert (noisy(whole)[[1, 3]] == noisy(whole.pick([1, 3]))).all()


@pytest.mark.parametrize("sigma", [10, 25, 50])
def test_noise_has_the_spread_that_it_states(sigma):
    values = np.asarray(noise(grey(128, 200), sigma, random()), float)
    assert values.std() == pytest.approx(sigma, rel=0.02)
    assert values.mean() == pytest.approx(128, abs=0.5)


@pytest.mark.parametrize("level", [0, 3, 20, 90, 128, 188, 255])
@pytest.mark.parametrize("stops", [-3, -1, 0, 0.5, 1.5])
def test_a_stop_doubles_the_light(level, stops):
    def light(value):
        return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4

    shown = np.asarray(expose(grey(level), stops, random()))[0, 0] / 255
    assert len(set(shown)) == 1
    wanted = min(1, light(level / 255) * 2**stops)
    assert light(shown[0]) == pytest.approx(wanted, abs=0.005)


def test_blur_is_a_gaussian_of_the_stated_width():
    dot = np.zeros((224, 224, 3), np.uint8)
    dot[92:132, 92:132] = 255
    for sigma in (1, 2, 6, 4):
        edge = np.asarray(blur(Image.fromarray(dot), sigma, random()), float)[112, :112, 0] / 255
        reached = np.array([0.5 * (1 + math.erf((x + 0.5 - 92) / sigma / math.sqrt(2))) for x in range(112)])
        assert np.abs(edge - reached).max() < 0.03
    small = np.asarray(blur(Image.fromarray(dot[::4, ::4]), 4, random()), float)[28, :28, 0] / 255
    assert np.abs(small - reached[2::4]).max() < 0.1  # the same scene in fewer pixels


@pytest.mark.parametrize("quality", [50, 25, 10])
def test_jpeg_is_what_pillow_stores(quality):
    image, buffer = Image.fromarray(photo(64, 64)), io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    assert (np.asarray(jpeg(image, quality, random())) == np.asarray(Image.open(buffer))).all()


def test_zoom_shows_the_middle():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[25:75, 25:75] = 255
    assert np.asarray(zoom(Image.fromarray(pixels), 50, random()))[2:-2, 2:-2].min() > 250
    wide = np.asarray(zoom(Image.fromarray(pixels), 75, random()))[50, :, 0] > 127
    assert wide.sum() == pytest.approx(50 / 0.75, abs=1)


@pytest.mark.parametrize("degrees", [5, 15, 30])
def test_a_turn_goes_so_far_to_either_side_and_leaves_no_black_corner(degrees):
    pixels = np.full((101, 101, 3), 60, np.uint8)
    pixels[47:54, 85:92] = 255
    sides = set()
    for seed in range(8):
        turned = np.asarray(rotate(Image.fromarray(pixels), degrees, np.random.default_rng(seed)), float)[..., 0]
        assert min(turned[y, x] for y in (0, -1) for x in (0, -1)) == 60
        rows, columns = np.nonzero(turned > 150)
        angle = math.degrees(math.atan2(50 - rows.mean(), columns.mean() - 50))
        assert abs(angle) == pytest.approx(degrees, abs=0.6)
        sides.add(angle > 0)
    assert sides == {True, False}


def test_a_model_of_light_fails_in_the_dark_and_nowhere_that_light_stays():
    squares, told = squares_of([90, 110, 150, 170, 190] * 4), []
    rows = summarise(list(conditions(ByLight(), squares, 0, told.append)), squares.labels)
    by_name = {(row["shift"], row["strength"]): row for row in rows}
    assert len(rows) == 25
    assert sum(told) == 25 * 20
    assert by_name["clean", 0]["accuracy"] == 1
    assert by_name["clean", 0]["difference"] is None
    for kind, strength in (("blur", 6), ("noise", 25), ("rotation", 30), ("zoom", 60)):
        assert by_name[kind, strength]["difference"] == 0
    dark = by_name["darker", -3]
    assert (dark["accuracy"], dark["broken"], dark["fixed"], dark["difference"]) == (0.4, 12, 0, -0.6)
    assert dark["difference_low"] < -0.6 < dark["difference_high"] < 0
    assert by_name["brighter", 1.5]["broken"] == 8


def test_what_breaks_and_what_is_mended_are_counted_apart():
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 1])
    clean = Condition("clean", 0, "", np.array([0, 0, 1, 1, 0, 0, 2, 2]))
    other = Condition("blur", 1, "", np.array([1, 0, 1, 1, 2, 2, 2, 1]))
    row = summarise([clean, other], labels)[1]
    assert (row["broken"], row["fixed"], row["difference"]) == (1, 3, 0.25)
    # Bonett and Price, by hand: (4 - 2) / 10 = 0.2, plus and minus 1.96 sqrt((0.6 - 0.04) / 10)
    assert (row["difference_low"], row["difference_high"]) == (
        pytest.approx(-0.26381, abs=1e-5),
        pytest.approx(0.66381, abs=1e-5),
    )


@pytest.mark.parametrize(
    ("count", "most", "rows"), [(5, 9, [0, 1, 2, 3, 4]), (9, 3, [0, 4, 8]), (100, 1, [0]), (1, 7, [0])]
)
def test_rows_are_spread_evenly(count, most, rows):
    assert evenly_spaced(count, most) == rows
