"""Models from outside, as small as can be: a folder of files for download, and an ONNX classifier."""

import json
import os
import subprocess
import sys

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save
from tiny import ROOT

from vitlora.download.params import ModelSource
from vitlora.download.stage import fetch_base
from vitlora.storage.manifest import write_manifest

PROCESSOR = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}).encode()
GOOD = {
    "config.json": b'{"model_type": "vit"}',
    "preprocessor_config.json": PROCESSOR,
    "model.safetensors": save({"w.weight": np.arange(6, dtype=np.float32)}),
}


def fill(folder, files):
    folder.mkdir(parents=True)
    for name, data in files.items():
        if data is not None:
            (folder / name).write_bytes(data)
    return folder


def take(folder, base):
    fetch_base(ModelSource(source="folder", path=str(folder), revision=None), base)


def classifier(tensor=None, node=None, function=None):
    """Mean of each channel to two logits."""
    weights = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        *([node] if node else []),
    ]
    ends = [("pixel_values", ["n", 3, 8, 8]), ("logits", ["n", 2])]
    given, got = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)] for name, shape in ends)
    graph = helper.make_graph(nodes, "g", given, got, [weights, *([tensor] if tensor else [])])
    functions = [function] if function else []
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, functions=functions)


def exported(folder):
    """Write an exported folder with a tiny classifier of two classes, one of them named to clear a terminal."""
    (folder / "model.onnx").write_bytes(classifier().SerializeToString())
    known = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "image_size": 8, "interpolation": "bilinear"}
    (folder / "vitlora.json").write_text(json.dumps({**known, "class_names": ["\x1b[2Jcat", "dog"]}))
    write_manifest(folder)
    return folder


def predict(model, *args, code=0, **env):
    """Run `vitlora predict` as people do; return what it printed and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "vitlora", "predict", "--model", model, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **env},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()
