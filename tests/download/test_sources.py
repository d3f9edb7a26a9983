"""Every kind of source gives the same pictures; whatever is damaged, hostile or odd is refused or named."""

import io
import json
import os
import random
import shutil
import stat
import tarfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hub_sets import make_hub, png
from PIL import Image
from sklearn.datasets import load_digits
from trees import KINDS, fill, pack, read

from vitlora.core.errors import VitloraError
from vitlora.download.hub_layout import from_hub_layout
from vitlora.download.layout import LITTERED, LOOSE, ODD, OUTSIDE
from vitlora.download.sources import from_archive, from_digits, from_folder
from vitlora.download.table import from_table

PLAIN = {"cat/1.png": b"c1", "cat/2.png": b"c2", "dog/1.png": b"d1"}
SPLIT = {"train/cat/1.png": b"c1", "train/dog/1.png": b"d1", "valid/dog/2.png": b"d2", "test/cat/3.png": b"c3"}


def everything_below(folder):
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


# Folders


def test_the_first_folder_is_the_class_and_all_pictures_are_train(tmp_path):
    names, pictures = read(from_folder(fill(tmp_path, PLAIN)))
    assert names == ["cat", "dog"]
    assert pictures == {
        "cat/1.png": ("train", "cat", b"c1"),
        "cat/2.png": ("train", "cat", b"c2"),
        "dog/1.png": ("train", "dog", b"d1"),
    }


@pytest.mark.parametrize("alias", ["val", "valid", "validation", "Val"])
def test_split_folders_and_their_aliases_are_understood(tmp_path, alias):
    files = {name.replace("valid/", f"{alias}/"): data for name, data in SPLIT.items()}
    names, pictures = read(from_folder(fill(tmp_path, files)))
    assert names == ["cat", "dog"]
    assert pictures == {
        "train/cat/1.png": ("train", "cat", b"c1"),
        "train/dog/1.png": ("train", "dog", b"d1"),
        f"{alias}/dog/2.png": ("val", "dog", b"d2"),
        "test/cat/3.png": ("test", "cat", b"c3"),
    }


def test_deeper_folders_only_group(tmp_path):
    names, pictures = read(from_folder(fill(tmp_path, {**PLAIN, "dog/2024/may/7.png": b"d7"})))
    assert names == ["cat", "dog"]
    assert pictures["dog/2024/may/7.png"] == ("train", "dog", b"d7")


def test_a_class_that_happens_to_be_called_train_is_a_class(tmp_path):
    names, pictures = read(from_folder(fill(tmp_path, {"bus/1.png": b"b", "train/1.png": b"t"})))
    assert names == ["bus", "train"]
    assert {split for split, _, _ in pictures.values()} == {"train"}


@pytest.mark.parametrize("other", ["extra/dog/1.png", "test/cat/1.png"])
def test_split_folders_beside_something_else_or_without_train_are_refused(tmp_path, other):
    first = "train" if other.startswith("extra") else "val"
    fill(tmp_path, {f"{first}/cat/1.png": b"", "test/dog/1.png": b"", other: b""})
    with pytest.raises(VitloraError, match=f"holds the folders .*{first}.*; the rule: train, with or without"):
        from_folder(tmp_path)


def test_hidden_files_and_litter_are_passed_over(tmp_path):
    litter = {"cat/.hidden.png": b"", ".git/x/1.png": b"", "dog/Thumbs.db": b"", "__MACOSX/cat/._1.png": b""}
    found = from_folder(fill(tmp_path, {**PLAIN, **litter}))
    assert read(found)[1].keys() == PLAIN.keys()
    assert found.left_out == {LITTERED: sorted(litter)}


def test_an_empty_class_folder_stays_a_class(tmp_path):
    fill(tmp_path, PLAIN)
    (tmp_path / "bird").mkdir()
    names, pictures = read(from_folder(tmp_path))
    assert names == ["bird", "cat", "dog"]
    assert pictures["dog/1.png"] == ("train", "dog", b"d1")


def test_an_empty_class_folder_below_a_split_stays_a_class(tmp_path):
    fill(tmp_path, SPLIT)
    (tmp_path / "train/bird").mkdir()
    assert read(from_folder(tmp_path))[0] == ["bird", "cat", "dog"]


