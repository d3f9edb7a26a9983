"""How accuracy changes under what pictures meet outside: blur, noise, other light, JPEG, another crop, a tilt.

The stored test squares are altered, so a strength means the same for every picture. Lengths are given in px of a
square of 224 px, so that a square of 42 px shows the same blur of the same scene.

Source:
    The idea of common corruptions at several strengths: Hendrycks and Dietterich, "Benchmarking Neural Network
    Robustness to Common Corruptions and Perturbations", ICLR 2019 (ImageNet-C). Kinds and strengths are our own.
"""

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from vitlora.compare.paired import bonett_price
from vitlora.evaluate.intervals import wilson
from vitlora.storage.squares import Squares

BATCH = 64
FULL = 224  # px, the square that lengths are given for
CORNER = (math.sqrt(2) - 1) / 2  # of the side: how far a square's corners reach beyond it when it turns
Random = np.random.Generator
Ints = NDArray[np.int64]


class Classifier(Protocol):
    """What scores uint8 (N, 3, H, W) and returns logits, float32 (N, C)."""

    def score(self, images: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
        """Return logits."""


@dataclass(frozen=True)
class Shift:
    """One kind of change: its name, its strengths from weak to strong, how one is shown, and what makes it."""

    name: str
    strengths: tuple[float, float, float]
    shown: str
    apply: Callable[[Image.Image, float, Random], Image.Image]

    def label(self, strength: float) -> str:
        """Return a strength in words."""
        return self.shown.format(strength)


@dataclass(frozen=True)
class Condition:
    """What the model answers under one condition.

    Attributes:
        shift: Name of the kind; `clean` for the squares as they are.
        strength: 0 for clean.
        shown: The strength in words.
        predicted: int64 (N,), labels.
    """

    shift: str
    strength: float
    shown: str
    predicted: Ints


def blur(image: Image.Image, sigma: float, _: Random) -> Image.Image:
    """Blur as a lens out of focus does, here by a Gaussian; sigma in px of 224."""
    return image.filter(ImageFilter.GaussianBlur(sigma * image.width / FULL))


def noise(image: Image.Image, sigma: float, random: Random) -> Image.Image:
    """Add Gaussian noise to every value, as a sensor in the dark does; sigma in levels of 255."""
    values = np.asarray(image, np.float32)
    values = values + sigma * random.standard_normal(values.shape, np.float32)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def expose(image: Image.Image, stops: float, _: Random) -> Image.Image:
    """Multiply the light by 2 to the power of ``stops``, and cut what becomes brighter than white."""
    levels = np.arange(256) / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4) * 2.0**stops
    shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return image.point([round(255 * min(level, 1.0)) for level in shown.tolist()] * 3)


def contrast(image: Image.Image, percent: float, _: Random) -> Image.Image:
    """Keep so many percent of each value's distance from the picture's mean grey, as fog does."""
    return ImageEnhance.Contrast(image).enhance(percent / 100)


