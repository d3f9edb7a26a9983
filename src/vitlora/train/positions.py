"""Position embeddings that a base resamples to the picture's size in every step, such as DINOv2: by one product."""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

RESAMPLE = "Dinov2Embeddings", "Dinov2WithRegistersEmbeddings"  # what others resample, they do when they are loaded


def resample_by_products(model: Any, image_size: int) -> None:
    """Let a model on a GPU multiply its position embeddings by a matrix, where torch would resample their grid.

    Torch's bicubic takes a tenth of an eager step of ViT-S with 32 images, and its backward pass adds gradients up in
    another order each time, which ``train.full_determinism`` refuses. On a CPU all stays as it is.

    Args:
        model: An image classifier or a PEFT model of one, on its device.
        image_size: px; pictures of other sizes are resampled as before.
    """
    for module in (module for module in model.modules() if type(module).__name__ in RESAMPLE):
        law = resampling(module, image_size)
        if law is not None:
            module.resampling = image_size, law
            module.interpolate_pos_encoding = MethodType(_resampled, module)


def resampling(module: Any, image_size: int) -> Tensor | None:
    """Return by which shares of the trained positions a base makes those of a picture; None where it takes them all.

    Args:
        module: Embeddings of DINOv2, whose result is linear in ``position_embeddings``, (1, P, D).
        image_size: px.

    Returns:
        float32 (N, P), N one more than the picture has patches, on the module's device.
    """
    own = module.position_embeddings
    sides = module.patch_embeddings.patch_size
    places = 1 + (image_size // sides[0]) * (image_size // sides[1])
    if places == own.shape[1]:
        return None
    units = torch.eye(own.shape[1], device=own.device)[None]
    module.position_embeddings = nn.Parameter(units, requires_grad=False)
    try:
        with torch.no_grad():
            picture = units.new_empty(1, places, units.shape[-1])
            found: Tensor = module.interpolate_pos_encoding(picture, image_size, image_size)
    finally:
        module.position_embeddings = own
    return found[0]


def _resampled(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    size, law = self.resampling
    own = self.position_embeddings
    if own.device != law.device or (height, width) != (size, size):
        there: Tensor = type(self).interpolate_pos_encoding(self, embeddings, height, width)
        return there
    with torch.autocast(law.device.type, enabled=False):
        found: Tensor = (law @ own[0].float()).to(own.dtype)[None]
        return found
