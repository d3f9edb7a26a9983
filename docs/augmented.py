"""Draw docs/augmented.png: a drawn scene as each kind of augmentation has it in eight epochs.

`PYTHONPATH=src .venv/bin/python docs/augmented.py`.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot
from PIL import Image, ImageDraw

from vitlora.core.params import read_document
from vitlora.train.augment import epoch_mixing
from vitlora.train.mixing import mix_pixels
from vitlora.train.params import Augment
from vitlora.train.policies import alter

ROOT = Path(__file__).parents[1]
SIZE, EPOCHS, SEED, FILL = 128, 8, 1, (124, 116, 104)
KINDS = {
    "randaugment": {"policy": "randaugment"},
    "trivialaugment": {"policy": "trivialaugment"},
    "augmix": {"policy": "augmix"},
    "color_jitter 0.4": {"color_jitter": 0.4},
    "erasing_p 1": {"erasing_p": 1.0},
}
MIXED = {"mixup_alpha 1": (1.0, 0.0), "cutmix_alpha 1": (0.0, 1.0)}


def main() -> None:
    """Write the picture."""
    section = read_document(ROOT / "presets/digits.yaml")["augment"]
    section |= {"scale": tuple(section["scale"]), "ratio": tuple(section["ratio"])}
    rows = {"as given": [house()] * EPOCHS}
    for name, changes in KINDS.items():
        law = Augment(**{**section, **changes})
        rows[name] = [alter(house(), law, FILL, 0, SEED, epoch) for epoch in range(EPOCHS)]
    rows |= {name: [mixed(epoch, *alphas) for epoch in range(EPOCHS)] for name, alphas in MIXED.items()}
    figure, places = pyplot.subplots(len(rows), 1, figsize=(8, 8), layout="constrained")
    for axes, (name, pictures) in zip(places, rows.items(), strict=True):
        axes.imshow(torch.cat(pictures, dim=2).permute(1, 2, 0).numpy())
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.set(xticks=[], yticks=[])
    figure.savefig(ROOT / "docs/augmented.png", dpi=90)


def house() -> torch.Tensor:
    """Return a house under the sun, uint8 (3, SIZE, SIZE)."""
    return scene((120, 180, 235), (70, 140, 60), [(38, 60, 92, 104)], (190, 70, 50))


def ship() -> torch.Tensor:
    """Return a ship at dusk, likewise."""
    return scene((235, 150, 110), (30, 60, 120), [(24, 76, 104, 96), (56, 40, 62, 76)], (60, 50, 50))


def scene(
    sky: tuple[int, ...], ground: tuple[int, ...], boxes: list[tuple[int, ...]], colour: tuple[int, ...]
) -> torch.Tensor:
    """Return sky above ground, a sun and boxes."""
    light = np.linspace(0.7, 1.1, SIZE)[:, None, None] * np.array(sky)
    image = Image.fromarray(np.broadcast_to(light.clip(0, 255), (SIZE, SIZE, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 88, SIZE, SIZE), fill=ground)
    draw.ellipse((96, 10, 118, 32), fill=(250, 220, 90))
    for box in boxes:
        draw.rectangle(box, fill=colour)
    left, top, right, _ = boxes[-1]
    draw.polygon([(left - 6, top), (right + 6, top), ((left + right) // 2, top - 26)], fill=(110, 60, 60))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def mixed(epoch: int, *alphas: float) -> torch.Tensor:
    """Return the house, mixed with the ship as an epoch has it."""
    beside = {name: torch.from_numpy(rows) for name, rows in epoch_mixing(SEED, epoch, 2, 2, SIZE, *alphas).items()}
    pictures = torch.stack([house(), ship()])
    return mix_pixels({"pixel_values": pictures, "labels": torch.arange(2), **beside})[0]


if __name__ == "__main__":
    main()
