"""Laws that hold for every input: parameters, splits, crops, packed pictures, manifests, tables and JSON."""

import json
import string
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from tiny import DIGITS

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_csv, write_json
from vitlora.core.params import load_params, read_document
from vitlora.preprocess.splits import _place, by_class, cap, carve
from vitlora.safety.check import STAGES, check_document
from vitlora.storage.manifest import MANIFEST, digest, problems, write_manifest
from vitlora.storage.packed import BYTES, INDEX, TEXTS, Packed, write_packed
from vitlora.train.augment import draw_crops, epoch_order

pytestmark = pytest.mark.slow

PARAMS = YAML(typ="safe").load(DIGITS)
KEYS = [(section, key) for section, values in PARAMS.items() for key in values]
SEEDS = st.integers(0, 2**32 - 1)
settings.register_profile(
    "ours", derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ours")


@pytest.fixture(scope="module", autouse=True)
def _profile():
    settings.load_profile("ours")


def folder():
    return tempfile.TemporaryDirectory()


# --- parameters ---

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SECTIONS = st.sampled_from([*PARAMS, "lorra"]) | st.text(max_size=6)


def accepted(document):
    """Say whether a document is taken; anything but that or a refusal in our words fails the test."""
    begun, path, said = time.monotonic(), Path("p.yaml"), ""
    try:
        check_document(document, path)
        for stage in STAGES.values():
            load_params(stage, document, path)
    except VitloraError as error:
        said = str(error)
        assert_names_the_file(said, path)
    assert time.monotonic() - begun < 2
    return not said


def assert_names_the_file(said, path):
    assert all(line.startswith(f"{path}: ") for line in said.split("\n")), said


@given(st.dictionaries(SECTIONS, VALUES, max_size=5))
def test_any_document_is_accepted_or_refused_in_our_words(document):
    assert not accepted(document), "no document of a few sections is whole"


@settings(max_examples=200)
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_in_place_of_a_good_one_is_accepted_or_refused_in_our_words(place, value):
    section, key = place
    document = {**PARAMS, section: {**PARAMS[section], key: value}}
    if accepted(document):
        assert type(value) in (type(None), bool, int, float, str, list)


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_file_are_read_or_refused_in_our_words(data):
    with folder() as here:
        path = Path(here) / "p.yaml"
        path.write_bytes(data)
        try:
            document = read_document(path)
        except VitloraError as error:
            assert_names_the_file(str(error), path)
        else:
            assert isinstance(document, dict)


@given(
    st.floats(1e-9, 10, exclude_min=True),
    st.integers(1, 384),
    st.floats(0, 1, exclude_max=True),
    SEEDS,
)
def test_good_values_survive_a_round_trip_through_yaml(rate, rank, dropout, seed):
    document = {name: dict(values) for name, values in PARAMS.items()}
    document["train"] |= {"learning_rate": rate, "seed": seed}
    document["lora"] |= {"r": rank, "lora_dropout": dropout}
    with folder() as here:
        path = Path(here) / "p.yaml"
        YAML(typ="safe", pure=True).dump(document, path)
        read = read_document(path)
        check_document(read, path)
        stage = load_params(STAGES["train"], read, path)
    assert (stage.train.learning_rate, stage.train.seed) == (rate, seed)
    assert (stage.lora.r, stage.lora.lora_dropout) == (rank, dropout)


# --- splits ---

IMAGES = st.lists(
    st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=3).map(bytes.hex)), min_size=1, max_size=60
)
FRACTIONS = st.floats(0.01, 0.9)
VAL = 0.05


def carved(seed, images, fraction):
    labels, contents = zip(*images, strict=True)
    return carve(by_class(labels, range(len(images))), fraction, VAL, seed, contents)


def rows_of(part):
    return [row for rows in part.values() for row in rows]


@given(SEEDS, IMAGES, FRACTIONS)
def test_a_split_is_a_partition_and_leaves_no_class_empty(seed, images, fraction):
    parts = carved(seed, images, fraction)
    assert sorted(row for part in parts for row in rows_of(part)) == list(range(len(images)))
    for label, rows in parts[2].items():
        different = {content for which, content in images if which == label}
        assert rows, "a class keeps an image to train on"
        assert bool(parts[0][label]) == (len(different) > 1), "and gives one to test"
        assert len(different) < 3 or parts[1][label], "and to val"
        assert all(images[row][0] == label for part in parts for row in part[label])
        contents = [{images[row][1] for row in part[label]} for part in parts]
        assert sum(map(len, contents)) == len(different), "no picture is in two splits"


