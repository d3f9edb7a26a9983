"""Duplicates: equal pictures whatever their files, altered copies found, and other pictures not taken for copies."""

import io
import pickle
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from vitlora.images.pixels import Inspected, inspect
from vitlora.preprocess.duplicates import find_duplicates, name_contents, need_decoding
from vitlora.preprocess.near_duplicates import (
    MAX_PAIRS,
    MIRROR,
    ROWS,
    correlate,
    find_alike,
    has_contrast,
    hash_bits,
    sketch,
)


def scene(number):
    """Return a made-up photograph: light from one side, a few large shapes, fine texture, noise."""
    rng = np.random.default_rng(number)
    width, height = [(256, 192), (192, 256), (224, 224)][number % 3]
    rows, columns = np.mgrid[0:height, 0:width] / max(width, height)
    pixels = rng.uniform(40, 160) + rng.uniform(-60, 60) * rows + rng.uniform(-60, 60) * columns
    for _ in range(rng.integers(3, 9)):
        y, x, radius = rng.uniform((0, 0, 0.05), (1, 1, 0.35))
        inside = (rows - y) ** 2 + ((columns - x) * rng.uniform(0.5, 2)) ** 2 < radius**2
        pixels[inside] = rng.uniform(0, 255) + 40 * np.sin(rng.uniform(20, 80) * (rows + columns))[inside]
    pixels = pixels[:, :, None] * rng.uniform(0.6, 1.1, 3) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def saved(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **{"format": "JPEG", "quality": 90, **options})
    return buffer.getvalue()


def resized(image, rng):
    factor = rng.uniform(0.4, 1.5)
    return saved(image.resize((round(image.width * factor), round(image.height * factor))))


def cropped(image, rng):
    left, top, right, bottom = rng.uniform(0, 0.03, 4)
    box = (image.width * left, image.height * top, image.width * (1 - right), image.height * (1 - bottom))
    return saved(image.crop([round(edge) for edge in box]))


ALTERED = {
    "re-encoded": lambda image, rng: saved(image, quality=int(rng.integers(30, 90))),
    "resized": resized,
    "brightened": lambda image, rng: saved(ImageEnhance.Brightness(image).enhance(rng.uniform(1.05, 1.25))),
    "cropped": cropped,
    "mirrored": lambda image, rng: saved(ImageOps.mirror(image), quality=80),
    "another format": lambda image, rng: saved(image, format="WEBP", quality=70),
    "squeezed": lambda image, rng: saved(image.resize((224, 168))),
    "grey": lambda image, rng: saved(image.convert("L")),
}


def thumbnails_of(files):
    return np.stack([np.frombuffer(inspect(data).thumbnail, np.uint8).reshape(16, 16) for data in files])


def alike(thumbnails):
    """Return all pairs, as the stage finds them."""
    with TemporaryDirectory() as folder:
        sketches = sketch([each.tobytes() for each in thumbnails], Path(folder))
        return [pair for begin in range(0, len(thumbnails), ROWS) for pair in find_alike(sketches, begin)]


@pytest.fixture(scope="module")
def scenes():
    return thumbnails_of([saved(scene(number)) for number in range(500)])


@pytest.mark.slow
def test_of_200_altered_copies_at_least_95_in_100_are_found(scenes):
    rng = np.random.default_rng(0)
    copies = [list(ALTERED.values())[number % 8](scene(number), rng) for number in range(200)]
    found = {(pair.first, pair.second - 500) for pair in alike(np.concatenate([scenes, thumbnails_of(copies)]))}
    missed = [list(ALTERED)[number % 8] for number in range(200) if (number, number) not in found]
    assert len(missed) <= 10, missed


@pytest.mark.slow
def test_of_500_other_pictures_at_most_1_in_100_is_taken_for_a_copy(scenes):
    assert len({row for pair in alike(scenes) for row in (pair.first, pair.second)}) <= 5


@pytest.mark.parametrize("kind", ALTERED)
def test_each_kind_of_copy_is_found(kind):
    rng = np.random.default_rng(1)
    files = [data for number in range(10) for data in (saved(scene(number)), ALTERED[kind](scene(number), rng))]
    found = alike(thumbnails_of(files))
    assert sum((pair.first + 1 == pair.second) and pair.first % 2 == 0 for pair in found) >= 9
    assert all(pair.mirrored == (kind == "mirrored") for pair in found)


@pytest.mark.slow
def test_mirroring_turns_over_just_the_bits_of_odd_frequencies(scenes):
    turned = hash_bits(np.ascontiguousarray(scenes[:, :, ::-1]))
    unlike = np.bitwise_count(hash_bits(scenes) ^ turned ^ MIRROR)
    assert unlike.max() <= 1  # a frequency that is quite absent has no sign
    assert unlike.mean() < 0.05


@pytest.mark.slow
def test_similarity_is_the_correlation(scenes):
    first, second = scenes[:100], scenes[100:200]
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(first, second, strict=True)]
    assert np.allclose(correlate(first, second), expected, atol=1e-12)
    assert np.allclose(correlate(first, first), 1)
    plain = np.full((1, 16, 16), 7, np.uint8)
    assert correlate(plain, plain) == [0]


