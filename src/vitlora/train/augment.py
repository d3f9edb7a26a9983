"""Random crops, flips, order and all else that is drawn, as a pure function of (seed, epoch, image index).

Nothing is drawn from a generator that anyone else uses, so results do not depend on workers, prefetching or resuming.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

TRIES = 10
DRAWS = 4 * TRIES + 1
_CROPS, _ORDER = 0, 1
POLICY, JITTER, ERASING = 2, 3, 4  # streams of ``uniforms_of``
_MIXING = 5
ERASED, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # share of the area; width over height, either way round


def uniforms(seed: int, epoch: int, stream: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draw uniform numbers in [0, 1) from the Philox counter generator, keyed, never seeded from outside.

    The raw 64-bit words are used, whose values NumPy promises to keep for ever; row i does not depend on the number of
    rows.
    """
    return _fractions(np.random.Philox(key=_key(seed, epoch, stream)).random_raw(math.prod(shape))).reshape(shape)


def uniforms_of(row: int, seed: int, epoch: int, stream: int, count: int) -> NDArray[np.float64]:
    """Draw ``count`` such numbers for one image, by its row: as many for each as it takes, and none for the others."""
    return _fractions(np.random.Philox(key=_key(seed, epoch, stream), counter=[0, row, 0, 0]).random_raw(count))


