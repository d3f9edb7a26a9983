"""JSON and CSV: the same content gives the same bytes, whatever the content."""

import csv
import hashlib
import io
import json
import os

import numpy as np
import pytest

from vitlora.core.files import make_readable, read_csv, read_json, sha256_file, write_csv, write_json

ODD_TEXT = [
    "plain",
    "a,b",
    "two\nlines",
    "Icon\r",
    "both\r\n",
    'a "quoted" word',
    " spaces ",
    "caf\u00e9 \u732b \U0001f408",
    "caf\udce9",  # Latin-1 bytes in a file name
    "line\u2028separator",
    "",
]


def test_json_is_sorted_indented_and_ends_in_one_newline(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 0.1], "a": {"d": None, "c": "é"}})
    text = '{\n  "a": {\n    "c": "é",\n    "d": null\n  },\n  "b": [\n    1,\n    0.1\n  ]\n}\n'
    assert (tmp_path / "a.json").read_bytes() == text.encode()


def test_the_order_of_keys_plays_no_part(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1, "b": {"x": 1, "y": 2}})
    write_json(tmp_path / "b.json", {"b": {"y": 2, "x": 1}, "a": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


@pytest.mark.parametrize("text", ODD_TEXT, ids=ascii)
def test_json_carries_any_text(tmp_path, text):
    write_json(tmp_path / "a.json", {text: [text]})
    assert read_json(tmp_path / "a.json") == {text: [text]}
    assert json.loads((tmp_path / "a.json").read_bytes().decode("utf-8")) == {text: [text]}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_refuses_a_number_that_is_none_and_keeps_the_old_file(tmp_path, number):
    write_json(tmp_path / "a.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": number})
    assert read_json(tmp_path / "a.json") == {"loss": 1.0}


def test_floats_come_back_exactly(tmp_path):
    values = [*np.random.default_rng(0).standard_normal(500).tolist(), 0.1, 1e-300, 5e-324, 1e22]
    write_json(tmp_path / "a.json", values)
    write_csv(tmp_path / "a.csv", ("value", "n"), ((value, 1) for value in values))
    assert read_json(tmp_path / "a.json") == values
    assert [float(row["value"]) for row in read_csv(tmp_path / "a.csv")] == values


def test_csv_has_lf_line_ends_and_empty_cells_for_none(tmp_path):
    write_csv(tmp_path / "deep/er/a.csv", ("class", "f1", "n"), [["cat", None, 3], ["a,b", 0.5, 0]])
    assert (tmp_path / "deep/er/a.csv").read_bytes() == b'class,f1,n\ncat,,3\n"a,b",0.5,0\n'


@pytest.mark.parametrize("text", ODD_TEXT, ids=ascii)
def test_csv_carries_any_text(tmp_path, text):
    rows = [["first", text], [text, "x"], ["last", "y"]]
    write_csv(tmp_path / "a.csv", ("path", text or "name"), rows)
    assert [list(row.values()) for row in read_csv(tmp_path / "a.csv")] == rows
    assert list(read_csv(tmp_path / "a.csv")[0]) == ["path", text or "name"]


def test_csv_is_what_pythons_writer_makes_of_it_but_for_lone_carriage_returns(tmp_path):
    rows = [[text, 1, 2.5, None, True, np.float64(0.1), np.int64(3)] for text in ODD_TEXT if text != "Icon\r"]
    write_csv(tmp_path / "a.csv", "abcdefg", rows)
    theirs = io.StringIO()
    csv.writer(theirs, lineterminator="\n").writerows([list("abcdefg"), *rows])
    assert (tmp_path / "a.csv").read_bytes().decode("utf-8", "surrogateescape") == theirs.getvalue()


def test_a_table_without_rows_keeps_its_header(tmp_path):
    write_csv(tmp_path / "a.csv", ("path", "label"), [])
    assert (tmp_path / "a.csv").read_bytes() == b"path,label\n"
    assert read_csv(tmp_path / "a.csv") == []


def test_a_files_hash_is_that_of_its_bytes(tmp_path):
    data = np.random.default_rng(0).bytes(3_000_001)
    (tmp_path / "a.bin").write_bytes(data)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(data).hexdigest()


def test_files_that_are_handed_on_can_be_read_by_others(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a", "deep/b"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o600)
    before = os.umask(0o022)
    try:
        make_readable(tmp_path)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "deep/b")] == [0o644, 0o644]
