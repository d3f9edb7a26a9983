"""How well altered copies of photographs are found, how often others are taken for copies, and how long it takes.

    PYTHONPATH=src python benchmarks/duplicates.py --packed data/raw --out duplicates.json

Of the photographs in a packed folder, 500 drawn at random are compared with each other; whatever is reported counts as
false, so pictures of the same thing that the folder does hold count too (their names are printed). Then copies of 200
of them, 40 of each kind, are added, and with --copies more. Nothing of the photographs is written anywhere.
"""

import argparse
import io
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from vitlora.core.files import write_json
from vitlora.images.pixels import decode, inspect
from vitlora.preprocess.near_duplicates import ROWS, Pair, find_alike, sketch
from vitlora.storage.packed import Packed

PHOTOS = 500
LARGE = 101_000  # of Food-101


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="a folder as download or preprocess packs it")
    parser.add_argument("--copies", type=int, default=200, help="at most as many as there are photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    source = Packed(args.packed)
    rng = np.random.default_rng(args.seed)
    chosen = rng.permutation(len(source))[: max(PHOTOS, args.copies)].tolist()
    photos = thumbnails([source[row] for row in chosen])
    false = alike(photos[:PHOTOS])
    for pair in false:
        names = " and ".join(source.rows[chosen[place]]["path"] for place in pair[:2])
        print(f"reported: {names}, similarity {pair.similarity:.3f}")
    figures = {
        "photos": PHOTOS,
        "photos_reported": len({place for pair in false for place in pair[:2]}),
        "pairs_reported": [{"similarity": round(pair.similarity, 3), "mirrored": pair.mirrored} for pair in false],
        "copies": args.copies,
        "copies_found": find_copies(source, chosen[: args.copies], photos, rng),
        "search": time_search(photos),
    }
    print(figures)
    from common import host  # not before: it loads torch, which the search must do without

    write_json(args.out, {**figures, "host": host()})


def find_copies(source: Packed, chosen: list[int], photos: NDArray[np.uint8], rng: np.random.Generator) -> dict:
    """Return how many copies of each kind are found among all photographs, and of how many."""
    kinds = [list(KINDS)[place % len(KINDS)] for place in range(len(chosen))]
    copies = [KINDS[kind](decode(source[row]), rng) for kind, row in zip(kinds, chosen, strict=True)]
    pairs = {pair[:2] for pair in alike(np.concatenate([photos, thumbnails(copies)]))}
    found = Counter(kind for place, kind in enumerate(kinds) if (place, len(photos) + place) in pairs)
    return {"all": found.total(), **{kind: f"{found[kind]} of {kinds.count(kind)}" for kind in KINDS}}


def time_search(photos: NDArray[np.uint8]) -> dict:
    """Return seconds, on one core, to search as many thumbnails as Food-101 has: the photographs', shifted around."""
    rng = np.random.default_rng(0)
    many = photos[rng.integers(0, len(photos), LARGE)]
    shifts = rng.integers(0, 16, (LARGE, 2)).tolist()
    shifted = np.stack([np.roll(one, shift, axis=(0, 1)) for one, shift in zip(many, shifts, strict=True)])
    start = time.perf_counter()
    pairs = len(alike(shifted))
    return {"thumbnails": LARGE, "seconds_one_core": round(time.perf_counter() - start, 1), "pairs": pairs}


def alike(thumbs: NDArray[np.uint8]) -> list[Pair]:
    """Return the pairs that preprocess would report."""
    with TemporaryDirectory() as folder:
        sketches = sketch([each.tobytes() for each in thumbs], Path(folder))
        return [pair for begin in range(0, len(thumbs), ROWS) for pair in find_alike(sketches, begin)]


def thumbnails(files: list[bytes]) -> NDArray[np.uint8]:
    """Return uint8 (N, 16, 16) as preprocess makes them."""
    return np.stack([np.frombuffer(inspect(data).thumbnail, np.uint8).reshape(16, 16) for data in files])


def saved(image: Image.Image, quality: int = 90) -> bytes:
    """Return a picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()


def resized(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Scale by 0.4 to 1.5."""
    factor = rng.uniform(0.4, 1.5)
    return saved(image.resize((round(image.width * factor), round(image.height * factor))))


def cropped(image: Image.Image, rng: np.random.Generator) -> bytes:
    """Cut up to 4 % off each side."""
    left, top, right, bottom = rng.uniform(0, 0.04, 4)
    box = (image.width * left, image.height * top, image.width * (1 - right), image.height * (1 - bottom))
    return saved(image.crop(tuple(round(edge) for edge in box)))


KINDS: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "JPEG quality 30 to 90": lambda image, rng: saved(image, int(rng.integers(30, 90))),
    "resized, 0.4 to 1.5": resized,
    "brightened, 1.05 to 1.25": lambda image, rng: saved(
        ImageEnhance.Brightness(image).enhance(rng.uniform(1.05, 1.25))
    ),
    "cropped, up to 4 % a side": cropped,
    "mirrored": lambda image, rng: saved(ImageOps.mirror(image)),
}


if __name__ == "__main__":
    main()
