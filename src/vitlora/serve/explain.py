"""What the model looked at, by occlusion: a part is made grey, and the class loses as much as the part told."""

import asyncio
import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.predict.pictures import Square
from vitlora.serve.models import Served
from vitlora.serve.scorer import Scorer

CELLS = 7
TURN = 16  # squares asked for at one time, so that other requests have theirs in between
LEAST = 1e-6  # probability; less is taken for so much, or its logarithm would tell of nothing but rounding


@dataclass(frozen=True)
class Heat:
    """A heat map.

    Attributes:
        label: The class that it is of, by number.
        share: Its probability in the whole picture.
        values: float32 (cells, cells), rows from the top: by how much the logarithm of that probability falls when the
            cell and half of each neighbour are grey. Negative where the class gains.
    """

    label: int
    share: float
    values: NDArray[np.float32]


def as_png(square: Square) -> str:
    """Return a square, uint8 (3, size, size), as a PNG in a data address."""
    buffer = io.BytesIO()
    Image.fromarray(square.transpose(1, 2, 0)).save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


async def heat(scorer: Scorer, model: Served, square: Square, label: int | None, cells: int = CELLS) -> Heat:
    """Ask the model of a square with each of its parts in grey.

    Args:
        scorer: The queue before the model.
        model: Which one.
        square: uint8 (3, size, size).
        label: The class; None for the likeliest.
        cells: Of a row and of a column.

    Source:
        Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, 2014, section 4.2.
    """
    whole = await scorer.score(model, square)
    label = int(whole.argmax()) if label is None else label
    hidden = await asyncio.to_thread(occluded, square, model.image_mean, cells)
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(hidden), TURN):
        rows += await asyncio.gather(*(scorer.score(model, each) for each in hidden[start : start + TURN]))
    shares = np.maximum(np.stack(rows)[:, label], LEAST)
    fallen = np.log(max(float(whole[label]), LEAST)) - np.log(shares)
    return Heat(label, float(whole[label]), fallen.reshape(cells, cells).astype(np.float32))


def occluded(square: Square, mean: list[float], cells: int) -> NDArray[np.uint8]:
    """Return the square once for each cell, row by row, with that cell and half of each neighbour in grey.

    Args:
        square: uint8 (3, size, size).
        mean: The model's own, per channel, 0 to 1: after normalisation such a part is zero.
        cells: Of a row and of a column.

    Returns:
        uint8 (cells * cells, 3, size, size).
    """
    size = square.shape[-1]
    grey = np.round(np.array(mean) * 255).astype(np.uint8)[:, None, None]
    edges = [
        (max(0, round((at - 0.5) * size / cells)), min(size, round((at + 1.5) * size / cells))) for at in range(cells)
    ]
    copies = np.repeat(square[None], cells * cells, axis=0)
    for number, copy in enumerate(copies):
        (top, bottom), (left, right) = edges[number // cells], edges[number % cells]
        copy[:, top:bottom, left:right] = grey
    return copies
