"""Models from outside: no pickle is ever opened, no code of theirs runs, damaged weights are refused."""

import ast
import io
import json
import os
import re
import struct
import subprocess
import sys

import numpy as np
import onnx
import pytest
from foreign import GOOD, classifier, fill, take
from onnx import TensorProto, helper
from pickles import pickles
from safetensors.numpy import save
from tiny import ROOT, make_base

from vitlora.core.errors import VitloraError
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.storage.squares import load_split


def refused(tmp_path, files, said):
    folder = fill(tmp_path / "source", {**GOOD, **files})
    with pytest.raises(VitloraError, match=said) as caught:
        take(folder, tmp_path / "base")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "base").exists()


# Pickles


@pytest.mark.slow
def test_no_pickle_is_opened_wherever_it_lies(tmp_path):
    """The hook would see it: the last step opens one on purpose."""
    assert len(pickles("x")) >= 38
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/open_pickles.py", tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report.pop("control") >= 2
    assert report == {"taken": [], "events": [], "mark": False}


@pytest.mark.parametrize("name", ["train.pkl", "train.pickle", "train.pt"])
def test_a_pickle_among_the_files_of_a_data_set_is_not_opened(tmp_path, name):
    from vitlora.download.hub_layout import from_hub_layout

    folder = fill(tmp_path / "set", {name: pickles(str(tmp_path / "mark"))["builtins.exec"]})
    with pytest.raises(VitloraError, match="`datasets` cannot read"):
        from_hub_layout(folder, None, "image", "label", {"train": "train"})
    assert not (tmp_path / "mark").exists()


FORBIDDEN = {"eval", "exec", "compile", "__import__"}


def test_the_code_names_no_pickle_and_evaluates_no_text():
    found = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                bad = {"pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"} & {
                    n.split(".")[0] for n in names
                }
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                bad = {called} & FORBIDDEN
                bad |= {called} & {"torch.load", "yaml.load", "os.system", "pickle.load", "pickle.loads"}
                bad |= {f"{k}={v}" for k, v in given.items()} & {
                    "weights_only=False", "allow_pickle=True", "trust_remote_code=True", "shell=True",
                }  # fmt: skip
            else:
                continue
            found += [f"{path.relative_to(ROOT)}:{node.lineno}: {word}" for word in bad]
    assert found == []


# Folders of models


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "weights.pkl"])
def test_a_model_that_is_only_pickled_is_refused_with_the_way_to_convert_it(tmp_path, name):
    said = rf"has no \*\.safetensors; .*{re.escape(name)} may run code when loaded; .*save_pretrained\(NEW\) converts"
    refused(tmp_path, {"model.safetensors": None, name: b"\x80\x02."}, said)


