"""Names, folders, patterns and lists become one name a picture, or a line that says what is wrong."""

import io
import os
import sys

import pytest

from vitlora.core.errors import VitloraError
from vitlora.predict.inputs import listed, names


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a.jpg", "b.png", "cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg", "dog/Thumbs.db", "odd[1].jpg", "é.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["b.png", "a.jpg"], ["b.png", "a.jpg"]),
        (["*.jpg"], ["a.jpg", "odd[1].jpg", "é.jpg"]),
        (["?.*g"], ["a.jpg", "b.png", "é.jpg"]),
        (["[ab].*"], ["a.jpg", "b.png"]),
        (["*/*.jpg"], ["cat/1.jpg", "dog/3.jpg"]),
        (["**/*.jpg"], ["a.jpg", "cat/1.jpg", "cat/deep/2.jpg", "dog/3.jpg", "odd[1].jpg", "é.jpg"]),
        (["dog/*"], ["dog/3.jpg"]),
        (["odd[1].jpg"], ["odd[1].jpg"]),  # a file of that name is no pattern
        (["c*"], ["cat/1.jpg", "cat/deep/2.jpg"]),  # only a folder matches
        (["cat", "*.png"], ["cat/1.jpg", "cat/deep/2.jpg", "b.png"]),
        (["-"], ["-"]),
        (["http://a.b/c?d=[1]*"], ["http://a.b/c?d=[1]*"]),
        (["gone.jpg"], ["gone.jpg"]),  # named when it is read
    ],
    ids=str,
)
def test_what_is_named_becomes_pictures(given, found):
    assert list(names(given)) == found


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("pattern", ["*.gif", "[z]*", "**/x?.jpg", "gone/*", "dog/T*.db", "\x1b*"])
def test_a_pattern_that_matches_nothing_is_refused_and_another_helps(pattern):
    with pytest.raises(VitloraError, match="nothing there matches; the rule: ") as caught:
        list(names([pattern]))
    assert str(caught.value).isprintable()
    assert list(names(["*.png"])) == ["b.png"]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg", ["a.jpg"]),
        (b"\xef\xbb\xbfa.jpg\r\n\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"\n\n x\n", [" x"]),
        (b"\xff.jpg\n", [os.fsdecode(b"\xff.jpg")]),
        ("é\u2028.jpg\n".encode(), ["é\u2028.jpg"]),
    ],
    ids=repr,
)
def test_a_list_has_a_name_a_line(tmp_path, monkeypatch, data, found):
    (tmp_path / "list").write_bytes(data)
    assert listed(tmp_path / "list") == found
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert listed(tmp_path.__class__("-")) == found


def test_a_list_that_is_gone_a_folder_or_empty_is_refused(tmp_path):
    (tmp_path / "list").write_bytes(b"\n\r\n")
    for name, words in (("gone", "No such file"), ("", "directory"), ("list", "holds no name; the rule: ")):
        with pytest.raises(VitloraError, match=words):
            listed(tmp_path / name)
