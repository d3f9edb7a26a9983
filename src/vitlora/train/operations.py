"""The operations of RandAugment, TrivialAugment and AugMix on a uint8 picture: torchvision's pixels to the bit.

Most are its own functions. Those that take it the longest, though a table or a copy does, are done so.
"""

from functools import lru_cache
from math import ceil, cos, radians, sin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms.v2 import functional

SIGNED = frozenset(  # operations that go both ways, and do nothing at 0
    ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness")
)
GRIDS = 32  # of 0.4 MB for 224 px; AugMix needs 15 and RandAugment 6, TrivialAugment's hundreds are made when drawn


def operate(image: Tensor, name: str, magnitude: float, interpolation: str) -> Tensor:
    """Do one operation, torchvision's pixels to the bit.

    Args:
        image: uint8 (3, H, H).
        name: Of the operation.
        magnitude: As ``magnitudes`` gives it, with its sign.
        interpolation: `nearest` or `bilinear`; what comes in from outside is black.
    """
    if magnitude == 0.0 and name in SIGNED:
        return image
    if name in ("Rotate", "ShearX", "ShearY"):
        grid = _grid(name, magnitude, image.shape[-1])
        return to_bytes(grid_sample(image[None].float(), grid, interpolation, align_corners=False)[0].round_())
    if name in ("TranslateX", "TranslateY"):
        return _shifted(image, int(magnitude), -1 if name == "TranslateX" else -2)
    if name in SIGNED:
        return adjusted(image, name, 1.0 + magnitude)
    return _recoded(image, name, magnitude)


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


def adjusted(image: Tensor, name: str, factor: float) -> Tensor:
    """Change one of a picture's qualities, torchvision's pixels to the bit.

    Args:
        image: uint8 (3, H, H).
        name: `Brightness`, `Contrast`, `Color` or `Sharpness`.
        factor: 1 changes nothing.
    """
    match name:
        case "Brightness":
            return to_bytes(image.mul(factor).clamp_(0, 255))
        case "Contrast":
            return _blended(image, _grey(image).mean(), factor)
        case "Color":
            return _blended(image, _grey(image), factor)
    assert name == "Sharpness", name
    return _sharpened(image, factor)


def _recoded(image: Tensor, name: str, magnitude: float) -> Tensor:
    match name:
        case "Posterize":
            posterized: Tensor = functional.posterize(image, int(magnitude))
            return posterized
        case "Solarize":
            least = ceil(np.float32(255 * magnitude))  # as torch compares: 187.000004 is 187
            turned = (image.numpy() >= least).view(np.uint8)
            np.negative(turned, out=turned)  # 255 where a byte is turned, which is 255 less itself, or all its bits
            return torch.from_numpy(np.bitwise_xor(image.numpy(), turned, out=turned))
        case "AutoContrast":
            return _stretched(image)
        case "Equalize":
            return _looked_up(image, _equalising(image))
    assert name == "Identity", name
    return image


def _looked_up(image: Tensor, tables: NDArray[np.uint8]) -> Tensor:
    """Replace each byte by its entry of its channel's table, (3, 256); NumPy takes twice the time."""
    found = torch.empty_like(image)
    for to, pixels, table in zip(found.numpy(), image.numpy(), tables, strict=True):
        to[:] = np.frombuffer(pixels.tobytes().translate(table.tobytes()), np.uint8).reshape(to.shape)
    return found


def _grey(image: Tensor) -> Tensor:
    """Return the brightness that torchvision's colour operations go by, float32 (1, H, H) of whole numbers."""
    red, green, blue = image.unsqueeze(1)
    grey: Tensor = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()
    return grey


def _blended(image: Tensor, other: Tensor, share: float) -> Tensor:
    """Return bytes of a picture's share and the rest of another, which for shares above 1 is taken away."""
    return to_bytes(image.mul(share).add_(other, alpha=1.0 - share).clamp_(0, 255))


def _sharpened(image: Tensor, factor: float) -> Tensor:
    """Move pixels away from the mean of their neighbourhood, itself five times and the eight around it, or to it.

    Source:
        torchvision.transforms.v2.functional.adjust_sharpness_image, whose convolution takes three times as long. A mean
        is rounded alike, as the nearest that a sum of bytes over 13 comes to a half is 1/26.
    """
    bytes_ = image.numpy().astype(np.uint16)
    rows = bytes_[:, :-2] + bytes_[:, 1:-1] + bytes_[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * bytes_[:, 1:-1, 1:-1]
    means = torch.from_numpy(sums.astype(np.float32)).mul_(1 / 13).round_()
    output = image.float()
    inner = output[:, 1:-1, 1:-1]
    inner.add_(means.sub_(inner), alpha=1.0 - factor)
    return to_bytes(output.clamp_(0, 255))


def _stretched(image: Tensor) -> Tensor:
    """Stretch each channel to all bytes; one of a single byte stays.

    Source:
        torchvision.transforms.v2.functional.autocontrast_image, which looks for the bounds among floats.
    """
    rows = image.numpy().reshape(3, -1)
    least, most = rows.min(1).astype(np.float32), rows.max(1).astype(np.float32)
    flat = least == most
    bounds = np.where(flat, 0, least), np.where(flat, 1, (most - least) * np.float32(1 / 255))
    start, step = (torch.from_numpy(bound.astype(np.float32)).view(3, 1, 1) for bound in bounds)
    return to_bytes(image.float().sub_(start).div_(step).clamp_(0, 255))


def _equalising(image: Tensor) -> NDArray[np.uint8]:
    """Return the tables that equalise each channel, (3, 256): torchvision's and Pillow's, the counts by a faster way.

    Source:
        torchvision.transforms.v2.functional.equalize_image.
    """
    counts = np.stack([torch.bincount(channel.flatten(), minlength=256).numpy() for channel in image])
    last = 255 - (counts[:, ::-1] > 0).argmax(1)
    step = (image[0].numel() - counts[range(3), last])[:, None] // 255
    tables = np.minimum((counts.cumsum(1) - counts + step // 2) // np.maximum(step, 1), 255)
    return np.where(step > 0, tables, np.arange(256)).astype(np.uint8)