def raw(header, data=b"", length=None):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(kind, shape, begin, end):
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS = {
    "cut": (GOOD["model.safetensors"][:-1], "no whole safetensors file"),
    "cut in its header": (GOOD["model.safetensors"][:30], "no whole safetensors file"),
    "longer": (GOOD["model.safetensors"] + b"x", "no whole safetensors file"),
    "empty": (b"", "no whole safetensors file"),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
        "Git LFS's note .*; fetch it",
    ),
    "a web page": (b"<html>log in</html>", "no whole safetensors file"),
    "overlap": (raw({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)), "no whole safetensors"),
    "the same bytes twice": (raw({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 0, 8)}, bytes(8)), "no whole"),
    "a hole": (raw({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 12, 20)}, bytes(20)), "no whole safetensors"),
    "wrong shape for its bytes": (raw({"a": entry("F32", [3], 0, 8)}, bytes(8)), "no whole safetensors file"),
    "negative shape": (raw({"a": entry("F32", [-2], 0, 8)}, bytes(8)), "no whole safetensors file"),
    "shape that overflows": (raw({"a": entry("F32", [2**40, 2**40], 0, 8)}, bytes(8)), "no whole safetensors file"),
    "past the end": (raw({"a": entry("F32", [4], 0, 16)}, bytes(8)), "no whole safetensors file"),
    "header of 101 MB": (raw(b"{" + b" " * 100_999_998 + b"}"), "header too large"),
    "header that claims 8 EB": (raw({}, b"", 2**63), "header too large"),
    "header no JSON": (raw(b"not json"), "no whole safetensors file"),
    "100,000 tensors": (
        raw({f"t{n}": entry("F32", [0], 0, 0) for n in range(100_000)}),
        "has 100,000 tensors; the rule: at most 10,000",
    ),
    "unknown kind": (raw({"a": entry("X8", [2], 0, 2)}, bytes(2)), "no whole safetensors file"),
    "kind that no base model has": (
        raw({"a": entry("F8_E4M3", [2], 0, 2)}, bytes(2)),
        "a is of kind F8_E4M3; the rule",
    ),
    "whole numbers as weights": (save({"q.weight": np.ones(2, np.int64)}), r"q\.weight is of kind I64; the rule: F64"),
    "NaN": (save({"a": np.ones(2, np.float32), "b": np.array([1, np.nan], np.float32)}), "b holds NaN or infinity"),
    "infinity": (save({"b": np.array([1, -np.inf], np.float32)}), "b holds NaN or infinity"),
    "NaN, float64": (save({"b": np.array([np.nan], np.float64)}), "b holds NaN or infinity"),
    "infinity, float16": (save({"b": np.array([np.inf], np.float16)}), "b holds NaN or infinity"),
    "NaN, bfloat16": (raw({"b": entry("BF16", [2], 0, 4)}, b"\x80\x3f\xc0\x7f"), "b holds NaN or infinity"),
    "name with an escape": (save({"\x1b[2J": np.array([np.nan], np.float32)}), r"\\x1b\[2J holds NaN"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_damaged_or_odd_safetensors_are_refused_before_anything_is_written(tmp_path, name):
    data, said = SAFETENSORS[name]
    refused(tmp_path, {"model.safetensors": data}, rf"^model\.path: .*{said}")


def test_finite_floats_of_every_kind_and_whole_numbers_beside_them_are_taken(tmp_path):
    tensors = {kind: np.array([0, -1, 6e4, 1e-5], kind) for kind in ("float64", "float32", "float16")}
    tensors |= {"position_ids": np.arange(3), "mask": np.array([True])}
    brain = raw({"b": entry("BF16", [2], 0, 4)}, b"\x80\x3f\x7f\x7f")
    files = {**GOOD, "model.safetensors": save(tensors), "model-2.safetensors": brain}
    take(fill(tmp_path / "source", files), tmp_path / "base")
    assert (tmp_path / "base/model.safetensors").read_bytes() == files["model.safetensors"]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, r"names \.\./other/model\.safetensors, which is not in"),
        ({"weight_map": {"a": "/etc/passwd"}}, "names /etc/passwd, which is not in the folder"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, r"names pytorch_model\.bin, which is not in the folder"),
        ({"weight_map": []}, "is no index of weights"),
        ([], "is no index of weights"),
    ],
    ids=str,
)
def test_an_index_that_leads_to_other_files_is_refused(tmp_path, index, said):
    refused(tmp_path, {"model.safetensors.index.json": json.dumps(index).encode(), "pytorch_model.bin": b""}, said)


