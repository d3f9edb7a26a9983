"""OpenVINO's form of the model, for Intel's processors and graphics."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitlora.export.onnx_runtime import normalise


def write_openvino(graph: Any, path: Path) -> None:
    """Write model.xml and, beside it, model.bin, float32, from an onnx.ModelProto that takes pixel values.

    Its operations are named by their order, since OpenVINO numbers them by all that the process has made.
    """
    model = openvino().Core().read_model(graph.SerializeToString(deterministic=True))
    for number, each in enumerate(model.get_ordered_ops()):
        if each.get_type_name() not in ("Parameter", "Result"):
            each.set_friendly_name(f"{each.get_type_name()}_{number}")
    path.parent.mkdir()
    openvino().save_model(model, path, compress_to_fp16=False)


def openvino() -> Any:
    """Import OpenVINO without the package that tells its maker of each import; it has a stand-in for that case."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: it can't be imported
    return import_module("openvino")


class OpenVinoClassifier:
    """A classifier of uint8 squares, on the CPU, in float32.

    Args:
        path: model.xml.
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.
    """

    def __init__(self, path: Path, mean: list[float], std: list[float]) -> None:
        # Where a processor has bfloat16, OpenVINO would take it unasked.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        self.model = openvino().Core().compile_model(str(path), "CPU", exact)
        self.mean, self.std = mean, std

    def score(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        """Return logits, float32 (N, C), of uint8 (N, 3, H, W)."""
        batches = []
        for start in range(0, len(images), batch_size):
            pixels = normalise(np.asarray(images[start : start + batch_size]), self.mean, self.std)
            batches.append(np.array(self.model(pixels)["logits"]))
        return np.concatenate(batches)
