"""Run an exported model.onnx with onnxruntime: no torch, so a prediction starts within a second."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.export.outside import outside_weights

ALONE = "one_at_a_time"  # in a model's metadata: in one run with others a picture gets another answer


class OnnxClassifier:
    """A classifier of uint8 squares, on the CPU.

    Args:
        path: An ONNX model, to ``logits`` (batch, C), of ``pictures`` uint8 (batch, H, W, 3), which normalises by
            itself, or of ``pixel_values`` (batch, 3, H, W).
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.

    Raises:
        VitloraError: The file is no model, or keeps weights in another file.
    """

    def __init__(self, path: Path, mean: list[float], std: list[float]) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        _refuse_outside(path)
        try:
            options = onnxruntime.SessionOptions()
            # Threads that wait by spinning hold the cores that decoding and other programs need.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen
            raise VitloraError(f"{path}: onnxruntime cannot load it: {printable(str(error))}") from None
        self.alone = ALONE in self.session.get_modelmeta().custom_metadata_map
        self.takes_pictures = self.session.get_inputs()[0].name == "pictures"
        self.mean, self.std = mean, std

    def score(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        """Return logits, float32 (N, C), of uint8 (N, 3, H, W)."""
        batches, batch_size = [], 1 if self.alone else batch_size
        for start in range(0, len(images), batch_size):
            given = self._given(np.asarray(images[start : start + batch_size]))
            batches.append(np.asarray(self.session.run(["logits"], given)[0], np.float32))
        return np.concatenate(batches)

    def _given(self, images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        if self.takes_pictures:
            return {"pictures": np.ascontiguousarray(images.transpose(0, 2, 3, 1))}
        return {"pixel_values": normalise(images, self.mean, self.std)}


def _refuse_outside(path: Path) -> None:
    """Refuse a model that names other files: onnxruntime would open them, wherever they are."""
    try:
        found = next(outside_weights(path), None)
    except (OSError, ValueError) as error:
        raise VitloraError(f"{path} is no ONNX model: {printable(str(error))}") from None
    if found:
        name, place = map(printable, found)
        raise VitloraError(
            f"{path}: the weights {name} lie in {place or 'another file'}; the rule: all inside the model"
        )


def normalise(images: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """Scale pixels to 0..1 and standardise each channel, in the order of torchvision's ToTensor and Normalize.

    Args:
        images: uint8 (N, 3, H, W).
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.

    Returns:
        float32 (N, 3, H, W).
    """
    centre, spread = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (mean, std))
    return (images.astype(np.float32) / np.float32(255) - centre) / spread
