"""An ONNX graph from a PyTorch classifier: dynamic batch, weights inside, the same bytes in every folder."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Logits(torch.nn.Module):
    """Give the bare logits, over a temperature: an output object has no place in a graph."""

    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits (N, C) of normalised float (N, 3, H, W)."""
        logits: Tensor = self.model(pixel_values=pixel_values).logits
        return logits if self.temperature == 1 else logits / self.temperature


def onnx_graph(model: Any, temperature: float, image_size: int, opset: int) -> Any:
    """Return an onnx.ModelProto from ``pixel_values`` (batch, 3, size, size) to ``logits`` (batch, C), both float32.

    The logits are over the temperature. Source paths that the exporter leaves in the graph are removed, so equal
    weights give equal bytes.
    """
    # Two images: a batch of one would be taken for a constant.
    example = torch.zeros(2, 3, image_size, image_size)
    for name in ("torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own deprecated parts
        program = torch.onnx.export(
            Logits(model, temperature).eval(),
            (example,),
            dynamo=True,
            input_names=["pixel_values"],
            output_names=["logits"],
            dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch")}},
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    _strip(graph)
    return graph


def save(graph: Any, path: Path) -> None:
    """Write an onnx.ModelProto in a fixed order, so equal graphs give equal bytes."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _strip(model: Any) -> None:
    for part in (model, model.graph, *model.functions):
        del part.metadata_props[:]
    for node in (*model.graph.node, *(node for function in model.functions for node in function.node)):
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
