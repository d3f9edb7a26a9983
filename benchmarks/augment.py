"""What augmentation costs: processor time a picture, decoding and cropping included, on one core.

    PYTHONPATH=src python benchmarks/augment.py --packed data/prepared/train --out benchmarks/results/augment.json

Each setting loads the same pictures, pass by pass in turn, so that what else the machine does falls on all alike; the
median over the passes is kept. Loader workers share this work: N of them give N times the images a core gives. Mixup
and CutMix are a part of the step: on a CPU their time is beside the others, on a batch that is there.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import host
from ruamel.yaml import YAML

from vitlora.core.files import write_json
from vitlora.train.augment import epoch_mixing
from vitlora.train.dataset import TrainImages
from vitlora.train.mixing import mix_pixels
from vitlora.train.params import Augment

RECIPE = Path(__file__).parents[1] / "presets/food101.yaml"
SIZE, BATCH = 224, 128
SETTINGS = {
    "crop and flip": {},
    "randaugment": {"policy": "randaugment"},
    "trivialaugment": {"policy": "trivialaugment"},
    "augmix": {"policy": "augmix"},
    "color_jitter 0.4": {"color_jitter": 0.4},
    "erasing_p 0.25": {"erasing_p": 0.25},
}


def main() -> None:
    """Measure every setting, print a table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="a train folder as preprocess writes it")
    parser.add_argument("--images", type=int, default=300, help="pictures of a pass")
    parser.add_argument("--passes", type=int, default=7, help="the first is dropped")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    section = YAML(typ="safe").load(RECIPE)["augment"]
    sets = {name: images(args.packed, {**section, **changes}) for name, changes in SETTINGS.items()}
    spent: dict[str, list[float]] = {name: [] for name in sets}
    for each in range(args.passes):
        for name, data in sets.items():
            numbers = [each * len(data) + row % len(data) for row in range(args.images)]
            spent[name].append(cpu_ms(lambda data=data, numbers=numbers: data.load(numbers)) / args.images)
    rows = {name: round(statistics.median(found[1:]), 3) for name, found in spent.items()}
    rows["mixup, in the step"] = mixing_ms(args.passes, 0.4, 0.0)
    rows["cutmix, in the step"] = mixing_ms(args.passes, 0.0, 1.0)
    for name, found in rows.items():
        print(f"{name:<22}{found:8.3f} ms a picture")
    settings = {"size": SIZE, "images": args.images, "passes": args.passes, "batch": BATCH}
    write_json(args.out, {"cpu_ms_per_picture": rows, "settings": settings, "host": host()})


def images(folder: Path, section: dict) -> TrainImages:
    """Open the pictures with a law."""
    section |= {"scale": tuple(section["scale"]), "ratio": tuple(section["ratio"])}
    return TrainImages(folder, SIZE, "bilinear", Augment(**section), 0)


def cpu_ms(work: Callable[[], object]) -> float:
    """Return the processor time of a call, ms."""
    start = time.process_time()
    work()
    return 1000 * (time.process_time() - start)


def mixing_ms(passes: int, *alphas: float) -> float:
    """Return the processor time that mixing takes a picture of a batch, ms."""
    drawn = epoch_mixing(0, 0, BATCH, BATCH, SIZE, *alphas)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8))
    beside = {name: torch.from_numpy(values) for name, values in drawn.items()}
    batch = {"pixel_values": pixels.permute(0, 3, 1, 2), "labels": torch.zeros(BATCH, dtype=torch.int64), **beside}
    return round(statistics.median(cpu_ms(lambda: mix_pixels(batch)) for _ in range(passes)) / BATCH, 3)


if __name__ == "__main__":
    main()
