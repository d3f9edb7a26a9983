"""Preprocess: what is refused, how images are divided, and that the outputs are the same bytes every time."""

import base64
import io
import os
import re
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial

import hostile
import numpy as np
import pytest
import raw_images
from PIL import Image as Pillow
from raw_images import FAIL, OUTPUTS, SKIP, SPLIT, SQUARE, images, picture, write_raw
from tiny import DIGITS, ROOT
from torchvision import transforms

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.images.sandbox import Isolated
from vitlora.preprocess import stage as module
from vitlora.preprocess.params import Image, Split
from vitlora.preprocess.stage import check_class_names, preprocess
from vitlora.storage.manifest import write_manifest
from vitlora.storage.packed import Packed
from vitlora.storage.squares import load_split


@pytest.fixture(scope="module")
def workers():
    with Isolated(2) as processes:
        yield processes


@pytest.fixture(autouse=True)
def one_set_of_processes(workers, monkeypatch):
    """Every run here uses the same ones: to start them takes longer than most runs."""
    monkeypatch.setattr(module, "Isolated", lambda count: nullcontext(workers))


def run(tmp_path, rows, names=("cat", "dog"), data=FAIL, image=SQUARE, split=SPLIT, out="out"):
    """Run the stage's function; return the folder of its outputs."""
    raw, folder = write_raw(tmp_path / "raw", rows, names), tmp_path / out
    places = [folder / name for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
    preprocess(data, image, split, raw, *places)
    return folder


def paths(folder):
    """Return the names of the images in each split."""
    return {
        "train": [row["path"] for row in Packed(folder / "train").rows],
        "val": load_split(folder / "val").paths,
        "test": load_split(folder / "test").paths,
    }


def with_split(**changes):
    return Split(**{**SPLIT.model_dump(), **changes})


def refused(tmp_path, *args, match, **kwargs):
    with pytest.raises(VitloraError, match=match) as error:
        run(tmp_path, *args, **kwargs)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_the_report_counts_every_image_once(tmp_path):
    folder = run(tmp_path, images((30, 20)))
    report = read_json(folder / "report.json")
    assert {name: value for name, value in report.items() if not isinstance(value, list)} == {
        "train": 31,
        "val": 6,
        "test": 13,
        "classes": 2,
        "bad": 0,
        "left_out": 0,
        "imbalance": 2.1,
        "exact_duplicates": 0,
        "duplicates_in_two_classes": 0,
        "duplicates_left_out": 0,
        "near_duplicates": 0,
        "near_duplicates_across_splits": 0,
    }
    assert report["more"] == [
        {"what": "upscaled", "value": 1.0},
        {"what": "not_compared", "value": 50},
        {"what": "odd_levels", "value": 0},
    ]
    assert report["bad_images"] == []
    assert report["images_per_class"] == [
        {"class": "cat", "train": 21, "val": 3, "test": 6},
        {"class": "dog", "train": 10, "val": 3, "test": 7},
    ]
    assert report["shorter_sides"] == [{"px": "8 to 15", "images": 50}]
    assert report["formats"] == [{"format": "PNG", "mode": "RGB", "images": 50}]
    listed = paths(folder)
    assert sorted(path for found in listed.values() for path in found) == sorted(row[0] for row in images((30, 20)))
    assert {name: len(found) for name, found in listed.items()} == {"train": 31, "val": 6, "test": 13}


def test_what_belongs_to_a_model_is_written_beside_the_splits(tmp_path):
    folder = run(tmp_path, images((6, 6)), image=Image(size_px=24, interpolation="bicubic"))
    expected = {"class_names": ["cat", "dog"], "image_size": 24, "interpolation": "bicubic"}
    assert read_json(folder / "labels.json") == expected


def test_training_images_keep_their_bytes_and_are_known_for_what_they_are(tmp_path):
    exif = Pillow.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Pillow.new("RGB", (30, 10), "red").save(buffer, format="JPEG", exif=exif.tobytes())
    rows = [*images((12, 12)), *((f"turned/{n}.jpg", "train", 0, buffer.getvalue() + bytes([n])) for n in range(8))]
    rows += [(f"plain/{n}.jpg", "train", 1, picture(n, kind="JPEG")) for n in range(8)]
    originals = {row[0]: row for row in rows}
    train = Packed(run(tmp_path, rows) / "train")
    assert list(train.rows[0]) == ["path", "label", "sha256", "width", "height", "plain"]
    assert {row["path"].split("/")[0] for row in train.rows} == {"train", "turned", "plain"}
    for place, row in enumerate(train.rows):
        _, _, label, data = originals[row["path"]]
        assert train[place] == data
        assert row["label"] == str(label)
        size = ("10", "30") if row["path"].startswith("turned") else ("20", "14")
        assert (row["width"], row["height"]) == size
        assert row["plain"] == ("1" if row["path"].startswith("plain") else "0")


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_squares_are_torchvisions_of_the_original_bytes(tmp_path, interpolation):
    shapes = [(20, 14), (13, 57), (16, 16), (8, 9), (40, 31)]
    rows = [(f"{n}.png", "train", n % 2, picture(n, shapes[n % 5], "JPEG" if n % 3 else "PNG")) for n in range(40)]
    folder = run(tmp_path, rows, image=Image(size_px=16, interpolation=interpolation))
    originals = {row[0]: row for row in rows}
    transform = transforms.Compose(
        [transforms.Resize(16, transforms.InterpolationMode(interpolation)), transforms.CenterCrop(16)]
    )
    for name in ("val", "test"):
        squares = load_split(folder / name)
        assert squares.images.dtype == np.uint8
        assert len(squares.paths) > 1
        for path, label, pixels in zip(squares.paths, squares.labels, squares.images, strict=True):
            _, _, expected_label, data = originals[path]
            theirs = transform(Pillow.open(io.BytesIO(data)).convert("RGB"))
            assert np.array_equal(pixels, np.asarray(theirs).transpose(2, 0, 1))
            assert label == expected_label


# Bad files


def with_bad(count, good=(30, 30)):
    bad = [b"", b"not a picture", picture(1)[:60], picture(2, kind="JPEG")[:300]]
    rows = images(good)
    return [*rows, *((f"bad/{number}.png", "train", 0, bad[number % 4]) for number in range(count))]


@pytest.mark.parametrize("count", [1, 2, 6, 21])
def test_bad_files_stop_everything_and_each_is_named_once_with_its_reason(tmp_path, capsys, count):
    message = refused(tmp_path, with_bad(count), match=f"^{count} of {60 + count} images cannot be used, named above; ")
    assert "mend or remove them, or set ingest.on_bad: skip; then `dvc repro`, which notices" in message
    told = capsys.readouterr().out + message
    assert "bad image: bad/0.png: empty: empty file\n" in told
    assert [told.count(f"bad/{number}.png") for number in range(count)] == [1] * count


def test_bad_files_are_left_out_and_reported_where_that_is_allowed(tmp_path, capsys):
    folder = run(tmp_path, with_bad(4), data=SKIP)
    report = read_json(folder / "report.json")
    assert report["bad"] == 4
    assert [entry["path"] for entry in report["bad_images"]] == [f"bad/{number}.png" for number in range(4)]
    reasons = [entry["reason"] for entry in report["bad_images"]]
    assert reasons[0] == "empty: empty file"
    assert reasons[1].startswith("not_an_image: not a picture of a known format")
    assert all(reason.startswith("truncated: the ") for reason in reasons[2:])
    assert report["train"] + report["val"] + report["test"] == 60
    assert not any(path.startswith("bad/") for found in paths(folder).values() for path in found)
    printed = "".join(f"bad image: {entry['path']}: {entry['reason']}\n" for entry in report["bad_images"])
    assert capsys.readouterr().out == printed + "train 36, val 7, test 17 images of 2 classes\n"


def test_bad_files_move_no_good_one_to_another_split(tmp_path):
    assert paths(run(tmp_path, with_bad(4), data=SKIP)) == paths(run(tmp_path, images((30, 30)), out="clean"))


def test_more_bad_files_than_allowed_stop_everything(tmp_path):
    message = refused(tmp_path, with_bad(21), data=SKIP, match="21 of 81 images cannot be used, more than ingest")
    assert "max_bad_fraction 0.25; named above; then `dvc repro`" in message


def test_just_as_many_bad_files_as_allowed_are_left_out(tmp_path):
    assert read_json(run(tmp_path, with_bad(20), data=SKIP) / "report.json")["bad"] == 20


def test_a_fraction_of_zero_allows_no_bad_file(tmp_path):
    refused(
        tmp_path,
        with_bad(1),
        data=FAIL.model_copy(update={"on_bad": "skip", "max_bad_fraction": 0.0}),
        match="1 of 61 images",
    )


def test_a_picture_too_narrow_to_be_scaled_is_a_bad_file(tmp_path, capsys):
    rows = [*images((10, 10)), ("thread.png", "train", 0, picture(0, (2, 120_000)))]
    big = Image(size_px=224, interpolation="bilinear")
    refused(tmp_path, rows, image=big, match="1 of 21 images cannot be used")
    said = "thread.png: bomb: 2 x 120000 px is too long and narrow to be scaled to 224 px\n"
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_a_picture_that_takes_its_process_down_or_holds_it_is_a_bad_file(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_check", hostile.check)
    monkeypatch.setattr(module, "Isolated", partial(Isolated, limit_s=0.5))
    rows = images((20, 20))
    rows[3:3] = [("crash.png", "train", 0, b"crash")]
    rows[30:30] = [("hang.png", "train", 1, b"hang"), ("crash too.png", "train", 1, b"crash")]
    folder = run(tmp_path, rows, data=SKIP)
    bad = {entry["path"]: entry["reason"] for entry in read_json(folder / "report.json")["bad_images"]}
    assert bad == {
        "crash.png": "corrupt: its decoder crashed (SIGSEGV)",
        "crash too.png": "corrupt: its decoder crashed (SIGSEGV)",
        "hang.png": "timeout: not decoded within 0.5 s",
    }
    monkeypatch.undo()
    assert paths(folder) == paths(run(tmp_path, images((20, 20)), out="clean"))


# Classes


@pytest.mark.parametrize("names", [["cat"], []])
def test_fewer_than_two_classes_are_refused(names):
    with pytest.raises(VitloraError, match=rf"got {len(names)} class .*; the rule: at least two; then `dvc repro`"):
        check_class_names(names)


@pytest.mark.parametrize(
    ("first", "second"),
    [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("CAFÉ", "cafe\u0301"), ("cat", "cat "), ("Straße", "STRASSE")],
)
def test_class_names_that_look_the_same_are_refused(tmp_path, first, second):
    message = refused(tmp_path, images((9, 9)), (first, second), match="differ only in case, spaces or Unicode form")
    assert message.startswith("class names ")


def test_class_names_that_differ_are_taken():
    names = ["cat", "cats", "café", "cafe", "Katze", "猫", "1", "01"]
    assert check_class_names(names) == names


def test_an_empty_class_is_named(tmp_path):
    names = ("cat", "dog", "unicorn")
    message = refused(tmp_path, images((9, 9), names), names, match="no image to train on in 1 of 3 classes: unicorn;")
    assert "add images or remove the class" in message


def test_a_class_that_only_bad_files_are_in_is_empty(tmp_path):
    rows = [*images((9, 0)), ("dog/1.png", "train", 1, b"")]
    refused(tmp_path, rows, data=SKIP, match="no image to train on in 1 of 2 classes: dog;")


def test_a_class_that_is_in_the_official_test_only_is_empty(tmp_path):
    rows = [*images((9, 0)), *images((3, 3), start=100, split="test")]
    refused(tmp_path, rows, match="no image to train on in 1 of 2 classes: dog;")


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_for_all_three_splits_are_refused(tmp_path, count):
    refused(tmp_path, images((count, count)), match=r"no image for val in any class; .* from three: add")


def test_three_images_a_class_are_enough(tmp_path):
    assert {name: len(found) for name, found in paths(run(tmp_path, images((3, 3)))).items()} == {
        "train": 2,
        "val": 2,
        "test": 2,
    }


# Official splits


def names_of(rows):
    return sorted(row[0] for row in rows)


TRAIN, VAL = images((20, 20)), images((5, 5), start=100, split="val")
TEST = images((6, 6), start=200, split="test")
OFFICIAL = with_split(val_from="official")


@pytest.mark.parametrize("held", [VAL, TEST], ids=["val", "test"])
def test_an_official_split_is_the_test_and_val_is_carved_from_train(tmp_path, held):
    found = paths(run(tmp_path, [*TRAIN, *held]))
    assert sorted(found["test"]) == names_of(held)
    assert sorted(found["train"] + found["val"]) == names_of(TRAIN)
    alone = paths(run(tmp_path, TRAIN, split=with_split(test_fraction=0.001), out="alone"))
    assert len(set(found["val"]) & set(alone["val"])) > 1  # a share of all, as without an official test


def test_an_official_val_trains_where_val_is_carved_and_there_is_a_test_too(tmp_path):
    found = paths(run(tmp_path, [*TRAIN, *VAL, *TEST]))
    assert sorted(found["test"]) == names_of(TEST)
    assert sorted(found["train"] + found["val"]) == names_of([*TRAIN, *VAL])
    assert any(path.startswith("val/") for path in found["train"])


@pytest.mark.parametrize("held", [VAL, TEST], ids=["val", "test"])
def test_one_official_split_is_both_val_and_test_where_val_is_official(tmp_path, held):
    found = paths(run(tmp_path, [*TRAIN, *held], split=OFFICIAL))
    assert sorted(found["train"]) == names_of(TRAIN)
    assert sorted(found["val"]) == sorted(found["test"]) == names_of(held)


def test_two_official_splits_are_kept_apart_where_val_is_official(tmp_path):
    found = paths(run(tmp_path, [*TRAIN, *VAL, *TEST], split=OFFICIAL))
    assert {name: sorted(listed) for name, listed in found.items()} == {
        "train": names_of(TRAIN),
        "val": names_of(VAL),
        "test": names_of(TEST),
    }


def test_val_cannot_be_official_where_there_is_no_official_split(tmp_path):
    refused(tmp_path, TRAIN, split=OFFICIAL, match="split.val_from: got official; the data has one split only")


CAPPED = [(TRAIN, "train"), ([*TRAIN, *TEST], "train"), ([*TRAIN, *VAL, *TEST], "train")]
CAPPED += [([*TRAIN, *TEST], "official"), ([*TRAIN, *VAL, *TEST], "official")]


@pytest.mark.parametrize(("rows", "val_from"), CAPPED, ids=["none", "test", "both", "test, official", "both, official"])
def test_a_cap_holds_for_every_class_in_every_split(tmp_path, rows, val_from):
    folder = run(tmp_path, rows, split=with_split(max_per_class=4, val_from=val_from))
    for name, listed in paths(folder).items():
        counts = Counter(path.split("/")[1] for path in listed)
        assert set(counts) == {"cat", "dog"}
        assert max(counts.values()) <= 4, (name, counts)
    report = read_json(folder / "report.json")
    assert report["train"] + report["val"] <= 2 * 4 * (2 if val_from == "official" else 1)


def test_a_larger_cap_takes_more(tmp_path):
    sizes = [
        len(paths(run(tmp_path, TRAIN, split=with_split(max_per_class=cap), out=str(cap)))["train"])
        for cap in (4, 10, None)
    ]
    assert sizes == [4, 13, 24]


def test_another_seed_gives_another_test(tmp_path):
    first, second = (paths(run(tmp_path, TRAIN, split=with_split(seed=seed), out=str(seed))) for seed in (0, 1))
    assert sorted(first["test"]) != sorted(second["test"])
    assert not set(first["train"]) >= set(second["train"])


# Duplicates


def split_paths(folder, *names):
    """Return the splits that hold each of the named pictures."""
    found = paths(folder)
    return [{split for split in found if name in found[split]} for name in names]


def copies_of(rows, numbers, split="train", label=None):
    """Return copies of some rows, under other names."""
    return [(f"copy/{n}.png", split, rows[n][2] if label is None else label, rows[n][3]) for n in numbers]


def as_other_file(data):
    """Return another file with the same pixels."""
    buffer = io.BytesIO()
    Pillow.open(io.BytesIO(data)).save(buffer, format="PNG", compress_level=1)
    assert buffer.getvalue() != data
    return buffer.getvalue()


def test_pictures_without_duplicates_are_divided_as_ever(tmp_path):
    """Written down once: another division is another test for everybody."""
    found = paths(run(tmp_path, images((9, 9))))
    numbers = {name: [int(re.findall(r"\d+", path)[0]) for path in listed] for name, listed in found.items()}
    assert numbers == {"train": [0, 2, 3, 5, 6, 7, 9, 11, 12, 13, 14, 15, 16], "val": [1, 10], "test": [4, 8, 17]}


@pytest.mark.parametrize("again", [bytes, as_other_file], ids=["to the byte", "to the pixel"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equal_pictures_come_into_one_split(tmp_path, seed, again):
    rows = images((40, 40))
    copies = [(*row[:3], again(row[3])) for row in copies_of(rows, range(0, 80, 2))]
    folder = run(tmp_path, [*copies, *rows], split=with_split(seed=seed))
    for number in range(0, 80, 2):
        mine, copy = split_paths(folder, rows[number][0], f"copy/{number}.png")
        assert mine == copy
        assert len(mine) == 1
    report = read_json(folder / "report.json")
    assert (report["exact_duplicates"], report["duplicates_left_out"]) == (40, 0)
    assert 0 < report["test"] < 60
    assert report["equal_pictures"][0]["images"] == 2


def test_the_order_of_the_rows_decides_nothing_where_there_are_duplicates(tmp_path):
    rows = images((40, 40))
    rows += copies_of(rows, range(0, 80, 3))
    first = run(tmp_path, rows, out="first")
    second = run(tmp_path, rows[::-1], out="second")
    assert {name: sorted(found) for name, found in paths(first).items()} == {
        name: sorted(found) for name, found in paths(second).items()
    }


def test_a_picture_in_two_classes_stops_everything_and_is_named(tmp_path, capsys):
    rows = images((20, 20))
    message = refused(
        tmp_path, [*rows, *copies_of(rows, [3, 4], label=1)], match="^2 pictures in two classes or splits"
    )
    assert "named above; remove the wrong ones, or set ingest.on_duplicate: skip" in message
    told = capsys.readouterr().out
    assert "the same picture in two classes: train/cat/4.png = copy/4.png\n" in told
    assert [(told + message).count(f"copy/{number}.png") for number in (3, 4)] == [1, 1]


def test_a_picture_in_two_classes_is_left_out_with_all_its_copies_where_that_is_allowed(tmp_path):
    rows = images((20, 20))
    folder = run(tmp_path, [*rows, *copies_of(rows, [3], label=1), *copies_of(rows, [30])], data=SKIP)
    assert split_paths(folder, "train/cat/3.png", "copy/3.png") == [set(), set()]
    report = read_json(folder / "report.json")
    assert report["duplicates_in_two_classes"] == report["duplicates_left_out"] == 2
    assert report["equal_pictures"][0]["classes"] == ["cat", "dog"]
    assert report["train"] + report["val"] + report["test"] == 40


def test_many_copies_are_named_in_one_short_line(tmp_path, capsys):
    rows = images((20, 20))
    refused(tmp_path, [*rows, *copies_of(rows, [3] * 30, label=1)], match="^1 picture in two classes or splits, named")
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("= copy/3.png and 26 more")


@pytest.mark.parametrize("held", [VAL, TEST], ids=["val", "test"])
@pytest.mark.parametrize("val_from", ["train", "official"])
def test_a_copy_of_a_held_out_picture_is_refused_or_left_out_of_train_and_test_stays_whole(
    tmp_path, capsys, held, val_from
):
    rows = [*TRAIN, *copies_of(held, [0, 7]), *held]
    split = with_split(val_from=val_from)
    refused(tmp_path, rows, split=split, match="^2 pictures in two classes or splits, named above; ")
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("the same picture in two splits: copy/0.png = ")
    assert second.startswith("the same picture in two splits: copy/7.png = ")
    folder = run(tmp_path, rows, data=SKIP, split=split)
    assert split_paths(folder, "copy/0.png", "copy/7.png") == [set(), set()]
    assert sorted(paths(folder)["test"]) == names_of(held)
    assert read_json(folder / "report.json")["duplicates_left_out"] == 2


def test_of_copies_in_val_and_test_those_in_test_stay_unless_val_is_trained_on(tmp_path):
    rows = [*TRAIN, *VAL, *copies_of(TEST, [0], split="val"), *copies_of(TRAIN, [0], split="val"), *TEST]
    rows = [(f"{number}/{row[0]}", *row[1:]) for number, row in enumerate(rows)]
    official = paths(run(tmp_path, rows, data=SKIP, split=OFFICIAL, out="official"))
    assert sorted(official["test"]) == sorted(row[0] for row in rows if row[1] == "test")
    assert len(official["val"]) == 11  # the copy of a training picture is held out here
    assert len(official["train"]) == 39
    trained = paths(run(tmp_path, rows, data=SKIP, out="trained"))
    assert len(trained["train"]) + len(trained["val"]) == 51


def test_a_picture_of_two_classes_in_the_official_test_stays_there_and_is_counted(tmp_path):
    rows = [*TRAIN, *TEST, *copies_of(TEST, [0], split="test", label=1)]
    folder = run(tmp_path, rows, data=SKIP)
    report = read_json(folder / "report.json")
    assert (report["test"], report["duplicates_in_two_classes"], report["duplicates_left_out"]) == (13, 2, 0)


def test_a_class_of_nothing_but_copies_is_trained_on_and_in_no_other_split(tmp_path):
    rows = images((20, 1))
    found = paths(run(tmp_path, [*rows, *copies_of(rows, [20]), ("more.png", "train", 1, rows[20][3])]))
    assert {"copy/20.png", "more.png"} < set(found["train"])
    assert all("dog" not in path for path in (*found["val"], *found["test"]))


def test_a_class_whose_pictures_are_all_in_another_class_too_is_empty(tmp_path):
    rows = images((20, 0))
    refused(
        tmp_path, [*rows, *copies_of(rows, [3, 4], label=1)], data=SKIP, match="no image to train on in 1 of 2 .*: dog;"
    )


def test_thousands_of_plain_pictures_cost_little_and_are_no_near_duplicates(tmp_path):
    plain = []
    for number in range(600):
        buffer = io.BytesIO()
        Pillow.new("RGB", (40, 40), (255, 255, 255 - number % 2)).save(buffer, format="PNG")
        plain.append(
            (f"plain/{number}.png", "train", number % 2, buffer.getvalue() + bytes([number % 256, number // 256]))
        )
    report = read_json(run(tmp_path, [*plain, *images((30, 30))]) / "report.json")
    assert (report["exact_duplicates"], report["near_duplicates"]) == (598, 0)
    assert {"what": "not_compared", "value": 660} in report["more"]


# The page and what it is drawn from


def photo(number, size=(120, 90), **save):
    """Return a picture with large shapes, as photographs have them."""
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(small).resize(size, Pillow.Resampling.BICUBIC).save(buffer, **{"format": "JPEG", **save})
    return buffer.getvalue()


def photos(changed=()):
    """Return 60 rows of photographs; of those named, also a re-encoded half-sized copy, as the official test."""
    rows = [(f"train/{number}.jpg", "train", number % 2, photo(number)) for number in range(60)]
    return rows + [
        (f"test/{number}.jpg", "test", number % 2, photo(number, (60, 45), quality=60)) for number in changed
    ]


def test_pictures_that_look_alike_are_reported_those_across_splits_first_and_none_is_moved(tmp_path, capsys):
    rows = photos(range(10, 20))
    rows += [("train/again.jpg", "train", 1, photo(31, quality=50))]
    folder = run(tmp_path, rows)
    report = read_json(folder / "report.json")
    in_val = sum(f"train/{number}.jpg" in paths(folder)["val"] for number in range(10, 20))
    assert (report["near_duplicates"], report["near_duplicates_across_splits"]) == (22, 10 + in_val)
    assert (report["train"], report["val"], report["test"]) == (55, 6, 10)
    listed = report["similar_pictures"]
    assert [pair["paths"] for pair in listed[-1:]] == [["train/31.jpg", "train/again.jpg"]]
    assert all("test" in pair["splits"] and pair["similarity"] > 0.95 for pair in listed[:10])
    assert f"note: {10 + in_val} images of val and test look like one in another split\n" in capsys.readouterr().out


def test_the_page_shows_what_is_alike_and_asks_nobody_for_anything(tmp_path):
    page = (run(tmp_path, photos(range(4))) / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 8
    assert "8 pictures look like another one though their files differ, " in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page
    assert page.startswith("<!doctype html>\n")


def deep(number, top, kind="PNG"):
    """Return a 16-bit grey picture with values up to ``top``."""
    values = np.random.default_rng(number).integers(0, top + 1, (20, 24)).astype(np.uint16)
    values[0, :2] = 0, top
    buffer = io.BytesIO()
    Pillow.fromarray(values).save(buffer, format=kind)
    return buffer.getvalue()


def test_pictures_that_show_little_of_their_levels_are_named_and_the_others_not(tmp_path, capsys):
    rows = images((6, 6))
    rows += [(f"train/cat/whole {n}.png", "train", 0, deep(100 + n, 65535)) for n in range(4)]
    rows += [(f"train/dog/dark\x1b {n}.{k}", "train", 1, deep(n, 4095, k)) for n, k in enumerate(["PNG", "TIFF"] * 4)]
    folder, found = run(tmp_path, rows), "its values go from 0 to 4095, of 0 to 65535, so it looks dark or flat"
    report, said = read_json(folder / "report.json"), capsys.readouterr().out
    dark = [row[0] for row in rows if "dark" in row[0]]
    assert {"what": "odd_levels", "value": 8} in report["more"]
    assert report["odd_level_images"] == [{"path": path, "note": found} for path in dark]
    assert said.count("note: train/dog/dark\\x1b ") == 5
    assert f"note: train/dog/dark\\x1b 0.PNG: {found}\n" in said
    assert "note: 3 more pictures are like these; the data report lists them\n" in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<li>8 pictures of more than 8 bits show little of their levels" in page
    assert page.count(found) == 8
    assert "whole" not in page


def test_the_pages_small_pictures_hold_no_profile(tmp_path):
    profile = np.random.default_rng(0).bytes(3000)
    rows = []
    for number in range(4):
        image = Pillow.open(io.BytesIO(photo(number, quality=90)))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=90, icc_profile=profile)
        rows += [(f"train/{number}.jpg", "train", number % 2, buffer.getvalue())]
        rows += [(f"test/{number}.jpg", "test", number % 2, photo(number, quality=60))]
    page = (run(tmp_path, rows) / "report.html").read_text(encoding="utf-8")
    shown = [base64.b64decode(each) for each in re.findall('data:image/jpeg;base64,([^"]+)', page)]
    assert len(shown) == 8
    assert all(b"ICC_PROFILE" not in data and len(data) < 9000 for data in shown)


def test_names_are_escaped_in_the_page(tmp_path):
    names = ("<script>alert(1)</script>", 'a"b&c\u202e')
    rows = [(f'{row[0]}<b>\x1b[2J"', *row[1:]) for row in photos(range(4))]
    rows.append(("<i>\x07.jpg", "train", 0, b"<u>"))
    page = (run(tmp_path, rows, names, data=SKIP) / "report.html").read_text(encoding="utf-8")
    assert not re.findall("<script|<b>|<i>|<u>|[\x00-\x09\x0b-\x1f\u202e]", page)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;i&gt;\\x07.jpg" in page
    assert "a&#34;b&amp;c\\u202e" in page


def test_a_page_of_many_classes_and_duplicates_stays_small(tmp_path):
    names = [f"class {number}" for number in range(300)]
    rows = [(f"{n}.jpg", "train", n % 300, photo(n, quality=90)) for n in range(600)]
    rows += [(f"more {n}.jpg", "test", n % 300, photo(n, quality=60)) for n in range(300)]
    folder = run(tmp_path, rows, names)
    report = read_json(folder / "report.json")
    assert report["near_duplicates_across_splits"] >= 295
    assert len(report["similar_pictures"]) == 50
    assert (folder / "report.html").stat().st_size < 1_000_000


# The same bytes every time


def contents(folder):
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def test_a_second_run_writes_the_same_bytes_over_the_first(tmp_path):
    first = contents(run(tmp_path, with_bad(3), data=SKIP))
    assert contents(run(tmp_path, with_bad(3), data=SKIP)) == first
    assert contents(run(tmp_path, with_bad(3), data=SKIP, out="elsewhere")) == first


def test_a_smaller_run_leaves_nothing_of_a_larger_one_before(tmp_path):
    alone = contents(run(tmp_path, images((6, 6)), out="alone"))
    run(tmp_path, images((40, 40)))
    assert contents(run(tmp_path, images((6, 6)))) == alone


def stage(raw, out, **environment):
    write_manifest(raw)
    paths = ["--train", out / "train", "--val", out / "val", "--test", out / "test"]
    paths += ["--labels", out / "labels.json", "--page", out / "report.html", "--report", out / "report.json"]
    command = [sys.executable, "-m", "stages.preprocess", "--params", raw.parent / "p.yaml", "--raw", raw, *paths]
    write_json(raw.parent / "image.json", {"size_px": 40, "interpolation": "bicubic"})
    command += ["--own-image", raw.parent / "image.json"]
    return subprocess.run(
        [str(word) for word in command],
        cwd=raw.parent,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_the_stage_writes_the_same_bytes_under_any_hash_seed_and_worker_count(tmp_path, monkeypatch):
    """600 images go through the process pool of the stage, and through none here."""
    rows = images((300, 300))
    raw = write_raw(tmp_path / "raw", rows)
    text = DIGITS.read_text(encoding="utf-8")
    (tmp_path / "p.yaml").write_text(text.replace("  size_px: 42", "  size_px: 14"))
    monkeypatch.setattr(module, "CHUNK", 10_000)
    expected = contents(run(tmp_path, rows, image=Image(size_px=14, interpolation="bilinear")))
    for seed in ("1", "2"):
        done = stage(raw, tmp_path / seed, PYTHONHASHSEED=seed)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.startswith("train 433, val 57, test 110 images of 2 classes\npreprocess took ")
        assert contents(tmp_path / seed) == expected


def test_many_small_chunks_in_many_processes_give_the_same(tmp_path, monkeypatch):
    rows = with_bad(4, good=(300, 300))
    monkeypatch.setattr(module, "CHUNK", 10_000)
    expected = contents(run(tmp_path, rows, data=SKIP, out="one"))
    monkeypatch.setattr(module, "CHUNK", 37)
    assert contents(run(tmp_path, rows, data=SKIP, out="many")) == expected


@pytest.mark.parametrize("name", ["preprocess", "download"])
def test_the_light_stages_load_nothing_heavy(name):
    script = (
        f"import vitlora.{name}.stage, stages.{name}, sys; print(*{{module.split('.')[0] for module in sys.modules}})"
    )
    environment = {**os.environ, "PYTHONPATH": "src"}
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    heavy = {"torch", "torchvision", "transformers", "peft", "datasets", "sklearn", "scipy", "matplotlib"}
    assert not heavy & set(done.stdout.split())
    assert "numpy" in done.stdout.split()


@pytest.mark.slow
def test_a_bad_file_whose_name_is_not_utf8_is_named_and_left_out(tmp_path):
    raw = write_raw(tmp_path / "raw", [*images((30, 30)), ("cat/caf\udce9.png", "train", 0, b"")])
    text = DIGITS.read_text(encoding="utf-8")
    (tmp_path / "p.yaml").write_text(text.replace("  on_bad: fail", "  on_bad: skip"))
    done = stage(raw, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("bad image: cat/caf\\udce9.png: empty: empty file\n")
    assert read_json(tmp_path / "out/report.json")["bad_images"][0]["path"] == "cat/caf\udce9.png"
    (tmp_path / "p.yaml").write_text(text)
    done = stage(raw, tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("bad image: cat/caf\\udce9.png: empty: empty file\n")
    assert "error: 1 of 61 images cannot be used, named above; " in done.stderr


def test_squares_and_labels_that_do_not_belong_together_are_refused(tmp_path):
    folder = run(tmp_path, images((9, 9)))
    index = (folder / "val/index.csv").read_text().splitlines(keepends=True)
    (folder / "val/index.csv").write_text("".join(index[:-1]))
    with pytest.raises(VitloraError, match=r"val: uint8 \(2, 3, 16, 16\) pixels for 1 labels; make it anew"):
        load_split(folder / "val")


# What download didn't take


LOST = {"reason": "a link, pipe, socket or device", "count": 30, "names": ["cat/a.png", "dog"], "cure": "copy (cp -rL)"}
STRAY = {"reason": "in no class folder", "count": 1, "names": ["README.md"], "cure": None}


def test_what_the_run_would_not_use_is_refused_by_name_or_stands_in_the_report(tmp_path, monkeypatch):
    rows = images((30, 20))
    monkeypatch.setattr(raw_images, "LEFT_OUT", [LOST, STRAY])
    message = refused(tmp_path, rows, match="the data has what the run would not use: 30 .a link")
    assert "cat/a.png, dog; copy (cp -rL). Or remove what is not meant, or set ingest.on_left_out: skip" in message
    assert "README.md" not in message
    folder = run(tmp_path / "skip", rows, data=SKIP)
    report = read_json(folder / "report.json")
    assert report["left_out"] == 31
    assert report["left_out_files"] == [{k: v for k, v in each.items() if k != "cure"} for each in (LOST, STRAY)]
    page = (folder / "report.html").read_text()
    assert "<h2>Not used</h2>" in page
    assert "cat/a.png, dog" in page


# `auto`


@pytest.mark.parametrize(
    ("section", "own", "expected"),
    [
        (("auto", "auto"), {"size_px": 40, "interpolation": "bicubic"}, [40, "bicubic"]),
        ((24, "auto"), {"size_px": 40, "interpolation": "bicubic"}, [24, "bicubic"]),
        (("auto", "bilinear"), {"size_px": 8, "interpolation": None}, [8, "bilinear"]),
        ((24, "bilinear"), {"size_px": None, "interpolation": "lanczos"}, [24, "bilinear"]),
    ],
)
def test_auto_is_the_base_models_own_size_and_filter(tmp_path, capsys, section, own, expected):
    raw, out = write_raw(tmp_path / "raw", images((6, 6)), ("cat", "dog")), tmp_path / "out"
    write_json(tmp_path / "image.json", own)
    places = [out / name for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
    image = Image(size_px=section[0], interpolation=section[1])
    preprocess(FAIL, image, SPLIT, raw, *places, own_image=tmp_path / "image.json")
    labels = read_json(out / "labels.json")
    assert [labels["image_size"], labels["interpolation"]] == expected
    assert load_split(out / "val").images.shape[2:] == (expected[0], expected[0])
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("image.")]
    keys = ("size_px", "interpolation")
    assert said == [
        f"image.{key}: {value}, the base model's own"
        for key, value, given in zip(keys, expected, section, strict=True)
        if given == "auto"
    ]


@pytest.mark.parametrize(
    ("key", "own", "rule"),
    [
        ("size_px", None, "null; the rule: 8 to 2048"),
        ("size_px", 4096, "4096; the rule: 8 to 2048"),
        ("interpolation", None, "null; the rule: bilinear or bicubic"),
        ("interpolation", "lanczos", '"lanczos"; the rule: bilinear or bicubic'),
    ],
)
def test_auto_is_refused_where_a_base_does_not_say_or_says_what_is_not_here(tmp_path, key, own, rule):
    write_json(tmp_path / "image.json", {"size_px": 40, "interpolation": "bicubic", key: own})
    with pytest.raises(VitloraError, match=rf"^image\.{key}: got auto, and the base model's own is {rule}; write one"):
        module.settle(Image(size_px="auto", interpolation="auto"), tmp_path / "image.json")
    cured = {"size_px": 32, "interpolation": "bilinear"}[key]
    assert cured in module.settle(
        Image(**{"size_px": "auto", "interpolation": "auto", key: cured}), tmp_path / "image.json"
    )
