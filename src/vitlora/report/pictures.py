"""Small pictures for the page, out of what preprocess prepared: looked up by digest, or by path."""

import base64
import io
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.images.pixels import crop_and_resize, decode
from vitlora.storage.packed import INDEX, Packed
from vitlora.storage.squares import Squares, load_split
from vitlora.train.augment import draw_crops
from vitlora.train.params import Augment

PREPARED = Path("data/prepared")
SIDE = 160  # px, of a picture on the page at most
QUALITY = 78
DIGITS = 16  # of a picture's SHA-256
HOT = np.array([[120, 20, 130], [215, 50, 80], [250, 140, 20], [255, 245, 130]], np.float64)  # violet to yellow
GREY = (128, 128, 128)  # stands for the base's mean colour, which the base may not be here to tell
VEIL = 0.85  # of the hottest cell, 1 would hide the picture


class Pictures:
    """The pictures of the three splits, as far as they are here.

    Args:
        folder: Of the three splits.
    """

    def __init__(self, folder: Path = PREPARED) -> None:
        self.folder = folder

    @cached_property
    def squares(self) -> list[Squares]:
        """Test and val, those that are here."""
        places = (self.folder / name for name in ("test", "val"))
        return [load_split(place) for place in places if (place / "images.npy").is_file()]

    @cached_property
    def train(self) -> Packed | None:
        """The training pictures as they were given, if they are here."""
        return Packed(self.folder / "train") if (self.folder / "train" / INDEX).is_file() else None

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Split and row by digest and by path; a picture that is in two splits is the same one."""
        found: dict[str, tuple[int, int]] = {}
        for number, split in enumerate(self.squares):
            for row, (path, digest) in enumerate(zip(split.paths, split.digests, strict=True)):
                found.setdefault(path, (number, row))
                found.setdefault(digest[:DIGITS], (number, row))
        return found

    @cached_property
    def _train_rows(self) -> dict[str, int]:
        paths = self.train.texts("path") if self.train else ()
        return {path: place for place, path in enumerate(paths)}

    def square(self, path: str, digest: str = "") -> NDArray[np.uint8] | None:
        """Return a test or val picture as the model sees it, uint8 (3, H, H); None if it is not here."""
        place = self._places.get(digest or path)
        return None if place is None else np.asarray(self.squares[place[0]].images[place[1]])

    def show(self, path: str, digest: str = "") -> str | None:
        """Return a picture of any split as an address that holds it; None if it is not here."""
        square = self.square(path, digest)
        if square is not None:
            return address(Image.fromarray(square.transpose(1, 2, 0)))
        row = self._train_rows.get(path)
        return None if row is None else self.show_train(row)

    def show_train(self, row: int) -> str:
        """Return a training picture, as it was given, as an address that holds it."""
        assert self.train is not None
        return address(decode(self.train[row], checked=True))

    def show_crops(self, rows: Sequence[int], augment: Augment, seed: int, size: int, interpolation: str) -> list[str]:
        """Return training pictures as the first epoch augments them, but for mixing in pairs.

        Args:
            rows: Of the training pictures.
            augment: What the run did to them.
            seed: Of the training.
            size: Side of the model's square, px.
            interpolation: Of the squares.
        """
        assert self.train is not None
        law = augment.scale, augment.ratio, augment.horizontal_flip_p
        boxes, flips = draw_crops(seed, [(0, row) for row in rows], self.train.numbers("width", "height")[rows], *law)
        shown = []
        for at, row in enumerate(rows):
            left, top, right, bottom = boxes[at].tolist()
            picture = decode(self.train[row], checked=True)
            square = crop_and_resize(picture, (left, top, right, bottom), size, interpolation)
            square = square[:, :, ::-1] if flips[at] else square
            shown.append(address(Image.fromarray(_altered(square, augment, row, seed).transpose(1, 2, 0))))
        return shown


def _altered(square: NDArray[np.uint8], augment: Augment, row: int, seed: int) -> NDArray[np.uint8]:
    if not augment.alters:
        return np.ascontiguousarray(square)
    import torch  # takes seconds

    from vitlora.train.policies import alter

    changed = alter(torch.from_numpy(square.copy()), augment, GREY, row, seed, 0)
    return np.asarray(changed.numpy())


def address(image: Image.Image) -> str:
    """Return a small JPEG of an image as an address that holds it."""
    small, buffer = image.copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE))
    small.save(buffer, format="JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def heat_address(heat: NDArray[np.float32]) -> str:
    """Return a heat map as a veil to lay over its picture: the hotter, the brighter and the denser.

    Args:
        heat: float32 (rows, columns), 0 to 1. The page enlarges it.
    """
    place = np.clip(heat.astype(np.float64), 0, 1) * (len(HOT) - 1)
    low = np.minimum(place.astype(np.int64), len(HOT) - 2)
    share = (place - low)[..., None]
    colour = HOT[low] * (1 - share) + HOT[low + 1] * share
    alpha = 255 * VEIL * np.clip(heat, 0, 1)[..., None]
    buffer = io.BytesIO()
    pixels = np.concatenate([colour, alpha], axis=-1).round().astype(np.uint8)
    Image.fromarray(pixels, "RGBA").save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
