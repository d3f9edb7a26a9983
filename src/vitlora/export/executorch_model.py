"""ExecuTorch's form of the model, for phones and small devices."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vitlora.export.onnx_model import Logits
from vitlora.export.onnx_runtime import normalise

MOST = 32  # images at once; memory is planned for them


def write_executorch(model: Any, temperature: float, image_size: int, path: Path) -> None:
    """Write model.pte, ``pixel_values`` float32 (1 to 32, 3, size, size) to logits (N, C), for XNNPACK.

    It takes a minute or more.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    example = torch.zeros(2, 3, image_size, image_size)
    batch = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=MOST)}}
    program = torch.export.export(Logits(model, temperature).eval(), (example,), dynamic_shapes=batch)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


class ExecutorchClassifier:
    """A classifier of uint8 squares, on the CPU.

    Args:
        path: model.pte.
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.
    """

    def __init__(self, path: Path, mean: list[float], std: list[float]) -> None:
        from executorch.runtime import Runtime

        self.program = Runtime.get().load_program(path)  # which the method below lives in
        self.method = self.program.load_method("forward")
        self.mean, self.std = mean, std

    def score(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        """Return logits, float32 (N, C), of uint8 (N, 3, H, W)."""
        batches = []
        for start in range(0, len(images), step := min(batch_size, MOST)):
            pixels = normalise(np.asarray(images[start : start + step]), self.mean, self.std)
            batches.append(self.method.execute([torch.from_numpy(pixels)])[0].numpy().copy())
        return np.concatenate(batches)
