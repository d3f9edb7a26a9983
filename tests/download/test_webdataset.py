"""A WebDataset tar in Hub layout: its pictures and labels are read, and nothing else in it is opened."""

import gzip
import io
import json
import pickle
import tarfile

import numpy as np
import pytest
import torch
from corpus import noisy, saved
from pickles import as_array, as_checkpoint, pickles

from vitlora.core.errors import VitloraError
from vitlora.download.hub_layout import from_hub_layout

COUNT = 7  # more than `datasets` looks at to know the columns
PICTURES = [saved(noisy(12, 9, seed), kind) for seed, kind in enumerate(("JPEG",) * COUNT)]


def write_tar(folder, members):
    """Write one sample for each picture: the picture, a class number, and more members by their extension."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "train.tar", "w") as tar:
        for number, picture in enumerate(PICTURES):
            sample = {"jpg": picture, "cls": str(number % 2).encode(), **members}
            for extension, data in sample.items():
                info = tarfile.TarInfo(f"sample{number:03d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return folder


def read(folder, label="cls"):
    found = from_hub_layout(folder, None, "jpg", label, {"train": "train"})
    return found.class_names, [(picture.label, picture.data) for picture in found.pictures]


@pytest.fixture
def opened(monkeypatch):
    """What would have been opened, were it not for us; a call raises too."""
    calls = []

    def refuse(name):
        def call(*args, **kwargs):
            calls.append(name)
            raise AssertionError(f"{name} was called")

        return call

    for module, name in (
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (np, "load"),
        (np.lib.format, "read_array"),
    ):
        monkeypatch.setattr(module, name, refuse(f"{module.__name__}.{name}"))
    monkeypatch.setattr("gzip.GzipFile.read", refuse("gzip"))
    return calls


WORTHLESS = pickles("/nonexistent/mark")["os.system"]
HOSTILE = {
    "pth": as_checkpoint(WORTHLESS),
    "pt": as_checkpoint(WORTHLESS),
    "pkl": WORTHLESS,
    "pickle": WORTHLESS,
    "pyd": WORTHLESS,
    "npy": as_array(WORTHLESS),
    "npz": b"PK\3\4 no zip",
    "msg": b"\xc1",
    "mp": b"\xc1",
    "msgpack": b"\xc1",
    "cbor": b"\xff",
    "ten": b"rubbish",
    "tb": b"rubbish",
    "json.gz": gzip.compress(b"{}"),
    "pth.gz": gzip.compress(WORTHLESS),
    "npy.xz": b"\xfd7zXZ\0 cut",
    "zst": b"\x28\xb5\x2f\xfd",
    "bin": WORTHLESS,
    "seg.pth": as_checkpoint(WORTHLESS),
    "PTH": as_checkpoint(WORTHLESS),
}


@pytest.mark.parametrize("extension", ["pth", "npz", "cbor", "json.gz"])
def test_no_member_but_pictures_and_texts_is_opened(tmp_path, opened, extension):
    names, found = read(write_tar(tmp_path / "set", {extension: HOSTILE[extension]}))
    assert names == ["0", "1"]
    assert found == [(number % 2, picture) for number, picture in enumerate(PICTURES)]
    assert opened == []


def test_all_of_them_at_once_are_passed_over(tmp_path, opened):
    assert len(read(write_tar(tmp_path / "set", HOSTILE))[1]) == COUNT
    assert opened == []


def test_texts_and_json_are_read_beside_a_picture(tmp_path, opened):
    folder = write_tar(tmp_path / "set", {"txt": "Kätzchen".encode(), "json": json.dumps({"a": 1}).encode()})
    assert read(folder, label="txt") == (["Kätzchen"], [(0, picture) for picture in PICTURES])
    assert opened == []


@pytest.mark.parametrize("extension", ["pth", "npy"])
def test_a_member_that_stays_packed_is_no_label(tmp_path, opened, extension):
    folder = write_tar(tmp_path / "set", {extension: HOSTILE[extension]})
    with pytest.raises(
        VitloraError, match=rf"data.label_column: {extension} holds b.{{59}}; the rule: whole numbers or text"
    ):
        read(folder, label=extension)
    assert read(folder)[0] == ["0", "1"]
    assert opened == []