@given(SEEDS, IMAGES, IMAGES, FRACTIONS)
def test_images_of_other_classes_move_none_of_this_one(seed, images, others, fraction):
    more = [*images, *((label + 10, content) for label, content in others)]
    before, after = (carved(seed, rows, fraction)[0] for rows in (images, more))
    assert {label: after[label] for label in before} == before


@given(SEEDS, IMAGES, FRACTIONS, st.randoms(use_true_random=False))
def test_the_order_of_the_list_plays_no_part(seed, images, fraction, random):
    shuffled = random.sample(images, len(images))
    found = [sorted(rows[row] for row in rows_of(carved(seed, rows, fraction)[0])) for rows in (images, shuffled)]
    assert found[0] == found[1]


@given(SEEDS, IMAGES, IMAGES, FRACTIONS)
def test_more_images_move_none_but_what_a_small_class_has_lent(seed, images, others, fraction):
    """A class that has pictures of its own in each split, before and after, keeps every one where it was."""
    before, after = carved(seed, images, fraction), carved(seed, [*images, *others], fraction)
    contents = [content for _, content in [*images, *others]]
    for label in before[0]:
        places = [[_place(seed, contents[row]) for row in part[label]] for part in before]
        borders = (fraction, fraction + VAL)
        if all(places) and max(places[0]) < borders[0] <= min(places[1]) and max(places[1]) < borders[1]:
            assert min(places[2]) >= borders[1]
            for old, new in zip(before, after, strict=True):
                assert {contents[row] for row in old[label]} <= {contents[row] for row in new[label]}


@given(SEEDS, IMAGES, st.integers(1, 20))
def test_a_cap_keeps_so_many_and_one_more_image_drops_at_most_one(seed, images, most):
    labels, contents = zip(*images, strict=True)
    kept, without = (
        cap(by_class(labels, range(count)), most, seed, contents) for count in (len(images), len(images) - 1)
    )
    assert all(len(rows) <= most for rows in kept.values())
    assert len({*rows_of(without)} - {*rows_of(kept)}) <= 1


# --- crops ---


@st.composite
def laws(draw):
    low, high = sorted((draw(st.floats(0.01, 1)), draw(st.floats(0.01, 1))))
    narrow, wide = sorted((draw(st.floats(0.1, 10)), draw(st.floats(0.1, 10))))
    return (low, high), (narrow, wide)


SIZES = st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 5000)), min_size=1, max_size=20)


@given(SEEDS, st.integers(0, 1000), SIZES, laws())
def test_a_crop_lies_in_the_picture_with_area_and_ratio_within_the_law(seed, epoch, sizes, law):
    scale, ratio = law
    places = [(epoch, row) for row in range(len(sizes))]
    boxes, flips = draw_crops(seed, places, np.array(sizes, np.int64), scale, ratio, 0.5)
    assert len(flips) == len(sizes)
    for (width, height), (left, top, right, bottom) in zip(sizes, boxes.tolist(), strict=True):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        w, h = right - left, bottom - top
        # Sides are rounded to whole pixels: half a pixel either way.
        within = (w + 0.5) * (h + 0.5) >= scale[0] * width * height * 0.999
        within &= max(w - 0.5, 0) * max(h - 0.5, 0) <= scale[1] * width * height * 1.001
        within &= (w + 0.5) / max(h - 0.5, 1e-9) >= ratio[0] * 0.999 and max(w - 0.5, 0) / (h + 0.5) <= ratio[1] * 1.001
        centred = abs(2 * left - (width - w)) <= 1 and abs(2 * top - (height - h)) <= 1
        assert within or (centred and (w == width or h == height)), "none of ten draws fits: the largest in the middle"


@given(SEEDS, st.integers(0, 1000), SIZES, st.integers(1, 20))
def test_a_crop_depends_on_seed_epoch_and_row_alone(seed, epoch, sizes, count):
    law = ((0.08, 1.0), (0.75, 4 / 3))
    array = np.array(sizes, np.int64)
    places = [(epoch, row) for row in range(len(sizes))]
    whole, part = (draw_crops(seed, places[:n], array[:n], *law, 0.5) for n in (len(sizes), count))
    assert whole[0][:count].tolist() == part[0].tolist()
    assert whole[1][:count].tolist() == part[1].tolist()