def test_stray_files_are_left_out_and_named(tmp_path):
    found = from_folder(fill(tmp_path, {**SPLIT, "LICENSE.txt": b"", "train/list.csv": b""}))
    assert read(found)[1].keys() == SPLIT.keys()
    assert found.left_out == {LOOSE: ["LICENSE.txt", "train/list.csv"]}


def test_links_and_pipes_are_left_out_and_named(tmp_path):
    secret = fill(tmp_path / "outside", {"secret.png": b"s"})
    root = fill(tmp_path / "root", PLAIN)
    (root / "cat/link.png").symlink_to(secret / "secret.png")
    (root / "bird").symlink_to(secret)
    (root / "dog/loop").symlink_to(root)
    os.mkfifo(root / "dog/pipe.png")
    found = from_folder(root)
    names, pictures = read(found)
    assert names == ["cat", "dog"]
    assert pictures.keys() == PLAIN.keys()
    assert found.left_out == {ODD: ["bird", "cat/link.png", "dog/loop", "dog/pipe.png"]}


def test_a_lone_folder_around_the_classes_is_looked_through_whatever_lies_beside_them(tmp_path):
    wrapped = {f"photos/{name}": data for name, data in PLAIN.items()}
    found = from_folder(fill(tmp_path, {**wrapped, "photos/LICENSE.txt": b"", "README.md": b""}))
    names, pictures = read(found)
    assert names == ["cat", "dog"]
    assert pictures.keys() == PLAIN.keys()
    assert found.left_out == {LOOSE: ["README.md", "LICENSE.txt"]}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(VitloraError, match=f"got {tmp_path}/nowhere, which is not a folder"):
        from_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("files", [{}, {"1.png": b"", "2.png": b""}, {"train/1.png": b""}])
def test_a_folder_without_class_folders_is_refused(tmp_path, files):
    with pytest.raises(VitloraError, match="holds no class folder with files"):
        from_folder(fill(tmp_path, files))


def test_a_class_name_that_is_not_utf8_is_refused_and_a_file_name_is_kept(tmp_path):
    fill(tmp_path, PLAIN)
    odd = os.path.join(os.fsencode(tmp_path), b"cat", b"\xff.png")
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    assert read(from_folder(tmp_path))[1]["cat/\udcff.png"] == ("train", "cat", b"odd")
    Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"\xff"))).mkdir()
    with pytest.raises(VitloraError, match=r"has the class '\\udcff'; the rule: a name in UTF-8"):
        from_folder(tmp_path)


