"""The operations of RandAugment, TrivialAugment and AugMix on a uint8 picture: torchvision's pixels to the bit.

Most are its own functions. Those that take it the longest, though a table or a copy does, are done so.
"""

from functools import lru_cache
from math import cos, radians, sin
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional

BYTES = np.arange(256)
GRIDS = 32  # of 0.4 MB for 224 px; AugMix needs 15 and RandAugment 6, TrivialAugment's hundreds are made when drawn


def operate(image: Tensor, name: str, magnitude: float, interpolation: str) -> Tensor:
    """Do one operation, torchvision's pixels to the bit.

    Args:
        image: uint8 (3, H, H).
        name: Of the operation.
        magnitude: As ``magnitudes`` gives it, with its sign.
        interpolation: `nearest` or `bilinear`; what comes in from outside is black.
    """
    if name in ("Rotate", "ShearX", "ShearY"):
        grid = _grid(name, magnitude, image.shape[-1])
        return to_bytes(grid_sample(image[None].float(), grid, interpolation, align_corners=False)[0].round_())
    if name in ("TranslateX", "TranslateY"):
        return _shifted(image, int(magnitude), -1 if name == "TranslateX" else -2)
    changed: Tensor = _coloured(image, name, magnitude)
    return changed


def to_bytes(pixels: Tensor) -> Tensor:
    """Cut fractions off: numbers from 0 to 255 as uint8, for which torch takes nine times as long as NumPy."""
    return torch.from_numpy(pixels.numpy().astype(np.uint8))


@lru_cache(GRIDS)
def _grid(name: str, magnitude: float, size: int) -> Tensor:
    """Return where each pixel comes from: torchvision's numbers, which take it twice the time of looking there.

    Rotations are around the middle, in degrees; shears keep the first row, or column, where it is.

    Returns:
        float32 (1, size, size, 2), x and y as ``grid_sample`` counts them.
    """
    half = size / 2
    if name == "Rotate":
        turn = radians(-magnitude)
        rows = [[cos(turn), sin(turn), 0.0], [-sin(turn), cos(turn), 0.0]]
    else:
        moved, kept = [1.0, magnitude, magnitude * half], [0.0, 1.0, 0.0]
        rows = [moved, kept] if name == "ShearX" else [[1.0, 0.0, 0.0], [magnitude, 1.0, magnitude * half]]
    places = torch.linspace(0.5 - half, half - 0.5, size)
    y, x = torch.meshgrid(places, places, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, size * size, 3)
    return (points @ (torch.tensor([rows]).transpose(1, 2) / half)).view(1, size, size, 2)


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