def jpeg(image: Image.Image, quality: float, _: Random) -> Image.Image:
    """Store and read as JPEG of this quality, by libjpeg's scale, with colours at half the resolution."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(quality), subsampling="4:2:0")
    return Image.open(buffer).convert("RGB")


def zoom(image: Image.Image, percent: float, _: Random) -> Image.Image:
    """Show only the middle, so many percent of each side, at the size of the whole."""
    side = image.width
    edge = side * (1 - percent / 100) / 2
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(edge, edge, side - edge, side - edge))


def rotate(image: Image.Image, degrees: float, random: Random) -> Image.Image:
    """Turn to the left or to the right; what comes in at the corners is the picture mirrored at its edges."""
    margin = math.ceil(CORNER * image.width) + 1
    wide = np.pad(np.asarray(image), ((margin, margin), (margin, margin), (0, 0)), mode="symmetric")
    turned = Image.fromarray(wide).rotate(degrees * (1 - 2 * int(random.integers(2))), Image.Resampling.BICUBIC)
    return turned.crop((margin, margin, margin + image.width, margin + image.height))


SHIFTS = (
    Shift("blur", (2, 4, 6), "sigma {:g} px of 224", blur),
    Shift("noise", (10, 25, 50), "sigma {:g} of 255", noise),
    Shift("darker", (-1, -2, -3), "{:g} stops of light", expose),
    Shift("brighter", (0.5, 1, 1.5), "+{:g} stops of light", expose),
    Shift("contrast", (75, 50, 25), "{:g} % of it left", contrast),
    Shift("jpeg", (50, 25, 10), "quality {:g}", jpeg),
    Shift("zoom", (90, 75, 60), "middle {:g} % of a side", zoom),
    Shift("rotation", (5, 15, 30), "{:g} degrees", rotate),
)


def alter(square: NDArray[np.uint8], digest: str, shift: Shift, strength: float, seed: int) -> NDArray[np.uint8]:
    """Change one square; the result follows from these arguments alone.

    Args:
        square: uint8 (3, H, W), RGB.
        digest: SHA-256 of the picture's file, which chance is drawn from.
        shift: The kind of change.
        strength: In the kind's unit.
        seed: Another one draws other noise and other turns.

    Returns:
        uint8 (3, H, W).
    """
    drawn = hashlib.sha256(f"{seed}/{digest}/{shift.name}/{strength:g}".encode()).digest()
    image = Image.fromarray(np.ascontiguousarray(square.transpose(1, 2, 0)))
    changed = shift.apply(image, strength, np.random.default_rng(int.from_bytes(drawn)))
    return np.ascontiguousarray(np.asarray(changed).transpose(2, 0, 1))


def evenly_spaced(count: int, most: int) -> list[int]:
    """Return at most ``most`` of ``count`` rows, ascending, spaced evenly: neighbours are often of one class."""
    return [int(row) for row in np.unique(np.linspace(0, count - 1, min(most, count)).round())]


def conditions(
    classifier: Classifier, squares: Squares, seed: int, done: Callable[[int], object]
) -> Iterator[Condition]:
    """Score squares as they are, then under every shift at every strength.

    Args:
        classifier: The model.
        squares: uint8 (N, 3, H, W), with the digests of their files.
        seed: See ``alter``.
        done: Is told after every batch how many squares it had.

    Yields:
        The clean run first; then kind after kind, each from weak to strong.
    """
    yield Condition("clean", 0, "", _predict(classifier, squares, None, 0, seed, done))
    for shift in SHIFTS:
        for strength in shift.strengths:
            predicted = _predict(classifier, squares, shift, strength, seed, done)
            yield Condition(shift.name, strength, shift.label(strength), predicted)


def _predict(
    classifier: Classifier,
    squares: Squares,
    shift: Shift | None,
    strength: float,
    seed: int,
    done: Callable[[int], object],
) -> Ints:
    labels: list[Ints] = []
    for start in range(0, len(squares.labels), BATCH):
        batch = np.asarray(squares.images[start : start + BATCH])
        if shift:
            digests = squares.digests[start : start + BATCH]
            pairs = zip(batch, digests, strict=True)
            batch = np.stack([alter(square, digest, shift, strength, seed) for square, digest in pairs])
        labels.append(classifier.score(batch, BATCH).argmax(axis=1).astype(np.int64))
        done(len(batch))
    return np.concatenate(labels)


def summarise(found: Sequence[Condition], labels: Ints) -> list[dict[str, object]]:
    """Compare each condition with the clean run on the same pictures.

    Args:
        found: The clean run first.
        labels: int64 (N,), the truth.

    Returns:
        A mapping a condition: its accuracy with a 95 % Wilson interval; its difference from the clean accuracy with a
        95 % Bonett-Price interval (None for the clean run itself); how many pictures only the clean run got right
        (``broken``), and how many only this one (``fixed``).
    """
    right = [one.predicted == labels for one in found]
    return [_row(one, now, right[0]) for one, now in zip(found, right, strict=True)]


def _row(one: Condition, now: NDArray[np.bool_], clean: NDArray[np.bool_]) -> dict[str, object]:
    count = len(now)
    broken, fixed = int((clean & ~now).sum()), int((now & ~clean).sum())
    low, high = map(float, wilson(now.sum(), count))
    row: dict[str, object] = {
        "shift": one.shift,
        "strength": one.strength,
        "shown": one.shown,
        "accuracy": round(float(now.mean()), 6),
        "low": round(low, 6),
        "high": round(high, 6),
        "broken": broken,
        "fixed": fixed,
    }
    change = [round(float(each), 6) for each in ((fixed - broken) / count, *bonett_price(broken, fixed, count))]
    named = zip(("difference", "difference_low", "difference_high"), change, strict=True)
    return row | {name: None if one.shift == "clean" else value for name, value in named}