@contextmanager
def nobody():
    """Root may read everything; step down to a user who may not."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_without_permission_is_an_error_and_not_a_smaller_data_set(tmp_path, monkeypatch):
    fill(tmp_path / "pictures", PLAIN)
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "pictures/cat").chmod(0)
    with nobody(), pytest.raises(VitloraError, match="cannot read pictures/cat: Permission denied"):
        from_folder(Path("pictures"))
    (tmp_path / "pictures").chmod(0)
    with nobody(), pytest.raises(VitloraError, match="pictures/cat, which is not a folder"):
        from_folder(Path("pictures/cat"))
    for place in ("pictures", "pictures/cat"):
        (tmp_path / place).chmod(0o755)


def test_a_folder_too_deep_for_the_system_is_an_error_and_not_a_smaller_data_set(tmp_path, monkeypatch):
    fill(tmp_path, PLAIN)
    monkeypatch.chdir(tmp_path / "cat")
    for _ in range(18):  # a path longer than the system takes
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    os.chdir(tmp_path)
    with pytest.raises(VitloraError, match=r"cannot read .*: File name too long"):
        from_folder(tmp_path)


def test_a_file_that_vanishes_before_it_is_read_is_named(tmp_path):
    found = from_folder(fill(tmp_path, PLAIN))
    (tmp_path / "dog/1.png").unlink()
    with pytest.raises(VitloraError, match=r"cannot read dog/1\.png: .*No such file"):
        list(found.pictures)


# Archives


@pytest.mark.parametrize("wrap", ["", "photos/", "./", "a/b/"])
@pytest.mark.parametrize("files", [PLAIN, SPLIT], ids=["plain", "split"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_of_a_folder_equals_the_folder(tmp_path, kind, files, wrap):
    shuffled = dict(sorted(files.items(), reverse=True))
    path = pack(tmp_path / f"x.{kind}", {wrap + name: data for name, data in shuffled.items()}, [wrap] if wrap else [])
    archived, plain = from_archive(path, tmp_path), from_folder(fill(tmp_path / "folder", files))
    assert archived.class_names == plain.class_names
    assert list(archived.pictures) == list(plain.pictures)
    assert archived.left_out == plain.left_out == {}


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_class_folder_in_an_archive_stays_a_class(tmp_path, kind):
    assert read(from_archive(pack(tmp_path / f"x.{kind}", PLAIN, ["bird"])))[0] == ["bird", "cat", "dog"]


def test_a_zip_with_backslashes_is_read_as_its_writer_meant(tmp_path):
    path = pack(tmp_path / "x.zip", {name.replace("/", "\\"): data for name, data in PLAIN.items()})
    assert read(from_archive(path))[1].keys() == PLAIN.keys()


def test_a_tar_that_ends_in_a_zip_is_still_a_tar(tmp_path):
    inner = pack(tmp_path / "inner.zip", {"x/y.png": b"inner", "z/y.png": b"inner"}).read_bytes()
    path = pack(tmp_path / "x.tar", {**PLAIN, "dog/9.png": inner})
    assert zipfile.is_zipfile(path)
    assert read(from_archive(path))[1]["dog/9.png"] == ("train", "dog", inner)


def test_a_compressed_tar_in_any_order_is_read_once_and_not_once_a_picture(tmp_path):
    rng = random.Random(0)
    files = {f"{'ab'[n % 2]}/{n:03d}.png": rng.randbytes(20_000) for n in range(400)}
    path = pack(tmp_path / "x.tar.gz", dict(sorted(files.items(), reverse=True)))
    start = time.perf_counter()
    assert len(list(from_archive(path, tmp_path).pictures)) == 400
    assert time.perf_counter() - start < 2  # 4 s if every picture starts from the front, and four times that for 800
    assert set(tmp_path.iterdir()) == {path}


def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(VitloraError, match=r"got .*none\.zip, which is not a file"):
        from_archive(tmp_path / "none.zip")


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"<html>not found</html>" * 100, b"\x1f\x8b\x08", bytes(512)])
def test_a_file_that_is_no_archive_is_refused(tmp_path, data):
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    with pytest.raises(VitloraError, match=r"neither a whole zip nor a whole tar|no class folder"):
        from_archive(path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_archive_cut_anywhere_is_refused_or_whole(tmp_path, kind):
    """A tar may lose the padding behind its end mark; any other loss must show."""
    rng = random.Random(0)
    files = {f"{name}/{n}.png": rng.randbytes(900) for name in ("cat", "dog") for n in range(4)}
    whole = pack(tmp_path / f"whole.{kind}", files).read_bytes()
    wanted = list(from_archive(tmp_path / f"whole.{kind}").pictures)
    cut, refused = tmp_path / f"cut.{kind}", 0
    for end in {*range(0, len(whole), 256), *range(0, len(whole), 300), len(whole) - 1}:
        cut.write_bytes(whole[:end])
        try:
            assert list(from_archive(cut).pictures) == wanted
            assert kind == "tar"
            assert not any(whole[end:])
        except VitloraError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("kind", KINDS)
def test_random_damage_never_crashes_and_a_checksum_that_is_there_is_used(tmp_path, kind):
    rng = random.Random(0)
    files = {f"{name}/{n}.png": rng.randbytes(400) + bytes(500) for name in ("cat", "dog") for n in range(4)}
    whole = pack(tmp_path / f"whole.{kind}", files).read_bytes()
    # A zip's table of contents has no checksum, and a tar's pictures have none.
    end = whole.find(b"PK\1\2") if kind == "zip" else len(whole)
    path, refused = tmp_path / f"x.{kind}", 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            pictures = {picture.path: picture.data for picture in from_archive(path).pictures}
            assert kind == "tar" or pictures == files
        except VitloraError:
            refused += 1
    assert refused > (0 if kind == "tar" else 40)


def test_a_damaged_header_does_not_end_a_tar_early(tmp_path):
    path = pack(tmp_path / "x.tar", {f"{name}/{n}.png": b"p" for name in ("cat", "dog") for n in range(4)})
    data = bytearray(path.read_bytes())
    data[4 * 1024 + 150] ^= 1  # the fifth member's checksum
    path.write_bytes(data)
    with pytest.raises(VitloraError, match="damaged or cut off after 4 members"):
        from_archive(path)


def test_a_damaged_picture_in_a_zip_is_named(tmp_path):
    path = pack(tmp_path / "x.zip", {**PLAIN, "dog/9.png": random.Random(0).randbytes(5000)})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(VitloraError, match=r"cannot read dog/9\.png: "):
        list(from_archive(path).pictures)


def hostile_tar(path):
    with tarfile.open(path, "w") as archive:
        for name, kind, target in [
            ("../evil.png", tarfile.REGTYPE, ""),
            ("cat/../../evil.png", tarfile.REGTYPE, ""),
            ("cat/link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("cat/hard.png", tarfile.LNKTYPE, "../outside.png"),
            ("cat/device.png", tarfile.CHRTYPE, ""),
            ("cat/pipe.png", tarfile.FIFOTYPE, ""),
            (".", tarfile.DIRTYPE, ""),
            ("/", tarfile.DIRTYPE, ""),
            ("dog", tarfile.SYMTYPE, "/tmp"),
            ("dog/1.png", tarfile.REGTYPE, ""),
            ("/cat/1.png", tarfile.REGTYPE, ""),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, target, 4 * (kind == tarfile.REGTYPE)
            archive.addfile(info, io.BytesIO(b"evil"))


def hostile_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, mode in [
            ("../evil.png", stat.S_IFREG),
            ("cat/../../evil.png", stat.S_IFREG),
            ("..\\evil.png", stat.S_IFREG),
            ("cat/link.png", stat.S_IFLNK),
            ("cat/device.png", stat.S_IFCHR),
            ("cat/pipe.png", stat.S_IFIFO),
            ("/", stat.S_IFDIR),
            ("./", stat.S_IFDIR),
            ("/cat/1.png", stat.S_IFREG),
            ("dog/1.png", 0),
        ]:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, b"evil")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_hostile_archive_writes_nothing_and_what_is_left_out_is_named(tmp_path, monkeypatch, kind):
    path = tmp_path / f"deep/er/x.{kind}"
    path.parent.mkdir(parents=True)
    monkeypatch.chdir(path.parent)
    {"zip": hostile_zip, "tar": hostile_tar}[kind](path)
    before = everything_below(tmp_path)
    found = from_archive(path, tmp_path)
    names, pictures = read(found)
    assert everything_below(tmp_path) == before
    assert names == ["cat", "dog"]
    assert pictures.keys() == {"cat/1.png", "dog/1.png"}
    for name in ("../evil.png", "cat/../../evil.png"):
        assert name in found.left_out[OUTSIDE]
    for name in ("cat/link.png", "cat/device.png", "cat/pipe.png"):
        assert name in found.left_out[ODD]


def test_an_encrypted_zip_is_refused_with_its_picture_named(tmp_path):
    path = pack(tmp_path / "x.zip", PLAIN)
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = data.find(mark)
        while start >= 0:
            data[start + flags] |= 1
            start = data.find(mark, start + 1)
    path.write_bytes(data)
    with pytest.raises(VitloraError, match=r"cannot read cat/1\.png: .*encrypted"):
        list(from_archive(path).pictures)


# Digits


def test_digits_are_all_there_and_decode_to_the_original_values():
    found = from_digits()
    digits = load_digits()
    pictures = list(found.pictures)
    assert found.class_names == [str(number) for number in range(10)]
    assert [picture.label for picture in pictures] == digits.target.tolist()
    assert len({picture.path for picture in pictures}) == len(pictures) == 1797
    assert {picture.split for picture in pictures} == {"train"}
    decoded = np.stack([np.asarray(Image.open(io.BytesIO(picture.data))) for picture in pictures])
    assert decoded.dtype == np.uint8
    assert decoded.shape == (1797, 8, 8)
    np.testing.assert_array_equal((decoded * (16 / 255)).round(), digits.images)


# Hub layout


BOTH = {"train": "train", "test": "validation"}


def hub(root, image="image", label="label", splits=None, config=None):
    return from_hub_layout(root, config, image, label, splits or {"train": "train"})


def test_a_parquet_folder_gives_the_pictures_bytes_untouched(tmp_path):
    make_hub(tmp_path, {"train": [0, 1, 0], "validation": [1]})
    names, pictures = read(hub(tmp_path, splits=BOTH))
    assert names == ["cat", "dog"]
    assert pictures == {
        "train/000000": ("train", "cat", png(0)),
        "train/000001": ("train", "dog", png(1)),
        "train/000002": ("train", "cat", png(2)),
        "validation/000000": ("test", "dog", png(100)),
    }


def two_configurations(root, default=False):
    make_hub(root / "coarse", {"train": [0, 1]})
    make_hub(root / "fine", {"train": [0, 1, 1]})
    for name in ("coarse", "fine"):
        (root / name / "README.md").unlink()
    marked = "\n  default: true" if default else ""
    (root / "README.md").write_text(
        "---\nconfigs:\n- config_name: coarse\n  data_files: coarse/data/*\n"
        f"- config_name: fine{marked}\n  data_files: fine/data/*\n---\n"
    )
    return root


def test_one_of_several_configurations_is_chosen_or_their_names_are_told(tmp_path):
    root = two_configurations(tmp_path)
    assert len(read(hub(root, config="coarse"))[1]) == 2
    assert len(read(hub(root, config="fine"))[1]) == 3
    for wrong in (None, "finest", "default"):
        got = json.dumps(wrong)
        with pytest.raises(VitloraError, match=rf"data\.config: got {got}; .* has the configurations coarse, fine$"):
            hub(root, config=wrong)


def test_the_configuration_that_the_card_calls_default_needs_no_name(tmp_path):
    assert len(read(hub(two_configurations(tmp_path, default=True)))[1]) == 3


def test_the_only_configuration_may_be_named(tmp_path):
    make_hub(tmp_path, {"train": [0, 1]})
    assert len(read(hub(tmp_path, config="default"))[1]) == 2
    with pytest.raises(VitloraError, match=r"has the configurations default$"):
        hub(tmp_path, config="other")


TABLES = {
    "csv": ("train.csv", b"image,label\nimages/a/0.jpg,a\n"),
    "jsonl": ("train.jsonl", b'{"image": "images/a/0.jpg", "label": "a"}\n'),
    "more columns": ("train.csv", b"id,image,label\n7,images/a/0.jpg,3\n"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_of_paths_is_said_to_hold_text_and_the_cure_reads_it(tmp_path, kind):
    name, content = TABLES[kind]
    fill(tmp_path, {name: content, "images/a/0.jpg": png(1)})
    with pytest.raises(
        VitloraError,
        match=r"got image, a column of (str values|Value\('string'\)), not of images; .* data\.source: table",
    ):
        hub(tmp_path)
    with pytest.raises(VitloraError, match=r"data\.image_column: got picture; .* has the columns .*image, label"):
        hub(tmp_path, image="picture")
    assert len(read(from_table(tmp_path, {"train": name}, "image", "label", None))[1]) == 1


def test_a_folder_with_the_name_of_a_builder_is_read_as_a_folder(tmp_path, monkeypatch):
    make_hub(tmp_path / "parquet", {"train": [0, 1]})
    monkeypatch.chdir(tmp_path)
    assert len(read(hub(Path("parquet")))[1]) == 2


def test_text_labels_are_sorted_across_all_splits(tmp_path):
    from datasets import Value

    make_hub(tmp_path, {"train": ["dog", "cat"], "validation": ["ant", "dog"]}, Value("string"))
    names, pictures = read(hub(tmp_path, splits=BOTH))
    assert names == ["ant", "cat", "dog"]
    assert [name for _, name, _ in pictures.values()] == ["dog", "cat", "ant", "dog"]


def test_text_that_looks_like_numbers_stays_as_it_is(tmp_path):
    from datasets import Value

    make_hub(tmp_path, {"train": ["07", "10", "7"]}, Value("string"))
    names, pictures = read(hub(tmp_path))
    assert names == ["07", "10", "7"]
    assert [name for _, name, _ in pictures.values()] == ["07", "10", "7"]


@pytest.mark.parametrize(
    ("labels", "names"),
    [([2, 0, 1, 10], ["0", "1", "2", "10"]), ([900_000_000, 5], ["5", "900000000"]), ([-1, 1], ["-1", "1"])],
)
def test_whole_numbers_are_classes_in_numeric_order(tmp_path, labels, names):
    from datasets import Value

    make_hub(tmp_path, {"train": labels}, Value("int64"))
    found, pictures = read(hub(tmp_path))
    assert found == names
    assert [name for _, name, _ in pictures.values()] == [str(label) for label in labels]


@pytest.mark.parametrize("kind", ["string", "int64", "float32"])
def test_a_row_without_a_usable_label_is_refused(tmp_path, kind):
    from datasets import Value

    make_hub(tmp_path, {"train": [0.5 if kind == "float32" else None, None]}, Value(kind))
    with pytest.raises(VitloraError, match=r"data\.label_column: label holds (None|0\.5); the rule: whole numbers or"):
        hub(tmp_path)


@pytest.mark.parametrize("bad", [None, -1])
def test_a_row_outside_its_own_classes_is_named(tmp_path, bad):
    make_hub(tmp_path, {"train": [0, bad]})
    with pytest.raises(VitloraError, match=f"train row 1: label {bad}; the rule: 0, 1"):
        list(hub(tmp_path).pictures)


def test_a_label_column_that_holds_lists_is_refused(tmp_path):
    from datasets import List, Value

    make_hub(tmp_path, {"train": [[1], [2]]}, List(Value("int64")))
    with pytest.raises(VitloraError, match=r"data\.label_column: got label, a column of List.*, not of numbers"):
        hub(tmp_path)


def test_a_wrong_split_is_refused_with_the_list_of_splits(tmp_path):
    make_hub(tmp_path, {"train": [0], "validation": [1]})
    with pytest.raises(VitloraError, match=r"data\.test_split: got test; .* has the splits train, validation"):
        hub(tmp_path, splits={"train": "train", "test": "test"})


@pytest.mark.parametrize(("key", "change"), [("image", {"image": "img"}), ("label", {"label": "fine_label"})])
def test_a_wrong_column_is_refused_with_the_list_of_columns(tmp_path, key, change):
    from datasets import Value

    make_hub(tmp_path, {"train": [0]}, extra=Value("int64"))
    with pytest.raises(VitloraError, match=rf"data\.{key}_column: got .* has the columns image, label, extra"):
        hub(tmp_path, **change)


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    make_hub(tmp_path, {"train": [0]})
    with pytest.raises(VitloraError, match=r"data\.image_column: got label, a column of ClassLabel.*, not of images"):
        hub(tmp_path, image="label")


@pytest.mark.parametrize("splits", [{"train": "train"}, {"train": "train", "test": "test"}])
def test_a_repository_of_plain_pictures_works_too(tmp_path, splits):
    fill(tmp_path, {f"{split}/{name}/{n}.png": png(n) for split in splits for name in ("cat", "dog") for n in (1, 2)})
    names, pictures = read(hub(tmp_path, splits=splits))
    assert names == ["cat", "dog"]
    assert sorted(pictures.values()) == sorted((s, c, png(n)) for s in splits for c in ("cat", "dog") for n in (1, 2))


def test_pictures_inside_a_zip_in_the_repository_work_or_are_refused_in_one_line(tmp_path):
    pack(tmp_path / "train.zip", {f"{name}/{n}.png": png(n) for name in ("cat", "dog") for n in (1, 2)})
    with pytest.raises(VitloraError, match=r"^data\.path: `datasets` cannot read .*: [^\n]+$"):
        list(hub(tmp_path).pictures)


@pytest.mark.parametrize("files", [{}, {"script.py": b"print('ran')"}, {"train.parquet": b"PAR1 no"}])
def test_a_folder_that_datasets_cannot_read_is_refused_in_one_line(tmp_path, files, capfd):
    with pytest.raises(VitloraError, match=r"^data\.path: `datasets` cannot read [^\n]+$"):
        hub(fill(tmp_path, files))
    assert "ran" not in capfd.readouterr().out


def test_a_missing_folder_in_hub_layout_is_named(tmp_path):
    with pytest.raises(VitloraError, match="which is not a folder; the rule: a data set in Hub layout"):
        hub(tmp_path / "nowhere")


def test_a_parquet_file_damaged_behind_its_table_of_contents_is_refused_in_one_line(tmp_path):
    make_hub(tmp_path, {"train": [0, 1] * 50})
    path = tmp_path / "data/train-00000-of-00001.parquet"
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(VitloraError, match=r"^data\.path: `datasets` cannot read [^\n]+$"):
        list(hub(tmp_path).pictures)


@pytest.mark.parametrize("place", ["../secret/*.png", "/etc/*.png", "http://127.0.0.1:9/x.parquet"])
@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
def test_a_card_cannot_lead_out_of_the_folder(tmp_path, place, card):
    fill(tmp_path, {"secret/cat/1.png": png(1)})
    text = f"configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: {place}\n"
    fill(tmp_path / "hub", {card: (f"---\n{text}---\n" if card == "README.md" else text).encode()})
    with pytest.raises(VitloraError, match="the rule: only files inside the folder"):
        hub(tmp_path / "hub")


@pytest.mark.parametrize(("name", "rule"), [("../secret.png", "only files inside"), ("gone.png", "cannot read gone")])
def test_a_row_cannot_lead_out_of_the_folder(tmp_path, name, rule):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    fill(tmp_path, {"secret.png": png(1)})
    (tmp_path / "hub").mkdir()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": None, "path": name}], "label": [0]}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), tmp_path / "hub/train.parquet")
    with pytest.raises(VitloraError, match=rule):
        list(hub(tmp_path / "hub").pictures)


def test_a_picture_that_is_missing_from_its_row_is_empty_for_preprocess_to_judge(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    rows = {"image": [None, {"bytes": png(1), "path": "x.png"}], "label": [0, 1]}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), tmp_path / "train.parquet")
    assert [picture.data for picture in hub(tmp_path).pictures] == [b"", png(1)]


def order_of_its_own(root, split, names):
    """Write a split anew whose ClassLabel has other names, and leave those of the others."""
    from datasets import ClassLabel

    make_hub(root / "other", {split: [0, 1, 1]}, ClassLabel(names=names))
    name = f"data/{split}-00000-of-00001.parquet"
    (root / "other" / name).replace(root / name)
    shutil.rmtree(root / "other")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["dog", "cat"], 'has "dog" for 0 in label, where the data set has "cat"'),
        (["cat", "wolf"], 'has "wolf" for 1 in label, where the data set has "dog"'),
        (["cat", "dog", "owl"], "has 3 classes in label, where the data set has 2"),
    ],
)
def test_a_split_that_numbers_the_classes_otherwise_is_refused_and_names_as_text_are_read(tmp_path, names, said):
    """`datasets` would take the first split's names for all: every picture of the other under a wrong class."""
    from datasets import Value, load_dataset

    root = make_hub(tmp_path / "hub", {"train": [0, 1, 0, 1], "validation": [0, 1]})
    order_of_its_own(root, "validation", names)
    with pytest.raises(VitloraError) as refused:
        hub(root, splits=BOTH)
    assert said in str(refused.value)
    assert "validation-00000-of-00001.parquet" in str(refused.value)
    for split in BOTH.values():  # the cure
        path = root / f"data/{split}-00000-of-00001.parquet"
        one = load_dataset("parquet", data_files=str(path), split="train", cache_dir=tmp_path / "cache" / split)
        own = one.features["label"].names
        text = one.cast_column("label", Value("int64")).map(lambda row, own=own: {"label": own[row["label"]]})
        text.to_parquet(path)
    class_names, pictures = read(hub(root, splits=BOTH))
    assert class_names == sorted({"cat", "dog", *names[:2]})
    labelled = [(split, name) for split, name, _ in pictures.values()]
    assert labelled[:4] == [("train", "cat"), ("train", "dog"), ("train", "cat"), ("train", "dog")]
    assert labelled[4:] == [("test", names[0]), ("test", names[1]), ("test", names[1])]


def test_other_configurations_may_number_their_classes_otherwise(tmp_path):
    from datasets import ClassLabel

    root = make_hub(tmp_path / "hub", {"train": [0, 1], "validation": [1, 0]})
    make_hub(tmp_path / "coarse", {"train": [0, 0]}, ClassLabel(names=["animal"]))
    (tmp_path / "coarse/data").rename(root / "coarse")
    class_names, _ = read(hub(root, splits=BOTH))
    assert class_names == ["cat", "dog"]
