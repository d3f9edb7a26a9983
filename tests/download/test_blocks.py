"""A data set that comes row by row gives the bytes of one that was there as a whole, wherever the run was stopped."""

import os
import signal
import subprocess
import sys
from functools import partial
from itertools import islice

import pytest
from hub_sets import make_hub, png
from tiny import ROOT
from trees import fill, pack

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.download.blocks import NEXT, blocks_folder, pack_stream
from vitlora.download.hub_layout import from_hub_layout, in_folder, open_hub_layout
from vitlora.download.params import DataSource
from vitlora.download.stage import COLUMNS, _files, _item
from vitlora.storage import blocks
from vitlora.storage.packed import write_packed

SMALL = 300  # bytes of a file of images: three pictures or four
BOTH = {"train": "train", "test": "validation"}
ONE = {"train": "train"}


def plain(root, out, splits=BOTH, columns=("image", "label")):
    found = from_hub_layout(root, None, *columns, splits)
    write_packed(out, COLUMNS, map(_item, found.pictures), SMALL)
    return found.class_names, found.left_out, contents(out)


def ahead(rows):
    """As processes do that are given pictures before the ones in front of them are written."""
    first = list(islice(rows, 6))
    while first:
        yield first.pop(0)
        first += islice(rows, 1)


def streamed(root, out, keep, splits=BOTH, columns=("image", "label"), scale=iter):
    found = open_hub_layout(in_folder(root), None, *columns, splits)
    names = pack_stream(found, COLUMNS, _item, out, blocks_folder(keep, str(root)), scale)
    return names, found.left_out, contents(out)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(blocks, "SHARD_BYTES", SMALL)


def parquet(labels, kind=None):
    """Several files with several groups of rows each."""

    def make(root):
        from datasets import Dataset, Value, load_dataset

        make_hub(root / "whole", {"train": labels, "validation": labels[:5]}, kind and Value(kind))
        whole = load_dataset("parquet", data_files=str(root / "whole/data/train*"), split="train", cache_dir=root / "c")
        (root / "hub").mkdir()
        (root / "whole/data").rename(root / "hub/data")
        (root / "whole/README.md").rename(root / "hub/README.md")
        (root / "hub/data/train-00000-of-00001.parquet").unlink()
        for number in range(3):
            part: Dataset = whole.shard(3, number, contiguous=True)
            part.to_parquet(root / f"hub/data/train-{number:05d}-of-00003.parquet", batch_size=4)
        return root / "hub"

    return make


def folder_of_pictures(root):
    names = [f"{split}/{name}/{n}.png" for split in BOTH.values() for name in ("cat", "dog") for n in range(5)]
    return fill(root / "hub", {name: png(number) for number, name in enumerate(names)})


def tars(root):
    for part in range(3):
        members = {}
        for n in range(5 * part, 5 * part + 5):
            members |= {f"{n:03d}.png": png(n), f"{n:03d}.cls": str(n % 3).encode()}
        (root / "hub").mkdir(exist_ok=True)
        pack(root / f"hub/train-{part}.tar", members)
    return root / "hub"


SETS = {
    "parquet": (parquet([0, 1] * 13), {}),
    "names as text": (parquet(["dog", "cat", "ant", "dog"] * 6, "string"), {}),
    "numbers": (parquet([10, 9, -1, 100] * 6, "int64"), {}),
    "pictures, one split of two": (folder_of_pictures, {"splits": ONE}),
    "tar": (tars, {"splits": ONE, "columns": ("png", "cls")}),
}


@pytest.fixture(params=SETS)
def each(request, tmp_path):
    make, more = SETS[request.param]
    return make(tmp_path), more


def test_a_stream_stopped_behind_every_block_gives_the_bytes_of_the_whole(tmp_path, each, monkeypatch):
    root, more = each
    whole = plain(root, tmp_path / "whole", **more)
    assert len([name for name in whole[2] if name.startswith("images-")]) > 2
    assert streamed(root, tmp_path / "at once", tmp_path / "kept", **more) == whole

    def stop(name):
        raise InterruptedError

    stops = 0
    monkeypatch.setattr(blocks, "faultpoint", stop)
    while True:
        try:
            assert streamed(root, tmp_path / "stopped", tmp_path / "other", **more, scale=ahead) == whole
            break
        except InterruptedError:
            stops += 1
            assert not (tmp_path / "stopped").exists()
    assert stops == len([name for name in whole[2] if name.startswith("images-")])


