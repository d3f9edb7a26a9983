"""How predictions look as text, table, CSV and JSON Lines; every form can be read back."""

import csv
import io
import json

import pytest

from vitlora.predict.classifier import Prediction
from vitlora.predict.pictures import Unreadable
from vitlora.predict.shown import Wanted, as_cells, as_json, as_table, as_text, csv_header, csv_line

SURE = Prediction("a.jpg", "cat", 0.9, {"cat": 0.9, "dog": 0.08, "emu": 0.02}, ("cat",))
TORN = Prediction("b.jpg", "dog", 0.5, {"dog": 0.5, "cat": 0.4, "emu": 0.1}, ("dog", "cat"))
BAD = Unreadable("c.jpg", "empty file")


@pytest.mark.parametrize(
    ("answer", "wanted", "line"),
    [
        (SURE, Wanted(3), "a.jpg: cat 90.0%, dog 8.0%, emu 2.0%"),
        (SURE, Wanted(1), "a.jpg: cat 90.0%"),
        (SURE, Wanted(9), "a.jpg: cat 90.0%, dog 8.0%, emu 2.0%"),
        (SURE, Wanted(1, threshold=0.9), "a.jpg: cat 90.0%"),
        (TORN, Wanted(2, threshold=0.6), "b.jpg: don't know (dog 50.0%, cat 40.0%)"),
        (TORN, Wanted(1, sets=True), "b.jpg: dog 50.0%; set: dog, cat"),
        (TORN, Wanted(1, 1.0, True), "b.jpg: don't know (dog 50.0%); set: dog, cat"),
    ],
)
def test_a_line_says_the_classes_the_doubt_and_the_set(answer, wanted, line):
    assert as_text(answer, wanted) == line


def test_json_says_what_was_asked_for_and_no_more():
    first = [{"class": "dog", "confidence": 0.5}]
    assert json.loads(as_json(TORN, Wanted(1))) == {"image": "b.jpg", "predictions": first}
    told = json.loads(as_json(TORN, Wanted(1, 0.6, True)))
    assert told == {"image": "b.jpg", "predictions": first, "label": None, "set": ["dog", "cat"]}
    assert json.loads(as_json(TORN, Wanted(1, 0.5)))["label"] == "dog"
    assert json.loads(as_json(BAD, Wanted(1, 0.5))) == {"image": "c.jpg", "error": "empty file"}


ODD = ['a,"b".jpg', "a\rb.jpg", "a\nb.jpg", "é 猫.jpg", "", "\udcff.jpg"]


@pytest.mark.parametrize("name", ODD, ids=ascii)
@pytest.mark.parametrize("wanted", [Wanted(1), Wanted(2, 0.6), Wanted(5, None, True), Wanted(3, 0.1, True)], ids=str)
def test_every_csv_row_has_the_headers_columns_and_reads_back(name, wanted):
    answers = [
        Prediction(name, *[getattr(TORN, key) for key in ("label", "confidence", "probabilities")], ("dog", "cat"))
    ]
    lines = [csv_header(wanted), *(as_cells(each, wanted) for each in [*answers, Unreadable(name, "no, it's\nnot")])]
    good, bad = csv.DictReader(io.StringIO("\n".join(map(csv_line, lines)), newline=""))
    assert None not in good.values()
    assert None not in good
    assert (good["image"], bad["image"], good["error"], bad["error"]) == (name, name, "", "no, it's\nnot")
    assert good["class"] == ("" if wanted.threshold == 0.6 else "dog")
    assert float(good["confidence"]) == 0.5
    assert bad["class"] == bad["confidence"] == ""
    if wanted.sets:
        assert json.loads(good["set"]) == ["dog", "cat"]


def test_a_table_is_aligned_and_fits_the_screen():
    long = Prediction("x/" * 80 + "d.jpg", "c" * 40, 1.0, {"c" * 40: 1.0, "\x1b[2J": 0.0}, ("c" * 40,))
    lines = list(as_table([SURE, TORN, long], Wanted(2, 0.6, False)))
    assert lines[0].split() == ["picture", "class", "share", "then"]
    assert max(map(len, lines)) <= 100
    assert lines[3].startswith("…x/x/")
    assert "x/d.jpg  " in lines[3]
    column = lines[0].index("class")
    assert [line[column:].split("  ")[0] for line in lines[1:]] == ["cat", "don't know", "c" * 23 + "…"]
    assert all(line.isprintable() for line in lines)
    assert list(as_table([SURE], Wanted(1, None, True))) == ["picture  class  share  set", "a.jpg    cat    90.0%  cat"]
