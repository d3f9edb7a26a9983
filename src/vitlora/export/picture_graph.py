"""The way from a decoded picture to the model's input as part of an ONNX graph: no program has to repeat it."""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto, compose, helper, parser

FILTERS = {"bilinear": "linear", "bicubic": "cubic"}
# In ONNX's own notation. Pillow rounds to whole levels between its two passes, as a Resize of one axis does, and of a
# tall picture that shrinks it makes the vertical pass first. Half of what is cut off is rounded half to even.
GRAPH = """
<ir_version: {ir}, opset_import: ["": {opset}]>
picture (uint8[batch, height, width, 3] pictures) => (float[batch, 3, {size}, {size}] pixel_values)
{{
  side = Constant <value = int64[1] {{{size}}}> ()
  two = Constant <value = int64[1] {{2}}> ()
  axes = Constant <value = int64[2] {{2, 3}}> ()
  most = Constant <value = float {{255.0}}> ()
  mean = Constant <value = float[1, 3, 1, 1] {{{mean}}}> ()
  std = Constant <value = float[1, 3, 1, 1] {{{std}}}> ()

  planes = Transpose <perm = [0, 3, 1, 2]> (pictures)
  outer = Shape <end = 2> (planes)
  shape = Shape <start = 2> (planes)
  shorter = ReduceMin <keepdims = 1> (shape)
  grown = Mul (shape, side)
  scaled = Div (grown, shorter)

  height_in, width_in = Split <axis = 0, num_outputs = 2> (shape)
  height_out, width_out = Split <axis = 0, num_outputs = 2> (scaled)
  twice = Mul (width_in, two)
  tall = Greater (height_in, twice)
  shrinks = Less (height_out, height_in)
  vertical = And (tall, shrinks)
  height_between = Where (vertical, height_out, height_in)
  width_between = Where (vertical, width_in, width_out)
  between = Concat <axis = 0> (outer, height_between, width_between)
  behind = Concat <axis = 0> (outer, scaled)
  once = Resize <mode = "{mode}", antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5> (planes, , , between)
  resized = Resize <mode = "{mode}", antialias = 1, exclude_outside = 1, cubic_coeff_a = -0.5> (once, , , behind)

  spare = Sub (scaled, side)
  half = Div (spare, two)
  odd = Mod (half, two)
  evened = Add (spare, odd)
  begin = Div (evened, two)
  end = Add (begin, side)
  squares = Slice (resized, begin, end, axes)

  levels = Cast <to = 1> (squares)
  shares = Div (levels, most)
  centred = Sub (shares, mean)
  pixel_values = Div (centred, std)
}}
"""


def with_pictures(graph: Any, size: int, interpolation: str, mean: Sequence[float], std: Sequence[float]) -> Any:
    """Return a graph that takes decoded pictures of a graph that takes pixel values.

    What differs from Pillow's ``resize_and_crop`` differs by 1 of 255 levels, at most 1 in 200 values of a photograph;
    of noise by 2. A picture that has the model's size already passes through as it is.

    Args:
        graph: onnx.ModelProto, ``pixel_values`` float32 (batch, 3, size, size) to ``logits`` float32 (batch, C).
        size: Side of the square, px.
        interpolation: `bilinear` or `bicubic`.
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.

    Returns:
        onnx.ModelProto, ``pictures`` uint8 (batch, height, width, 3), RGB, upright, of any one size, to ``logits`` and
        ``probabilities``, float32 (batch, C).

    Source:
        Pillow 13's order of passes was found by trying (tests/export/test_picture_graph.py); ONNX Resize-19.
    """
    (version,) = (each.version for each in graph.opset_import if each.domain == "")
    text = GRAPH.format(
        ir=graph.ir_version,
        opset=version,
        size=size,
        mode=FILTERS[interpolation],
        mean=", ".join(map(repr, map(float, mean))),
        std=", ".join(map(repr, map(float, std))),
    )
    before = compose.add_prefix(parser.parse_model(text), "picture/", rename_inputs=False, rename_outputs=False)
    for each in graph.opset_import:
        if each.domain:
            before.opset_import.append(each)
    whole = compose.merge_models(before, graph, io_map=[("pixel_values", "pixel_values")])
    whole.producer_name = graph.producer_name
    (logits,) = whole.graph.output
    whole.graph.node.append(helper.make_node("Softmax", [logits.name], ["probabilities"], axis=-1))
    shares = onnx.ValueInfoProto()
    shares.CopyFrom(logits)
    shares.name = "probabilities"
    assert shares.type.tensor_type.elem_type == TensorProto.FLOAT
    whole.graph.output.insert(0, shares)
    return whole