def test_hashes_are_the_ones_of_all_machines():
    """Whole numbers throughout; written down once."""
    thumbnails = (np.arange(512).reshape(2, 16, 16) ** 2 % 251).astype(np.uint8)
    assert [f"{value:016x}" for value in hash_bits(thumbnails)] == ["3e82299c6e9f3fac", "578b19c12ac31ada"]


def test_plain_pictures_are_not_compared():
    noise = np.random.default_rng(0).normal(0, 1, (3, 16, 16))
    made = [128 + noise[0], 255 - np.abs(noise[1]), 128 + 6 * noise[2]]
    assert has_contrast([each.astype(np.uint8).tobytes() for each in made]).tolist() == [False, False, True]
    assert has_contrast([]).tolist() == []


def test_what_a_process_is_sent_does_not_grow_with_the_pictures(scenes, tmp_path):
    """A worker that has a bound of memory could not take in a million thumbnails."""
    search = partial(find_alike, sketch([each.tobytes() for each in scenes] * 2, tmp_path))
    sent = pickle.dumps(search)
    assert len(sent) < 1_000 < 256 * len(scenes)
    assert len(search(0)) >= ROWS // 2
    assert pickle.loads(sent)(0) == search(0)


@pytest.mark.slow
def test_thousands_that_are_all_alike_give_a_few_pairs_each_and_take_seconds():
    base = thumbnails_of([saved(scene(0))])
    noise = np.random.default_rng(0).integers(-3, 4, (3000, 16, 16))
    many = np.clip(base + noise, 0, 255).astype(np.uint8)
    start = time.process_time()
    found = alike(many)
    assert time.process_time() - start < 15
    assert len(found) <= MAX_PAIRS * 3000
    assert {place for pair in found for place in pair[:2]} == set(range(3000))


def test_nothing_and_one_picture_are_compared_with_nothing():
    one = thumbnails_of([saved(scene(0))])
    assert alike(one[:0]) == alike(one) == []


@pytest.mark.slow
def test_pairs_are_the_same_whatever_the_rows_compared_at_a_time(scenes, monkeypatch):
    doubled = np.concatenate([scenes[:150], scenes[:150]])
    expected = sorted(alike(doubled))
    assert len(expected) >= 150
    monkeypatch.setattr("vitlora.preprocess.near_duplicates.COLUMNS", 64)
    assert sorted(alike(doubled)) == expected


# Equal pictures


def known(*thumbnails, size=(40, 30)):
    return {row: Inspected(*size, False, "PNG", "RGB", bytes([value]) * 256) for row, value in enumerate(thumbnails)}


def test_only_one_of_each_file_that_may_equal_another_one_is_decoded():
    assert need_decoding(["a", "b", "c", "b", "d", "a"], known(1, 2, 3, 2, 2, 1)) == [1, 4]


def test_pictures_of_other_sizes_are_not_decoded_however_alike():
    found = {**known(1), 1: known(1, size=(30, 40))[0]}
    assert need_decoding(["a", "b"], found) == []


def test_files_with_equal_pixels_share_the_smallest_name():
    digests = ["d", "b", "c", "b", "e", "a"]
    assert name_contents(digests, {0: "x", 1: "x", 4: "y"}) == ["b", "b", "c", "b", "e", "a"]
    assert name_contents(digests, {}) == digests


CASES = {  # contents, labels, splits; conflicts, crossing, left out
    "none": ("abc", [0, 0, 1], "ttt", [], [], []),
    "twins in one class": ("aab", [0, 0, 1], "ttt", [], [], []),
    "twins in two classes": ("aab", [0, 1, 1], "ttt", [[0, 1]], [], [0, 1]),
    "three in two classes": ("abaa", [0, 1, 0, 1], "tttt", [[0, 2, 3]], [], [0, 2, 3]),
    "in train and test": ("aab", [0, 0, 1], "tTt", [], [[0, 1]], [0]),
    "in train and val": ("aab", [0, 0, 1], "tVt", [], [[0, 1]], [0]),
    "in val and test": ("aab", [0, 0, 1], "VTt", [], [[0, 1]], [0]),
    "in all three": ("aaab", [0, 0, 0, 1], "tVTt", [], [[0, 1, 2]], [0, 1]),
    "twins in test": ("aab", [0, 0, 1], "TTt", [], [], []),
    "two classes within test": ("aab", [0, 1, 1], "TTt", [[0, 1]], [], []),
    "two classes, train and test": ("aab", [0, 1, 1], "tTt", [[0, 1]], [[0, 1]], [0]),
    "two classes within val, one in test": ("aaab", [0, 1, 0, 1], "VVTt", [[0, 1, 2]], [[0, 1, 2]], [0, 1]),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_in_two_classes_or_two_splits_goes_and_what_is_held_out_stays(name):
    contents, labels, splits, conflicts, crossing, left_out = CASES[name]
    serve_as = [{"t": "train", "V": "val", "T": "test"}[split] for split in splits]
    found = find_duplicates(range(len(contents)), list(contents), labels, serve_as)
    assert (found.conflicts, found.crossing, found.left_out) == (conflicts, crossing, left_out)
    kept = [row for row in range(len(contents)) if row not in left_out]
    assert len({(contents[row], serve_as[row]) for row in kept}) == len({contents[row] for row in kept})
