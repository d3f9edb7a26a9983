"""An exported folder whose model tells pictures by their colour: the form that takes pictures, made by hand."""

import json

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from vitlora.storage.manifest import write_manifest

NAMES = ["blue", "green", "red"]
FACTS = {
    "class_names": NAMES,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "image_size": 32,
    "interpolation": "bilinear",
    "calibration": {"coverage": 0.95, "images": 10, "temperature": 1.0, "threshold": 0.5},
}


def colour_model(name="pictures", form=TensorProto.UINT8, scale=8.0):
    """Return an ONNX model of pictures (N, H, W, 3) to the shares of red, green and blue in them."""
    weights = numpy_helper.from_array(np.float32(scale) * np.eye(3, dtype=np.float32)[::-1].copy(), "weights")
    most = numpy_helper.from_array(np.float32(255), "most")
    nodes = [
        helper.make_node("Cast", [name], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["cast", "most"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    given = helper.make_tensor_value_info(name, form, ["n", "h", "w", 3])
    got = [helper.make_tensor_value_info(each, TensorProto.FLOAT, ["n", 3]) for each in ("probabilities", "logits")]
    graph = helper.make_graph(nodes, "colours", [given], got, [weights, most])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def write_export(folder, models, facts=FACTS, card=""):
    """Write an exported folder with these models, by name; model.onnx is always there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in {"model.onnx": colour_model(), **models}.items():
        (folder / name).write_bytes(model)
    (folder / "vitlora.json").write_text(json.dumps(facts), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8", errors="backslashreplace")
    write_manifest(folder)
    return folder
