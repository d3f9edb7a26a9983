"""Many pictures in one file: what went in comes out, and a cut or foreign file is noticed."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, write_csv
from vitlora.storage.packed import Packed, write_packed

NAMES = [
    "plain.png",
    "a,b.png",
    "two\nlines.png",
    "Icon\r",
    'say "cheese".jpg',
    "café 猫.png",
    "caf\udce9.png",
    " .png",
]


def contents():
    random = np.random.default_rng(0)
    return [random.bytes(int(size)) for size in [100, 1, 0, 5000, 0, 7, 12, 0]]


def packed(folder):
    items = (((name, label), data) for label, (name, data) in enumerate(zip(NAMES, contents(), strict=True)))
    assert write_packed(folder, ("path", "label"), items) == len(NAMES)
    return Packed(folder)


def test_bytes_and_odd_names_come_back(tmp_path):
    found = packed(tmp_path / "raw")
    assert len(found) == len(NAMES)
    assert [found[row] for row in range(len(found))] == contents()
    assert [row["path"] for row in found.rows] == NAMES
    assert [row["label"] for row in found.rows] == [str(label) for label in range(len(NAMES))]


def test_columns_of_numbers_come_as_an_array(tmp_path):
    found = packed(tmp_path).numbers("label", "length")
    assert found.dtype == np.int64
    assert found.tolist() == [[label, len(data)] for label, data in enumerate(contents())]
    write_packed(tmp_path, ("label",), [])
    assert Packed(tmp_path).numbers("label").shape == (0, 1)


def test_pictures_can_be_read_in_any_order_and_again(tmp_path):
    found, expected = packed(tmp_path), contents()
    for row in [7, 0, 3, 3, 1, 6, -1, 0]:
        assert found[row] == expected[row]
    with pytest.raises(IndexError):
        found[len(NAMES)]


def test_pictures_lie_end_to_end_in_the_order_given(tmp_path):
    packed(tmp_path)
    assert (tmp_path / "images.bin").read_bytes() == b"".join(contents())
    assert list(read_csv(tmp_path / "index.csv")[0]) == ["path", "label", "offset", "length"]


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    packed(tmp_path / "a")
    packed(tmp_path / "b")
    for name in ("images.bin", "index.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_writing_again_leaves_nothing_of_the_longer_file_before(tmp_path):
    packed(tmp_path)
    write_packed(tmp_path, ("path", "label"), [(("x", 0), b"abc")])
    assert Packed(tmp_path)[0] == b"abc"
    assert (tmp_path / "images.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("items", [[], [(("empty", 0), b"")]], ids=["no picture", "one empty picture"])
def test_a_file_without_a_byte_is_read(tmp_path, items):
    assert write_packed(tmp_path, ("path", "label"), items) == len(items)
    found = Packed(tmp_path)
    assert [found[row] for row in range(len(found))] == [data for _, data in items]


def test_a_picture_is_read_lazily_while_writing(tmp_path):
    written = []

    def items():
        for number in range(3):
            written.append((tmp_path / "images.bin").exists())
            yield (number,), b"x"

    write_packed(tmp_path, ("path",), items())
    assert written == [True, True, True]


def test_a_table_that_points_past_the_end_is_refused(tmp_path):
    packed(tmp_path)
    data = (tmp_path / "images.bin").read_bytes()
    (tmp_path / "images.bin").write_bytes(data[:-1])
    with pytest.raises(VitloraError, match=rf"index\.csv points past the end of images\.bin \({len(data) - 1} bytes\)"):
        Packed(tmp_path)


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (0, -1), (0, 4), (3, 1)])
def test_a_span_outside_the_file_is_refused(tmp_path, offset, length):
    (tmp_path / "images.bin").write_bytes(b"abc")
    write_csv(tmp_path / "index.csv", ("path", "offset", "length"), [("a", 0, 3), ("b", offset, length)])
    with pytest.raises(VitloraError, match="points past the end"):
        Packed(tmp_path)


def test_a_pickled_reader_reads_on(tmp_path):
    found = packed(tmp_path)
    assert found[3] == contents()[3]  # its memory map is open, and can't be pickled
    again = pickle.loads(pickle.dumps(found))
    assert [again[row] for row in range(len(again))] == contents()
    assert found[0] == contents()[0]


def test_another_process_reads_on(tmp_path):
    found = packed(tmp_path)
    assert found[3] == contents()[3]
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(found.__getitem__, range(len(found)))) == contents()


@pytest.mark.parametrize(
    "damage", ["offset,length\n0\n", "offset,length\nx,1\n", "label\n1\n", f"offset,length\n{2**70},1\n"]
)
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path, damage):
    packed(tmp_path)
    (tmp_path / "index.csv").write_text(damage)
    with pytest.raises(VitloraError, match=r"index.csv is damaged \(.*\); make it anew"):
        Packed(tmp_path)


def test_random_damage_to_either_file_is_refused_or_gives_bytes_within_the_file(tmp_path):
    packed(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in ("index.csv", "images.bin")}
    random = np.random.default_rng(0)
    refused = 0
    for number in range(600):
        name = "images.bin" if number % 6 == 0 else "index.csv"
        data = bytearray(whole[name])
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(data)))
            way = random.integers(4)
            if way < 2:
                data[at] = int(random.integers(256)) if way else b'0-",\n\r\0'[random.integers(7)]
            elif way == 2:
                data[at : at + int(random.integers(1, 30))] = b""
            else:
                data[at:at] = b"9" * int(random.integers(1, 25))
            if not data:
                break
        (tmp_path / name).write_bytes(data)
        try:
            found = Packed(tmp_path)
            total = sum(len(found[row]) for row in range(len(found)))
            assert total == found.spans[:, 1].sum()
        except VitloraError as error:
            refused += "make it anew" in str(error)
        (tmp_path / name).write_bytes(whole[name])
    assert 200 < refused < 600