def _key(seed: int, epoch: int, stream: int) -> list[int]:
    """Return a key that no other (seed, epoch, stream) has; seeds are below 2^32."""
    return [seed + (stream // 2 << 32), 2 * epoch + stream % 2]


def _fractions(words: int | NDArray[np.uint64]) -> NDArray[np.float64]:
    return np.asarray((np.asarray(words) >> np.uint64(11)) * 2.0**-53, np.float64)


def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits its images: a permutation, int64 (count,)."""
    return np.argsort(uniforms(seed, epoch, _ORDER, (count,)), kind="stable").astype(np.int64)


def draw_crops(
    seed: int,
    places: Sequence[tuple[int, int]],
    sizes: NDArray[np.int64],
    scale: Sequence[float],
    ratio: Sequence[float],
    horizontal_flip_p: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw one random crop and one flip for each of some images, in time and memory for these alone.

    The law is torchvision's RandomResizedCrop: up to ten tries of an area uniform in ``scale`` and an aspect ratio
    log-uniform in ``ratio``; the first that fits is placed uniformly; if none fits, the largest centred crop within the
    ratio bounds.

    Args:
        seed: Of the run.
        places: How often an image has been shown before (where each comes once in an epoch, the epoch from 0), and its
            row; (N,) of them.
        sizes: int64 (N, 2), width and height of each, px.
        scale: Smallest and largest share of the image's area.
        ratio: Smallest and largest width over height.
        horizontal_flip_p: Probability of a left-right flip.

    Returns:
        boxes: int64 (N, 4), left, top, right, bottom, px; flips: bool (N,).

    Source:
        torchvision.transforms.RandomResizedCrop.get_params.
    """
    draws = [_words_of(row, _key(seed, visit, _CROPS)) for visit, row in places]
    return _crops(_fractions(np.array(draws, np.uint64).reshape(-1, DRAWS)), sizes, scale, ratio, horizontal_flip_p)


def _words_of(row: int, key: list[int]) -> NDArray[np.uint64]:
    """Return the words of one row, out of those that a key gives for all rows end to end."""
    counter, before = divmod(DRAWS * row, 4)  # a count of Philox gives four words
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=[counter, 0, 0, 0]).random_raw(before + DRAWS)
    return words[before:]


def _crops(
    draws: NDArray[np.float64],
    sizes: NDArray[np.int64],
    scale: Sequence[float],
    ratio: Sequence[float],
    horizontal_flip_p: float,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    tries = draws[:, 1:].reshape(-1, TRIES, 4)
    image_w, image_h = sizes[:, 0, None], sizes[:, 1, None]
    area = image_w * image_h * (scale[0] + (scale[1] - scale[0]) * tries[..., 0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = np.exp(low + (high - low) * tries[..., 1])
    width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (width > 0) & (width <= image_w) & (height > 0) & (height <= image_h)
    left = np.floor(tries[..., 2] * (image_w - width + 1)).astype(np.int64)
    top = np.floor(tries[..., 3] * (image_h - height + 1)).astype(np.int64)
    boxes = np.stack([left, top, left + width, top + height], axis=-1)
    chosen = boxes[np.arange(len(sizes)), fits.argmax(axis=1)]
    centred = np.array([_centre_crop(int(w), int(h), ratio) for w, h in sizes[~fits.any(axis=1)]], np.int64)
    chosen[~fits.any(axis=1)] = centred.reshape(-1, 4)
    return chosen, draws[:, 0] < horizontal_flip_p


def epoch_mixing(
    seed: int, epoch: int, count: int, group: int, size: int, mixup_alpha: float, cutmix_alpha: float
) -> dict[str, NDArray[Any]]:
    """Draw how the images of an epoch are mixed, group by group of its order: torchvision's MixUp or CutMix.

    A group has one law; each of its images is mixed with the one before it, the first with the last.

    Args:
        seed: Of the run.
        epoch: Counted from 0.
        count: Of the epoch's images.
        group: Images that follow one another; the epoch's last group may be smaller.
        size: Side of the squares, px.
        mixup_alpha: Of MixUp's Beta(alpha, alpha); 0 for no MixUp.
        cutmix_alpha: Of CutMix's; where both are above 0, each group gets one or the other, equally often.

    Returns:
        What stands beside each image in the epoch's order: ``partner``, int64 (N,), how many rows further the other
        image stands; ``box``, int64 (N, 4), left, top, right, bottom, px, where it comes in; ``inside``, float32 (N,),
        share of the image's own pixels there; ``label_share``, float32 (N,), of its own label.

    Source:
        torchvision.transforms.v2.MixUp and CutMix.
    """
    draws = uniforms(seed, epoch, _MIXING, (-(-count // group), 4))
    pastes = (cutmix_alpha > 0) & ((mixup_alpha == 0) | (draws[:, 0] < 0.5))
    alpha = np.where(pastes, cutmix_alpha, mixup_alpha)
    own = betaincinv(alpha, alpha, draws[:, 1])
    half = np.floor(0.5 * np.sqrt(1 - own) * size)[:, None]
    centre = np.floor(draws[:, 2:] * size)
    pasted = np.concatenate([np.maximum(centre - half, 0), np.minimum(centre + half, size)], axis=1).astype(np.int64)
    box = np.where(pastes[:, None], pasted, [0, 0, size, size])
    left_over = 1 - (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / size**2
    laws = {
        "box": box,
        "inside": np.where(pastes, 0, own).astype(np.float32),
        "label_share": np.where(pastes, left_over, own).astype(np.float32),
    }
    partner = np.full(count, -1, np.int64)
    partner[::group] += np.minimum(group, count - np.arange(0, count, group))
    return {"partner": partner, **{name: np.repeat(law, group, axis=0)[:count] for name, law in laws.items()}}


def _centre_crop(width: int, height: int, ratio: Sequence[float]) -> tuple[int, int, int, int]:
    crop_w, crop_h = width, height
    if width / height < ratio[0]:
        crop_h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        crop_w = max(1, round(height * ratio[1]))
    left, top = (width - crop_w) // 2, (height - crop_h) // 2
    return left, top, left + crop_w, top + crop_h


def erased_box(draws: NDArray[np.float64], probability: float, size: int) -> tuple[int, int, int, int] | None:
    """Return the rectangle to be erased: left, top, right, bottom, px; None for no erasing.

    The law is torchvision's RandomErasing with its own scale and ratio: up to ten tries, the first that is smaller than
    the square both ways is placed uniformly.

    Args:
        draws: Uniform, (DRAWS,).
        probability: Of erasing.
        size: Side of the square, px.
    """
    if draws[0] >= probability:
        return None
    low, high = (math.log(ratio) for ratio in ERASED_RATIO)
    for share, aspect, x, y in draws[1:].reshape(TRIES, 4).tolist():
        area = size**2 * (ERASED[0] + (ERASED[1] - ERASED[0]) * share)
        stretch = math.exp(low + (high - low) * aspect)
        height, width = round(math.sqrt(area * stretch)), round(math.sqrt(area / stretch))
        if height < size and width < size:
            left, top = int(x * (size - width + 1)), int(y * (size - height + 1))
            return left, top, left + width, top + height
    return None
