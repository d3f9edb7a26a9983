"""Logits of a whole split with any image classifier."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitlora.model.base import Normalisation
from vitlora.model.batches import feed_squares
from vitlora.model.fused.choose import DTYPES, try_to_fuse
from vitlora.model.params import Precision
from vitlora.storage.squares import Squares


def device_precision(wanted: Precision) -> Precision:
    """Return what the device at hand scores in: half precision needs a GPU."""
    return wanted if torch.cuda.is_available() else "fp32"


@torch.inference_mode()
def score(
    model: Any,
    squares: Squares,
    normalisation: Normalisation,
    batch_size: int,
    kind: Precision = "fp32",
    view: Callable[[Tensor], Tensor] | None = None,
    batches: range | None = None,
) -> NDArray[np.float32]:
    """Run a classifier over a split in order, on the device it stands on.

    Args:
        model: A transformers image classifier without adapters, in float32 and eval mode. In half precision its passes
            are fused in place where they can be; compiling would cost more than it saves on one pass.
        squares: uint8 (N, 3, H, W).
        normalisation: Of the base model.
        batch_size: Images at once.
        kind: `fp32`, or a half precision on a GPU.
        view: What is done to the pixels of a batch before the model gets them, uint8 (B, 3, H, W) to the same.
        batches: Numbers of those that are scored; None: all.

    Returns:
        logits, float32 (N, C).
    """
    torch.backends.cudnn.allow_tf32 = False  # its 10-bit products would move logits by 1e-2
    device = next(model.parameters()).device
    size = squares.images.shape[-1]
    fused = kind != "fp32" and not try_to_fuse(model, kind, normalisation, size)
    logits = [torch.zeros(0, model.config.num_labels, device=device)]  # of no batch
    with torch.autocast(device.type, DTYPES.get(kind), enabled=kind != "fp32"):
        for batch in feed_squares(squares, batch_size, device, batches):
            images = view(batch["pixel_values"]) if view else batch["pixel_values"]
            logits.append(model(pixel_values=images if fused else normalisation(images)).logits)
    return torch.cat([part.float() for part in logits]).cpu().numpy()
