"""More looks at a picture, whose logits are averaged with its own: its mirror image, its corners and theirs."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torchvision.transforms.v2 import functional

from vitlora.evaluate.params import Views

View = Callable[[Tensor], Tensor]
SHARE = 7 / 8  # of a picture's side that a corner has


def views(tta: Views) -> list[View]:
    """Return what else is looked at, beside the picture as it is.

    Args:
        tta: `flip` is the mirror image; `crops` torchvision's TenCrop, with the whole picture in place of its centre.

    Returns:
        Functions of uint8 (B, 3, S, S) that give the same shape and dtype.
    """
    if tta == "none":
        return []
    if tta == "flip":
        return [functional.horizontal_flip]
    corners: list[View] = [partial(corner, low=low, right=right) for low in (False, True) for right in (False, True)]
    return [functional.horizontal_flip, *corners, *(partial(_mirrored, view) for view in corners)]


def corner(pixels: Tensor, low: bool, right: bool) -> Tensor:
    """Enlarge a corner of seven eighths of the side to the whole side, with torchvision's antialiased bilinear filter.

    Args:
        pixels: uint8 (B, 3, S, S).
        low: The lower corners, else the upper ones.
        right: The right one, else the left.
    """
    size = pixels.shape[-1]
    side = max(1, round(SHARE * size))
    top, left = ((size - side) * far for far in (low, right))
    found: Tensor = functional.resized_crop(pixels, top, left, side, side, [size, size], antialias=True)
    return found


def _mirrored(view: View, pixels: Tensor) -> Tensor:
    turned: Tensor = functional.horizontal_flip(view(pixels))
    return turned
