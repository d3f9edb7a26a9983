"""8-bit weights, all columns at once: the bytes that onnxruntime's own way gives, column by column."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from vitlora.export.narrow import ALONE, to_int8

RNG = np.random.default_rng(0)
DRAWN = RNG.normal(0, 0.05, (24, 40)).astype(np.float32)
COLUMNS = np.array([0.0, 1e-44, 1e-39, 3e-36, -2.0, 5.0, 1e30, -1e30], np.float32)  # of one number each
MATRICES = {
    "drawn": DRAWN,
    "one column": DRAWN[:, :1],
    "positive": np.abs(DRAWN) + np.float32(0.3),
    "negative": -np.abs(DRAWN),
    "equal numbers": np.tile(COLUMNS, (24, 1)),
    "halves of a level": np.tile(np.linspace(-127.5, 127.5, 24, dtype=np.float32)[:, None], (1, 3)),
    "far outliers": DRAWN * np.where(RNG.random(DRAWN.shape) < 0.02, 1e4, 1).astype(np.float32),
    "a stack": np.stack([DRAWN, 3 * DRAWN]),
}


def product(weight, kind="MatMul", **attributes):
    inner = weight.shape[-1] if attributes.get("transB") else weight.shape[-2]
    shape = ["batch", inner] if weight.ndim == 2 else [2, "batch", inner]
    inputs = ["x", "w", "bias"] if kind == "Gemm" else ["x", "w"]
    kept = [numpy_helper.from_array(weight, "w")]
    if kind == "Gemm":
        width = weight.shape[-2] if attributes.get("transB") else weight.shape[-1]
        kept.append(numpy_helper.from_array(np.ones(width, np.float32), "bias"))
    graph = helper.make_graph(
        [helper.make_node(kind, inputs, ["y"], "product", **attributes)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        kept,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def by_onnxruntime(graph, path):
    quantize_dynamic(graph, path, ["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QUInt8)
    model = onnx.load(path)
    helper.set_model_props(model, {ALONE: "true"})
    return model


def written(model):
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", MATRICES)
def test_all_columns_at_once_give_the_bytes_of_one_by_one(tmp_path, name):
    found = to_int8(product(MATRICES[name]))
    assert "MatMulInteger" in {node.op_type for node in found.graph.node}
    assert written(found) == written(by_onnxruntime(product(MATRICES[name]), tmp_path / "int8.onnx"))


@pytest.mark.parametrize("turned", [0, 1])
def test_so_does_a_product_with_a_sum(tmp_path, turned):
    given = product(DRAWN, "Gemm", transB=turned)
    assert written(to_int8(given)) == written(by_onnxruntime(given, tmp_path / "int8.onnx"))


def test_the_graph_that_was_given_stays_as_it_was():
    given = product(DRAWN)
    before = written(given)
    to_int8(given)
    assert written(given) == before
