"""What `data.max_short_side_px` saves, and how far it moves the pixels that a model sees.

Real photographs from a folder in Hub layout. The square of 224 px that preprocess makes of the stored picture is held
against the one of the original, in levels of 255.

    PYTHONPATH=src python benchmarks/smaller.py --data FOLDER --out benchmarks/results/smaller.json
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import host

from vitlora.core.files import write_json
from vitlora.download.found import Picture
from vitlora.download.hub_layout import from_hub_layout
from vitlora.download.smaller import scaling
from vitlora.images.pixels import decode, resize_and_crop

SIDES, SQUARE = (224, 256, 320), 224


def main() -> None:
    """Measure each side; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = from_hub_layout(args.data, None, "image", "label", {"train": "train"})
    pictures, rows = list(found.pictures), []
    for side in SIDES:
        rows.append({"short_side_px": side, **measure(pictures, side)})
        print(rows[-1], flush=True)
    write_json(args.out, {"host": host(), "photographs": len(pictures), "square_px": SQUARE, "rows": rows})


def measure(pictures: list[Picture], side: int) -> dict[str, Any]:
    """Scale all photographs down, and compare the squares of those that were."""
    with scaling(side) as scale:
        list(scale(pictures[: 32 * (os.cpu_count() or 1)]))  # the processes have begun
        begin = time.perf_counter()
        smaller = list(scale(pictures))
        seconds = time.perf_counter() - begin
    pairs = [(was.data, now.data) for was, now in zip(pictures, smaller, strict=True) if was.data != now.data]
    apart = np.stack([np.abs(square(was) - square(now)) for was, now in pairs])
    return {
        "bytes": round(sum(len(now.data) for now in smaller) / sum(len(was.data) for was in pictures), 3),
        "scaled": len(pairs),
        "photographs_per_s": round(len(pictures) / seconds),
        "mean": round(float(apart.mean()), 2),
        "percentile_99": round(float(np.percentile(apart, 99)), 1),
        "max": int(apart.max()),
    }


def square(data: bytes) -> np.ndarray:
    """Return what preprocess stores of a picture."""
    return resize_and_crop(decode(data), SQUARE, "bilinear").astype(np.int16)


if __name__ == "__main__":
    main()
