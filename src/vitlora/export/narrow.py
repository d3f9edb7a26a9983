"""ONNX graphs in half the bytes and in a quarter."""

from typing import Any

import onnx

from vitlora.export.onnx_runtime import ALONE


def to_fp16(graph: Any) -> Any:
    """Return the graph with float16 inside; what goes in and out stays float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    copy = onnx.ModelProto()
    copy.CopyFrom(graph)  # it is changed in place
    half = OnnxModel(convert_float_to_float16(copy, keep_io_types=True))
    half.topological_sort(is_deterministic=True)  # it puts what turns float32 into float16 last
    return half.model


def to_int8(graph: Any) -> Any:
    """Return the graph with 8-bit weights, a scale for each column; activations are rounded as they come.

    The products of MatMul and Gemm only: convolutions and sums in int8 cost accuracy and are no faster. The scales of
    activations are found anew in each run, which needs no calibration pictures and was nearer to the trained model than
    scales found beforehand (benchmarks/results/formats.json). They are found over all that is in the run, so that a
    picture's answer would depend on its company: the graph says that it takes one at a time.
    """
    from vitlora.export.columns import Columns

    quantizer = Columns(graph)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    narrow = quantizer.model.model
    onnx.helper.set_model_props(narrow, {ALONE: "true"})
    return narrow
