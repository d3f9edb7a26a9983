"""Many pictures in one file: what went in comes out, and a cut or foreign file is noticed."""

import io
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from vitlora.core.errors import VitloraError
from vitlora.storage.packed import INDEX, PLACE, TEXTS, Packed, write_packed

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
    assert [row["path"] for row in found.rows] == list(found.texts("path")) == NAMES
    assert [row["label"] for row in found.rows] == [str(label) for label in range(len(NAMES))]
    assert found.size == sum(map(len, contents()))


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
    assert (tmp_path / "images-00000.bin").read_bytes() == b"".join(contents())
    assert np.load(tmp_path / INDEX).dtype.names == ("path", "label", "shard", "offset", "length", "text_at")


def test_a_file_of_images_ends_with_the_picture_that_fills_it(tmp_path):
    packed(tmp_path)  # an earlier one, with a file more
    items = [((name, label), data) for label, (name, data) in enumerate(zip(NAMES, contents(), strict=True))]
    write_packed(tmp_path, ("path", "label"), items, shard_bytes=101)
    files = sorted(tmp_path.glob("images-*.bin"))
    assert [file.stat().st_size for file in files] == [101, 5000, 19]
    found = Packed(tmp_path)
    assert [found[row] for row in range(len(found))] == contents()
    assert found.index["shard"].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert [row["path"] for row in pickle.loads(pickle.dumps(found)).rows] == NAMES
    write_packed(tmp_path, ("path", "label"), items)
    assert [file.name for file in tmp_path.glob("images-*.bin")] == ["images-00000.bin"]


def test_digests_and_texts_of_several_columns_come_back(tmp_path):
    digests = [f"{number:064x}" for number in (0, 10**40, 16**64 - 1)]
    rows = [("a", "train", 2, digests[0]), ("", "val", 0, digests[1]), ("\n", "", 1, digests[2])]
    write_packed(tmp_path, ("path", "split", "label", "sha256"), [(row, b"x") for row in rows])
    found = Packed(tmp_path)
    assert [tuple(row.values()) for row in found.rows] == [tuple(map(str, row)) for row in rows]
    assert list(found.texts("sha256")) == digests
    assert list(found.texts("split")) == ["train", "val", ""]
    assert found.numbers("label").dtype == np.int64


@pytest.mark.parametrize("count", [0, 1, 9, 4096, 4097, 10_000])
def test_a_table_of_any_length_is_mapped_into_memory(tmp_path, count):
    write_packed(tmp_path, ("path", "label"), (((str(row), row), b"") for row in range(count)))
    found = Packed(tmp_path)
    assert isinstance(found.index, np.memmap)
    assert found.index["label"].tolist() == list(range(count))
    assert count == 0 or found.about(count - 1) == {"path": str(count - 1), "label": str(count - 1)}


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    packed(tmp_path / "a")
    packed(tmp_path / "b")
    for name in ("images-00000.bin", INDEX, TEXTS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_writing_again_leaves_nothing_of_the_longer_file_before(tmp_path):
    packed(tmp_path)
    write_packed(tmp_path, ("path", "label"), [(("x", 0), b"abc")])
    assert Packed(tmp_path)[0] == b"abc"
    assert (tmp_path / "images-00000.bin").read_bytes() == b"abc"


@pytest.mark.parametrize("items", [[], [(("empty", 0), b"")]], ids=["no picture", "one empty picture"])
def test_a_file_without_a_byte_is_read(tmp_path, items):
    assert write_packed(tmp_path, ("path", "label"), items) == len(items)
    found = Packed(tmp_path)
    assert [found[row] for row in range(len(found))] == [data for _, data in items]


def test_a_picture_is_read_lazily_while_writing(tmp_path):
    written = []

    def items():
        for number in range(3):
            written.append((tmp_path / "images-00000.bin").exists())
            yield (number,), b"x"

    write_packed(tmp_path, ("path",), items())
    assert written == [True, True, True]


@pytest.mark.parametrize("name", ["images-00000.bin", TEXTS])
def test_a_table_that_points_past_the_end_is_refused(tmp_path, name):
    packed(tmp_path)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[:-1])
    with pytest.raises(VitloraError, match=rf"index\.npy points past the end of {name} \({len(data) - 1} bytes\)"):
        Packed(tmp_path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("offset", value) for value in (-1, 2**62)),
        *(("length", value) for value in (-1, 5200)),
        *(("text_at", value) for value in (-3, 2**62)),
        *(("path", value) for value in (-5, 2**31 - 1)),
    ],
)
def test_a_span_outside_the_files_is_refused(tmp_path, column, value):
    packed(tmp_path)
    index = np.load(tmp_path / INDEX, mmap_mode="r+")
    index[column][4] = value
    index.flush()
    with pytest.raises(VitloraError, match=r"index\.npy points past the end of \S+ \(\d+ bytes\); make it anew"):
        Packed(tmp_path)


@pytest.mark.parametrize("name", [INDEX, TEXTS])
def test_a_folder_of_an_earlier_version_is_refused_with_what_to_do(tmp_path, name):
    packed(tmp_path)
    (tmp_path / name).rename(tmp_path / "index.csv")
    with pytest.raises(VitloraError, match=rf"{name}: missing; an earlier version .* anew: `dvc repro`"):
        Packed(tmp_path)


@pytest.mark.parametrize("shard", [-1, 1, 2**31 - 1])
def test_a_file_of_images_that_is_missing_is_named(tmp_path, shard):
    packed(tmp_path)
    index = np.load(tmp_path / INDEX, mmap_mode="r+")
    index["shard"][2] = shard
    index.flush()
    with pytest.raises(VitloraError, match=rf"index\.npy is damaged \(file {shard} of 1\); make it anew"):
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


def as_npy(values):
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"offset,length\n0,1\n",
        b"\x93NUMPY\x02\x00",
        as_npy(np.zeros(3)),
        as_npy(np.zeros(3, [("offset", "<i8")])),
        as_npy(np.zeros((2, 2), PLACE)),
        as_npy(np.zeros(2, [("label", "<i8"), *PLACE])),
        as_npy(np.array([{}, {}], object)),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path, data):
    packed(tmp_path)
    (tmp_path / INDEX).write_bytes(data)
    with pytest.raises(VitloraError, match=r"index\.npy is damaged \(.*\); make it anew"):
        Packed(tmp_path)


def test_random_damage_to_any_file_is_refused_or_gives_bytes_within_the_files(tmp_path):
    packed(tmp_path)
    whole = {name: (tmp_path / name).read_bytes() for name in (INDEX, TEXTS, "images-00000.bin")}
    random = np.random.default_rng(0)
    refused = 0
    for number in range(600):
        name = {0: "images-00000.bin", 1: TEXTS}.get(number % 6, INDEX)
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
            assert sum(len(found[row]) for row in range(len(found))) == found.size
            assert all(len(row) == 2 for row in found.rows)
        except VitloraError as error:
            refused += "make it anew" in str(error)
        (tmp_path / name).write_bytes(whole[name])
    assert 200 < refused < 600