@given(SEEDS, st.integers(0, 1000), st.integers(0, 300))
def test_an_epoch_visits_every_image_once(seed, epoch, count):
    assert sorted(epoch_order(seed, epoch, count).tolist()) == list(range(count))


# --- packed pictures ---

NAMES = st.text(st.characters(exclude_categories=()), max_size=12)
PICTURES = st.lists(st.tuples(NAMES, st.binary(max_size=50)), max_size=12)


SHARD = BYTES.format(0)


def pack(here, pictures):
    write_packed(Path(here), ("path",), (((name,), data) for name, data in pictures))
    return Packed(Path(here))


def plain(name):
    """Say whether UTF-8 with surrogateescape can carry a name, as any name that a file system gives can be."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == name


def carried(name):
    try:
        return plain(name)
    except UnicodeEncodeError:
        return False


@given(PICTURES)
def test_packed_pictures_come_back(pictures):
    assume(all(carried(name) for name, _ in pictures))
    with folder() as here:
        found = pack(here, pictures)
        assert [found[row] for row in range(len(found))] == [data for _, data in pictures]
        assert [row["path"] for row in found.rows] == [name for name, _ in pictures]


@settings(max_examples=200)
@given(st.lists(st.tuples(NAMES, st.binary(min_size=1, max_size=9)), min_size=1, max_size=5), st.data())
def test_a_flipped_bit_never_gives_more_than_a_refusal_or_bytes_of_the_file(pictures, data):
    assume(all(carried(name) for name, _ in pictures))
    with folder() as here:
        pack(here, pictures)
        path = Path(here) / data.draw(st.sampled_from([SHARD, INDEX, TEXTS]))
        content = bytearray(path.read_bytes())
        assume(content)
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(content)
        whole = (Path(here) / SHARD).read_bytes()
        try:
            found = Packed(Path(here))
            read = [found[row] for row in range(len(found))]
        except VitloraError:
            return
        assert all(len(each) == length for each, length in zip(read, found.index["length"], strict=True))
        assert all(each in whole for each in read)


# --- manifests ---

FILES = st.sampled_from([*string.ascii_letters, "a b", "d/e", "d/é", "d/f/g", "d/line\vfeed"])
TREES = st.dictionaries(FILES, st.binary(max_size=20), min_size=1, max_size=6)


def fill(here, tree):
    for name, data in tree.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_bytes(data)
    write_manifest(here)


@settings(max_examples=100)
@given(TREES, st.sampled_from(["flip", "cut", "remove", "add", "manifest"]), st.data())
def test_any_damage_in_a_folder_is_found(tree, harm, data):
    with folder() as name:
        here = Path(name)
        fill(here, tree)
        assert not list(problems(here))
        before = digest(here)
        path = here / (MANIFEST if harm == "manifest" else data.draw(st.sampled_from(sorted(tree))))
        content = bytearray(path.read_bytes())
        assume(content or harm in ("remove", "add"))
        if harm == "remove":
            path.unlink()
        elif harm == "add":
            path.with_name("another").write_bytes(b"")
        elif harm == "cut":
            path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
        else:
            content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            path.write_bytes(content)
        assert list(problems(here)), f"{harm} of {path.name} was not found"
        assert harm != "manifest" or unlike(here, before)


def unlike(here, before):
    try:
        return digest(here) != before
    except ValueError:
        return True


# --- tables and JSON ---

CELLS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10) | st.integers().map(str)
HEADERS = st.lists(st.text(string.ascii_letters, min_size=1, max_size=5), min_size=1, max_size=4, unique=True)


@given(HEADERS, st.data())
def test_a_table_comes_back(header, data):
    rows = data.draw(st.lists(st.lists(CELLS, min_size=len(header), max_size=len(header)), max_size=6))
    assume(all(row != [""] for row in rows))  # an empty line is no row
    with folder() as here:
        path = Path(here) / "t.csv"
        write_csv(path, header, rows)
        assert [list(row.values()) for row in read_csv(path)] == rows


FINITE = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
JSON = st.recursive(
    FINITE | TEXT, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4), max_leaves=10
)


@given(JSON)
def test_json_comes_back_and_is_the_same_bytes_again(content):
    with folder() as here:
        one, two = Path(here) / "1.json", Path(here) / "2.json"
        write_json(one, content)
        assert read_json(one) == content
        write_json(two, json.loads(one.read_text(encoding="utf-8")))
        assert one.read_bytes() == two.read_bytes()