def test_a_picture_in_a_file_or_missing_comes_as_from_the_whole(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features
    from datasets import Image as ImageFeature

    root = fill(tmp_path / "hub", {"more/1.png": png(1)})
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog", "never"])})
    rows = {"image": [{"bytes": None, "path": "more/1.png"}, None, {"bytes": png(2), "path": "x"}], "label": [0, 1, 1]}
    pq.write_table(pa.table(rows, schema=features.arrow_schema), root / "train.parquet")
    names, _, files = streamed(root, tmp_path / "out", tmp_path / "kept", ONE)
    assert (names, _, files) == plain(root, tmp_path / "whole", ONE)
    assert files["images-00000.bin"] == png(1) + png(2)


BAD = {
    "a label outside": ([0, 0, 1, 1, 0, -1], None),
    "no label": ([0, 0, 1, 1, 0, None], None),
    "no name": (["a", "b", "a", "b", "b", None], "string"),
    "a slash in a name": (["a", "b", "a", "b", "b", "c/d"], "string"),
    "half a class": ([0.5] * 6, "float32"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_row_that_cannot_be_used_is_refused_in_the_same_words(tmp_path, bad):
    from datasets import Value

    labels, kind = BAD[bad]
    root, errors = make_hub(tmp_path / "hub", {"train": labels}, kind and Value(kind)), []
    ways = partial(plain, root, tmp_path / "1", ONE), partial(streamed, root, tmp_path / "2", tmp_path / "kept", ONE)
    for way in ways:
        with pytest.raises(VitloraError) as refused:
            way()
        errors.append(str(refused.value))
    assert errors[0] == errors[1]


def test_blocks_of_other_data_are_deleted_and_a_damaged_one_comes_again(tmp_path):
    root = make_hub(tmp_path / "hub", {"train": [0, 1] * 9, "validation": [1]})
    whole = streamed(root, tmp_path / "1", tmp_path / "kept")
    (folder,) = (tmp_path / "kept").iterdir()
    for damage in (lambda block: (block / "index.npy").write_bytes(b"no"), lambda block: (block / NEXT).unlink()):
        damage(folder / "00002")
        assert streamed(root, tmp_path / "1", tmp_path / "kept") == whole
    assert blocks_folder(tmp_path / "kept", "another") != folder
    assert not folder.exists()


def test_a_change_behind_a_linked_folder_is_one_of_the_data_set(tmp_path):
    root = make_hub(tmp_path / "hub", {"train": [0, 1]})
    (root / "data").rename(tmp_path / "elsewhere")
    (root / "data").symlink_to(tmp_path / "elsewhere")
    data = DataSource.model_construct(source="hub_folder", path=str(root))
    before = _files(data)
    os.utime(next((tmp_path / "elsewhere").iterdir()), ns=(1, 1))
    assert _files(data) != before


def test_a_data_set_without_a_row_gives_an_empty_folder(tmp_path):
    root = make_hub(tmp_path / "hub", {"train": []})
    assert streamed(root, tmp_path / "1", tmp_path / "kept", ONE) == plain(root, tmp_path / "2", ONE)


def test_a_killed_run_goes_on_behind_its_blocks(tmp_path):
    code = (
        "import sys; from pathlib import Path; here = Path(sys.argv[1])\n"
        "from vitlora.download.blocks import blocks_folder, pack_stream; from vitlora.storage import blocks\n"
        "from vitlora.download.hub_layout import in_folder, open_hub_layout\n"
        "from vitlora.download.stage import COLUMNS, _item; blocks.SHARD_BYTES = 300\n"
        "found = open_hub_layout(in_folder(here / 'hub'), None, 'image', 'label', {'train': 'train'})\n"
        "pack_stream(found, COLUMNS, _item, here / 'out', blocks_folder(here / 'kept'))\n"
    )
    root = make_hub(tmp_path / "hub", {"train": [0, 1] * 4})
    command = [sys.executable, "-c", code, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    died = subprocess.run(command, env={**env, "FAULTPOINT": "block-packed"}, capture_output=True, check=False)
    assert died.returncode == 128 + signal.SIGKILL, died.stderr
    assert [path.name for path in tmp_path.glob("kept/*/*")] == ["00000"]
    subprocess.run(command, env=env, capture_output=True, check=True)
    assert contents(tmp_path / "out") == plain(root, tmp_path / "whole", ONE)[2]
    assert read_json(next(tmp_path.glob("kept/*/00001")) / NEXT)["next"][1] == 8
