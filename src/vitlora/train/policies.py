"""What is done to a cropped training picture: RandAugment, TrivialAugment, AugMix, colours, erasing.

Laws, strengths and pixels are those of torchvision's classes of these names with their defaults; what is drawn is a
pure function of (seed, epoch, picture), where theirs draw from torch's generator.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitlora.train.augment import DRAWS, ERASING, JITTER, POLICY, erased_box, uniforms_of
from vitlora.train.operations import SIGNED, adjusted, operate, to_bytes
from vitlora.train.params import Augment

STRENGTHS = 31  # of RandAugment and TrivialAugment
SEVERITY, CHAINS, DEPTH = 3, 3, 3  # of AugMix: the weakest strengths of 10; chains, and operations of a chain at most
AUGMIX_STRENGTHS = 10
AUGMIX_DRAWS = 1 + 2 * CHAINS + 3 * CHAINS * DEPTH

Draws = NDArray[np.float64]  # uniform in [0, 1)
Operation = tuple[str, float]  # torchvision's name, and its magnitude, px, degrees or a factor


def alter(image: Tensor, law: Augment, fill: Sequence[int], row: int, seed: int, epoch: int) -> Tensor:
    """Do to a picture what is drawn for it: policy, then colours, then erasing, as torchvision's recipes order them.

    Args:
        image: uint8 (3, H, H), RGB; not changed.
        law: What may be done, and how often.
        fill: Bytes of an erased rectangle.
        row: Of the picture.
        seed: Of the run.
        epoch: Counted from 0.

    Returns:
        uint8 (3, H, H).
    """
    size = image.shape[-1]
    if law.policy != "none" or law.color_jitter:
        image = torch.from_numpy(np.ascontiguousarray(image.numpy()))  # channels first, in half of torch's time
    if law.policy == "augmix":
        image = augmix(image, uniforms_of(row, seed, epoch, POLICY, AUGMIX_DRAWS))
    elif law.policy != "none":
        count = law.randaugment_num_ops if law.policy == "randaugment" else 1
        for drawn in uniforms_of(row, seed, epoch, POLICY, 3 * count).reshape(count, 3):
            image = operate(image, *operation(law, size, drawn), "nearest")
    if law.color_jitter:
        image = jitter(image, law.color_jitter, uniforms_of(row, seed, epoch, JITTER, 6))
    box = erased_box(uniforms_of(row, seed, epoch, ERASING, DRAWS), law.erasing_p, size) if law.erasing_p else None
    if box:
        left, top, right, bottom = box
        image = image.clone()
        image[:, top:bottom, left:right] = image.new_tensor(fill)[:, None, None]
    return image


# --- policies ---


@cache
def magnitudes(policy: str, size: int) -> dict[str, list[float]]:
    """Return a policy's operations with their strengths, the weakest first; none for one that has but one.

    Args:
        policy: `randaugment`, `trivialaugment` or `augmix`.
        size: Side of the picture, px.

    Source:
        ``_AUGMENTATION_SPACE`` of torchvision's RandAugment, TrivialAugmentWide and AugMix.
    """
    shear, move, turn, colour, bits, fewer, count = {
        "randaugment": (0.3, 150.0 / 331.0 * size, 30.0, 0.9, 8, 4, STRENGTHS),
        "trivialaugment": (0.99, 32.0, 135.0, 0.99, 8, 6, STRENGTHS),
        "augmix": (0.3, size / 3.0, 30.0, 0.9, 4, 4, AUGMIX_STRENGTHS),
    }[policy]
    most = {"ShearX": shear, "ShearY": shear, "TranslateX": move, "TranslateY": move, "Rotate": turn}
    most |= dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), colour)
    table: dict[str, list[float]] = {} if policy == "augmix" else {"Identity": []}
    table |= {name: torch.linspace(0.0, end, count).tolist() for name, end in most.items()}
    table["Posterize"] = (bits - torch.arange(count) / ((count - 1) / fewer)).round().tolist()
    table["Solarize"] = torch.linspace(1.0, 0.0, count).tolist()
    return {**table, "AutoContrast": [], "Equalize": []}


def operation(law: Augment, size: int, drawn: Draws) -> Operation:
    """Return one operation of RandAugment or TrivialAugment, by three draws: which, how strong, which way."""
    most = law.randaugment_magnitude
    levels = range(most, most + 1) if law.policy == "randaugment" else range(STRENGTHS)
    return _operation(magnitudes(law.policy, size), levels, drawn)


def _operation(table: dict[str, list[float]], levels: Sequence[int], drawn: Draws) -> Operation:
    which, strength, way = drawn.tolist()
    name = list(table)[int(which * len(table))]
    if not table[name]:
        return name, 0.0
    magnitude = table[name][levels[int(strength * len(levels))]]
    return name, -magnitude if name in SIGNED and way < 0.5 else magnitude


def augmix(image: Tensor, draws: Draws) -> Tensor:
    """Blend a picture with three chains of operations on it, by random shares.

    Args:
        image: uint8 (3, H, H).
        draws: (AUGMIX_DRAWS,): share of the chains together, shares among them, their lengths, their operations.

    Returns:
        uint8 (3, H, H), fractions cut off as torchvision does.

    Source:
        Beta(1, 1) is uniform, and exponential numbers over their sum are Dirichlet(1, 1, 1).
    """
    together, among, lengths, rest = np.split(draws, [1, 1 + CHAINS, 1 + 2 * CHAINS])
    among = -np.log1p(-among)
    shares = (torch.from_numpy(among / among.sum()).float() * float(together[0])).tolist()
    table = magnitudes("augmix", image.shape[-1])
    mix = image * (1 - float(together[0]))
    part = torch.empty_like(mix)
    for share, length, drawn in zip(shares, lengths, rest.reshape(CHAINS, DEPTH, 3), strict=True):
        chained = image
        for each in drawn[: 1 + int(length * DEPTH)]:
            chained = operate(chained, *_operation(table, range(SEVERITY), each), "bilinear")
        mix.add_(torch.mul(chained, share, out=part))
    return to_bytes(mix)


# --- colours ---


def jitter(image: Tensor, strength: float, draws: Draws) -> Tensor:
    """Change brightness, contrast and saturation, in random order: torchvision's ColorJitter without hue.

    Args:
        image: uint8 (3, H, H).
        strength: Of all three.
        draws: (6,): three factors, and three numbers whose order is theirs.
    """
    names = ("Brightness", "Contrast", "Color")
    factors = (1 - strength + 2 * strength * draws[:3]).tolist()
    for which in np.argsort(draws[3:]).tolist():
        image = adjusted(image, names[which], factors[which])
    return image
