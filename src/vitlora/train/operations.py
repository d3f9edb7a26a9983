"""The operations of RandAugment, TrivialAugment and AugMix on a uint8 picture: torchvision's pixels to the bit.

Most are its own functions. Those that take it the longest, though a table or a copy does, are done so.
"""

from math import atan, degrees
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

BYTES = np.arange(256)


def operate(image: Tensor, name: str, magnitude: float, interpolation: str) -> Tensor:
    """Do one operation, torchvision's pixels to the bit.

    Args:
        image: uint8 (3, H, H).
        name: Of the operation.
        magnitude: As ``magnitudes`` gives it, with its sign.
        interpolation: `nearest` or `bilinear`; what comes in from outside is black.
    """
    changed: Tensor = _moved(image, name, magnitude, functional.InterpolationMode(interpolation))
    return changed


def _moved(image: Tensor, name: str, magnitude: float, mode: Any) -> Any:
    if name == "Rotate":
        return functional.rotate(image, magnitude, mode)
    if name in ("ShearX", "ShearY"):
        angle = degrees(atan(magnitude))
        shear = [angle, 0.0] if name == "ShearX" else [0.0, angle]
        return functional.affine(image, 0.0, [0, 0], 1.0, shear, mode, center=[0.0, 0.0])
    if name in ("TranslateX", "TranslateY"):
        return _shifted(image, int(magnitude), -1 if name == "TranslateX" else -2)
    return _coloured(image, name, magnitude)


def _shifted(image: Tensor, by: int, side: int) -> Tensor:
    """Move a picture by whole pixels: torchvision's affine at a fiftieth of its time."""
    by = max(-image.shape[side], min(image.shape[side], by))
    shifted, stays = torch.zeros_like(image), image.shape[side] - abs(by)
    shifted.narrow(side, max(0, by), stays).copy_(image.narrow(side, max(0, -by), stays))
    return shifted


def _coloured(image: Tensor, name: str, magnitude: float) -> Any:
    match name:
        case "Brightness":
            return functional.adjust_brightness(image, 1.0 + magnitude)
        case "Color":
            return functional.adjust_saturation(image, 1.0 + magnitude)
        case "Contrast":
            return functional.adjust_contrast(image, 1.0 + magnitude)
        case "Sharpness":
            return functional.adjust_sharpness(image, 1.0 + magnitude)
        case "Posterize":
            return functional.posterize(image, int(magnitude))
        case "Solarize":
            least = np.float32(255 * magnitude)  # as torch compares: 187.000004 is 187
            return _looked_up(image, np.where(least <= BYTES, 255 - BYTES, BYTES))
        case "AutoContrast":
            return functional.autocontrast(image)
        case "Equalize":
            return torch.stack([_looked_up(channel, _equalising(channel)) for channel in image])
    assert name == "Identity", name
    return image


def _looked_up(pixels: Tensor, table: NDArray[Any]) -> Tensor:
    """Replace each byte by its entry of a table, (256,)."""
    return torch.from_numpy(np.take(table.astype(np.uint8), pixels.numpy()))


def _equalising(channel: Tensor) -> NDArray[Any]:
    """Return the table that equalises a channel: torchvision's and Pillow's, the counts by a faster way.

    Source:
        torchvision.transforms.v2.functional.equalize_image.
    """
    counts = torch.bincount(channel.flatten(), minlength=256).numpy()
    step = (channel.numel() - int(counts[counts.nonzero()[0][-1]])) // 255
    table: NDArray[Any] = np.minimum((np.cumsum(counts) - counts + step // 2) // max(step, 1), 255)
    return table if step else BYTES
