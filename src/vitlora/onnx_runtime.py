"""Run an exported model.onnx with onnxruntime: no torch, so a prediction starts within a second."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.images import normalise


class OnnxClassifier:
    """A classifier of uint8 squares, on the CPU.

    Args:
        path: model.onnx, ``pixel_values`` (batch, 3, H, W) to ``logits`` (batch, C).
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.
    """

    def __init__(self, path: Path, mean: list[float], std: list[float]) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.mean, self.std = mean, std

    def score(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        """Return logits, float32 (N, C), of uint8 (N, 3, H, W)."""
        batches = []
        for start in range(0, len(images), batch_size):
            pixels = normalise(np.asarray(images[start : start + batch_size]), self.mean, self.std)
            batches.append(np.asarray(self.session.run(["logits"], {"pixel_values": pixels})[0], np.float32))
        return np.concatenate(batches)
