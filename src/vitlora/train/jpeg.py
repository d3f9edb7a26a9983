"""Training pictures fast: a JPEG is decoded no further down than its crop reaches, and torch scales the crop."""

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from vitlora.images.pixels import Box

FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive
MARGIN = 8  # rows below the crop that smooth its last rows' colours; 2 would do


def decode_rows(data: bytes, rows: int) -> NDArray[np.uint8] | None:
    """Decode a plain JPEG's first rows, the same pixels as Pillow's.

    The decoder is told a smaller height and stops there: a tenth of the time over random crops.

    Args:
        data: The whole file, checked before: damage in it may go unnoticed here.
        rows: Rows needed from the top; a few more may come.

    Returns:
        uint8 (at least rows, W, 3), RGB; None where the file is beyond this decoder.
    """
    try:
        # Not strict, since the file goes on after the last row that its header now names.
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(_lower(data, rows + MARGIN), strict=False)
    except ValueError:
        return None
    return pixels


def _lower(data: bytes, height: int) -> bytes | bytearray:
    """Return the file with a smaller height in its header, or as it is where it is no higher or the header is odd."""
    at = 2
    while data[at : at + 1] == b"\xff":
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if kind in FRAMES:
            if int.from_bytes(data[at + 5 : at + 7]) <= height:
                return data
            return bytearray().join((data[: at + 5], height.to_bytes(2), data[at + 7 :]))
        at += 2 + length
    return data


def scale_crop(pixels: NDArray[np.uint8], box: Box, size: int, interpolation: str) -> Tensor:
    """Cut a box and scale it to a square: ``crop_and_resize`` but for a level here and there, in a fifth of the time.

    Both antialias in fixed point, torch with 16-bit weights; torch scales the width first, Pillow 13 the height where
    that is less work. In random crops of 2,000 photographs 2 % of the values are off by one. At hard edges, clipped
    between the passes, a few are off by more: 4e-8 with bilinear, by 2 at most; 3e-5 with bicubic, by 12 at most.

    Args:
        pixels: uint8 (H, W, 3), RGB, writable.
        box: Left, top, right, bottom in px, inside the picture.
        size: Side of the square, px.
        interpolation: `bilinear` or `bicubic`.

    Returns:
        uint8 (3, size, size), RGB, channels last in memory, which this layout of the view makes torch keep.
    """
    left, top, right, bottom = box
    crop = torch.from_numpy(pixels)[None, top:bottom, left:right].permute(0, 3, 1, 2)
    return interpolate(crop, (size, size), mode=interpolation, align_corners=False, antialias=True)[0]
