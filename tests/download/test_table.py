"""Pictures beside a table of labels: read by it, or refused with what to set; never taken for a class."""

import json
import re

import pytest
from trees import fill, pack, read

from vitlora.core.errors import VitloraError
from vitlora.download.layout import LOOSE, UNLISTED, UNREAD
from vitlora.download.sources import from_archive, from_folder
from vitlora.download.table import from_table

PICTURES = {f"images/{number}.jpg": b"%d" % number for number in range(4)}
NAMES = ["cat", "dog", "cat", "emu"]


def csv(rows, head="image,label", end="\n"):
    return end.join([head, *rows, ""]).encode()


def table(root, image="image", label="label", split=None, **tables):
    return read(from_table(root, tables or {"train": "train"}, image, label, split))


EXPECTED = {f"images/{n}.jpg": ("train", NAMES[n], b"%d" % n) for n in range(4)}
CELLS = {
    "path": "images/{}.jpg",
    "path below ./": "./images/{}.jpg",
    "path of Windows": "images\\{}.jpg",
    "name": "{}.jpg",
    "name without ending": "{}",
    "end of a path, without ending": "images/{}",
}
FORMS = {
    "train.csv": lambda cells: csv([f"{cell},{name}" for cell, name in zip(cells, NAMES, strict=True)]),
    "train.CSV": lambda cells: csv([f'"{cell}","{name}"' for cell, name in zip(cells, NAMES, strict=True)], end="\r\n"),
    "train.tsv": lambda cells: csv([f"{c}\t{n}" for c, n in zip(cells, NAMES, strict=True)], "image\tlabel"),
    "train.jsonl": lambda cells: "\n".join(
        json.dumps({"image": cell, "label": name}) for cell, name in zip(cells, NAMES, strict=True)
    ).encode(),
    "semicolons.csv": lambda cells: (
        b"\xef\xbb\xbf" + csv([f"{c};{n}" for c, n in zip(cells, NAMES, strict=True)], "image;label")
    ),
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", FORMS)
def test_a_table_gives_each_picture_its_class(tmp_path, name, cell):
    cells = [CELLS[cell].format(number) for number in range(4)]
    fill(tmp_path, PICTURES | {name: FORMS[name](cells)})
    assert table(tmp_path, train=name) == (["cat", "dog", "emu"], EXPECTED)


def test_a_table_is_found_without_its_ending_and_paths_count_from_its_folder(tmp_path):
    files = {f"train/pictures/{n}.jpg": b"%d" % n for n in range(4)}
    fill(tmp_path, files | {"train/metadata.csv": csv([f"pictures/{n}.jpg,{NAMES[n]}" for n in range(4)])})
    names, found = table(tmp_path, train="train/metadata")
    assert names == ["cat", "dog", "emu"]
    assert found == {f"train/pictures/{n}.jpg": ("train", NAMES[n], b"%d" % n) for n in range(4)}


def test_each_split_has_its_own_table(tmp_path):
    rows = [f"{n}.jpg,{NAMES[n]}" for n in range(4)]
    fill(tmp_path, PICTURES | {"train.csv": csv(rows[:2]), "test.csv": csv(rows[2:])})
    names, found = table(tmp_path, train="train", test="test.csv")
    assert names == ["cat", "dog", "emu"]
    assert [split for split, _, _ in found.values()] == ["train", "train", "test", "test"]


def test_a_column_tells_the_split_in_any_usual_spelling(tmp_path):
    parts = ["Training", "validation", "TEST", "train"]
    rows = [f"{n}.jpg,{NAMES[n]},{parts[n]}" for n in range(4)]
    fill(tmp_path, PICTURES | {"labels.csv": csv(rows, "image,label,part")})
    _, found = table(tmp_path, split="part", train="labels.csv")
    assert [split for split, _, _ in found.values()] == ["train", "val", "test", "train"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [(["10", "2", "0", "2"], ["0", "2", "10"]), (["a,b", "é 猫", "a,b", "z"], ["a,b", "z", "é 猫"])],
)
def test_numbers_are_classes_in_their_order_and_text_stays_as_it_is(tmp_path, labels, names):
    fill(tmp_path, PICTURES | {"train.csv": csv([f'{n}.jpg," {labels[n]} "' for n in range(4)])})
    found = table(tmp_path)
    assert found[0] == names
    assert [name for _, name, _ in found[1].values()] == labels


def test_pictures_that_no_row_names_are_listed_and_tables_are_not(tmp_path):
    more = {"images/x.jpg": b"x", "test/9.jpg": b"9", "sample_submission.csv": b"image,label\n"}
    fill(tmp_path, PICTURES | more | {"train.csv": csv([f"{n}.jpg,{NAMES[n]}" for n in range(4)])})
    found = from_table(tmp_path, {"train": "train"}, "image", "label", None)
    assert found.left_out == {UNLISTED: ["images/x.jpg", "test/9.jpg"]}


ROWS = [f"{n}.jpg,{NAMES[n]}" for n in range(4)]
REFUSED = {
    "no such table": (
        {"labels.csv": csv(ROWS)},
        "data.train_split: got train; ROOT has the tables labels.csv; the rule",
    ),
    "no table": ({}, "data.train_split: got train; ROOT has no .csv, .tsv, .jsonl"),
    "column": (
        {"train.csv": csv(ROWS, "id,class")},
        "data.image_column: got image; ROOT/train.csv has the columns id, class",
    ),
    "label column": (
        {"train.csv": csv(ROWS, "image,class")},
        "data.label_column: got label; ROOT/train.csv has the columns",
    ),
    "no file": ({"train.csv": csv([*ROWS, "77.jpg,cat"])}, "train.csv, row 5 names 77.jpg, which is no file below"),
    "two files": (
        {"train.csv": csv(ROWS), "other/2.jpg": b""},
        "train.csv, row 3 names 2.jpg, which is 2 files: images/2.jpg, other/2.jpg; write its path",
    ),
    "named twice": (
        {"train.csv": csv([*ROWS, "images/1.jpg,cat"])},
        "row 5 names images/1.jpg again; the rule: one row",
    ),
    "no class": ({"train.csv": csv(["0.jpg,"])}, 'train.csv, row 1: label is ""; the rule: text or a whole number'),
    "too many cells": ({"train.csv": csv(["0.jpg,cat,x"])}, "train.csv, row 1: the rule: 2 cells"),
    "too few cells": ({"train.csv": csv(["0.jpg"])}, "train.csv, row 1: the rule: 2 cells"),
    "twice a column": ({"train.csv": csv(ROWS, "image,image")}, "train.csv names a column twice: image, image"),
    "not UTF-8": (
        {"train.csv": csv(ROWS) + "é".encode("latin-1")},
        "train.csv is not UTF-8 (byte 52); save it as UTF-8",
    ),
    "empty": ({"train.csv": b"image,label\n"}, "train has no row"),
    "open quote": ({"train.csv": csv(['0.jpg,"cat'])}, "train.csv, line 1: unexpected end of data"),
    "not JSON": ({"train.jsonl": b'{"image": "0.jpg", "label": "a"}\n{]'}, "train.jsonl, line 2 is not JSON"),
    "list": ({"train.jsonl": b"[1]"}, "train.jsonl, line 1: the rule: an object"),
    "null": ({"train.jsonl": b'{"image": "0.jpg", "label": null}'}, "train.jsonl, row 1: label is null; the rule"),
    "true": ({"train.jsonl": b'{"image": "0.jpg", "label": true}'}, "train.jsonl, row 1: label is true; the rule"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_file_and_row(tmp_path, case):
    files, rule = REFUSED[case]
    fill(tmp_path, PICTURES | files)
    with pytest.raises(VitloraError, match=re.escape(rule.replace("ROOT", str(tmp_path)))):
        table(tmp_path)


def test_an_unknown_split_is_named(tmp_path):
    fill(tmp_path, PICTURES | {"train.csv": csv(["0.jpg,cat,mine"], "image,label,part")})
    with pytest.raises(VitloraError, match=r"train.csv, row 1: got the split mine; the rule: train, val or test"):
        table(tmp_path, split="part")


@pytest.mark.parametrize("head", ["image,cat,dog", "image, cat, dog", "id,image,cat,dog,emu"])
def test_a_column_for_each_class_is_refused(tmp_path, head):
    rows = [f"{n}.jpg,{int(n < 2)},{int(n >= 2)}" for n in range(4)]
    if "emu" in head:
        rows = [f"x{row},0" for row in (f"{n},{row}" for n, row in enumerate(rows))]
    fill(tmp_path, PICTURES | {"train.csv": csv(rows, head)})
    with pytest.raises(
        VitloraError, match=r"cat is one of the columns cat, dog.*, of which each row has one 1; the rule"
    ):
        table(tmp_path, label="cat")


def test_classes_of_0_and_1_in_one_column_are_classes(tmp_path):
    fill(tmp_path, PICTURES | {"train.csv": csv([f"{n}.jpg,{n % 2},{n // 2}" for n in range(4)], "image,label,seen")})
    assert table(tmp_path)[0] == ["0", "1"]


def test_a_row_cannot_lead_out_of_the_folder(tmp_path):
    fill(tmp_path, {"secret.jpg": b"s"})
    fill(tmp_path / "d", PICTURES | {"train.csv": csv(["../secret.jpg,cat"])})
    with pytest.raises(VitloraError, match=r"row 1 names \.\./secret\.jpg, which is no file below data.path"):
        table(tmp_path / "d")


# A table that the source `folder` or `archive` doesn't read

BESIDE = {
    "pictures in one folder": (PICTURES, "train.csv", "{}.jpg"),
    "pictures in the root": ({f"{n}.jpg": b"" for n in range(4)}, "labels.csv", "{}.jpg"),
    "metadata beside pictures": ({f"train/{n}.jpg": b"" for n in range(4)}, "train/metadata.csv", "{}.jpg"),
    "splits without classes": ({f"{'train' if n else 'test'}/{n}.jpg": b"" for n in range(4)}, "train.csv", "{}"),
    "one level around": ({f"a/b/images/{n}.jpg": b"" for n in range(4)}, "a/b/train.csv", "images/{}.jpg"),
}


@pytest.mark.parametrize("case", BESIDE)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_pictures_beside_a_table_are_refused_with_what_to_set_and_that_cure_works(tmp_path, case, kind):
    pictures, name, cell = BESIDE[case]
    files = pictures | {name: csv([f"{cell.format(n)},{NAMES[n]},x" for n in range(4)], "image,breed,note")}
    root = fill(tmp_path / "d", files)
    with pytest.raises(VitloraError) as error:
        from_folder(root) if kind == "folder" else from_archive(pack(tmp_path / f"d.{kind}", files))
    expected = (
        f"; but {name} names pictures. To take the classes from it: data.source: table, data.train_split: {name}, "
    )
    assert str(error.value).endswith(f"{expected}data.image_column: image, data.label_column: one of breed, note")
    assert table(root, label="breed", train=name)[0] == ["cat", "dog", "emu"]


def test_a_table_that_says_other_classes_than_the_folders_is_not_passed_over(tmp_path):
    """Two folders of pictures could be classes; the table says that they are not."""
    files = {f"{'images' if n else 'extra'}/{n}.jpg": b"" for n in range(4)}
    found = from_folder(fill(tmp_path, files | {"labels.csv": csv(ROWS)}))
    assert found.class_names == ["extra", "images"]
    assert found.left_out == {UNREAD: ["labels.csv"]}


@pytest.mark.parametrize("head", ["image,label", "file_name,species"])
def test_a_table_that_says_what_the_folders_say_is_an_ordinary_file(tmp_path, head):
    files = {f"{NAMES[n]}/{n}.jpg": b"" for n in range(4)}
    found = from_folder(
        fill(tmp_path, files | {"labels.csv": csv([f"{NAMES[n]}/{n}.jpg,{NAMES[n]}" for n in range(4)], head)})
    )
    assert found.class_names == ["cat", "dog", "emu"]
    assert found.left_out == {LOOSE: ["labels.csv"]}


@pytest.mark.parametrize(
    "tables",
    [
        {"split.csv": ("image,label,part", ["train", "test"])},
        {"all.csv": ("image,label,set", ["Training", "validation"])},
        {"train.csv": ("image,label,x", ["1", "2"]), "test.csv": ("image,label,x", ["1", "2"])},
    ],
)
def test_a_table_that_tells_splits_beside_folders_of_classes_is_not_passed_over(tmp_path, tables):
    files = {f"{NAMES[n]}/{n}.jpg": b"" for n in range(4)}
    for name, (head, values) in tables.items():
        files[name] = csv([f"{NAMES[n]}/{n}.jpg,{NAMES[n]},{values[n % 2]}" for n in range(4)], head)
    found = from_folder(fill(tmp_path, files))
    assert found.left_out[UNREAD] == [max(tables, key=lambda name: "test" in name)]


def test_what_is_proposed_to_train_on_is_no_test(tmp_path):
    files = {f"Train/{n}.jpg": b"" for n in range(2)} | {f"Test/{n + 2}.jpg": b"" for n in range(2)}
    tables = {"Test.csv": csv(["Test/2.jpg,a", "Test/3.jpg,b"]), "Train.csv": csv(["Train/0.jpg,a", "Train/1.jpg,b"])}
    with pytest.raises(VitloraError, match=r"data\.train_split: Train\.csv"):
        from_folder(fill(tmp_path, files | tables))


@pytest.mark.parametrize("content", [b"", b"date,weather\nmonday,rain\n", b"\xff\xfe", csv(["77.jpg,cat"]), b'"'])
def test_a_table_of_something_else_is_an_ordinary_file(tmp_path, content):
    files = {f"{NAMES[n]}/{n}.jpg": b"" for n in range(4)}
    found = from_folder(fill(tmp_path, files | {"notes.csv": content}))
    assert found.left_out == {LOOSE: ["notes.csv"]}