def test_a_pipe_in_place_of_the_weights_does_not_hang(tmp_path):
    folder = fill(tmp_path / "source", {**GOOD, "model.safetensors": None})
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(VitloraError, match=r"has no \*\.safetensors"):
        take(folder, tmp_path / "base")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A real tiny ViT's files."""
    folder = tmp_path_factory.mktemp("vit") / "base"
    make_base(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed_config(vit, **values):
    return {**vit, "config.json": json.dumps({**json.loads(vit["config.json"]), **values}).encode()}


@pytest.mark.parametrize("known", [True, False])
def test_code_that_a_config_names_is_never_run(tmp_path, vit, known):
    from vitlora.model.base import load_base

    names = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    kind = "vit" if known else "evil"
    code = f"open({str(tmp_path / 'mark')!r}, 'w').close()\n".encode()
    files = {**changed_config(vit, auto_map=names, trust_remote_code=True, model_type=kind), "evil.py": code}
    folder = fill(tmp_path / "base", files)
    if known:
        load_base(folder, ["a", "b"], 32)
    else:
        with pytest.raises(VitloraError, match="transformers cannot load it"):
            load_base(folder, ["a", "b"], 32)
    assert not (tmp_path / "mark").exists()


def test_weights_of_another_shape_than_the_model_s_are_refused(tmp_path, vit):
    from vitlora.model.base import load_base

    folder = fill(tmp_path / "base", changed_config(vit, intermediate_size=128))
    with pytest.raises(VitloraError, match="weights of the backbone are missing, such as"):
        load_base(folder, ["a", "b"], 32)


def test_squares_that_are_cut_are_refused_in_one_line(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.zeros((2, 3, 8, 8), np.uint8))
    folder = fill(tmp_path / "val", {"index.csv": b"path,label\na,0\nb,1\n", "images.npy": whole.getvalue()[:-1]})
    with pytest.raises(VitloraError, match=r"images\.npy: .*; make it anew"):
        load_split(folder)


# ONNX


def outside(place, marked=True):
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value=place)
    tensor.data_location = TensorProto.EXTERNAL if marked else TensorProto.DEFAULT
    return tensor


def branch(tensor):
    """An If whose branch holds a constant."""
    inner = helper.make_node("Constant", [], ["c"], value=tensor)
    graph = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("c", TensorProto.FLOAT, [1])])
    return helper.make_node("If", ["w"], ["unused"], then_branch=graph, else_branch=graph)


def in_function(tensor):
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    return helper.make_function("own", "f", [], ["c"], [node], [helper.make_opsetid("", 20)])


def sparse(tensor):
    made = onnx.SparseTensorProto(dims=[1])
    made.values.CopyFrom(tensor)
    return helper.make_node("Constant", [], ["s"], sparse_value=made)


OUTSIDE = {
    "up": classifier(outside("../../etc/passwd")),
    "absolute": classifier(outside("/etc/passwd")),
    "beside it": classifier(outside("weights.bin")),
    "not marked as such": classifier(outside("../x", marked=False)),
    "in a node": classifier(node=helper.make_node("Constant", [], ["k"], value=outside("../x"))),
    "in a branch": classifier(node=branch(outside("../x"))),
    "in a function": classifier(function=in_function(outside("../x"))),
    "sparse": classifier(node=sparse(outside("../x"))),
    "a name with an escape": classifier(outside("\x1b[2J")),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_onnx_model_that_names_another_file_is_refused_before_it_is_opened(tmp_path, name):
    path = tmp_path / "model.onnx"
    path.write_bytes(OUTSIDE[name].SerializeToString())
    with pytest.raises(VitloraError, match=r"the weights far lie in .*; the rule: all inside the model") as caught:
        OnnxClassifier(path, [0.5] * 3, [0.5] * 3)
    assert str(caught.value).isprintable()


def test_an_onnx_model_with_all_inside_is_read(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(classifier().SerializeToString())
    scores = OnnxClassifier(path, [0.0] * 3, [1.0] * 3).score(np.full((1, 3, 8, 8), 255, np.uint8), 1)
    assert scores.tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x80\x02.", bytes(99), b"\x08"], ids=repr)
def test_what_is_no_onnx_model_is_refused_in_one_line(tmp_path, data):
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    with pytest.raises(VitloraError, match=r"model\.onnx") as caught:
        OnnxClassifier(path, [0.5] * 3, [0.5] * 3)
    assert "\n" not in str(caught.value)
