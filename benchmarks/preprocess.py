"""How long the preprocess stage takes on as many pictures as wanted: given ones, again and again, as real bytes.

    PYTHONPATH=src python benchmarks/preprocess.py --packed data/raw --work .work/preprocess --out preprocess.json

A quarter of the pictures stand as official test, as in Food-101, and the parameters are those of presets/food101.yaml.
The bytes have just been written, so reading them may be faster than from a disk. Needs about three times their size.
"""

import argparse
import hashlib
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vitlora.core.files import read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.storage.packed import Item, Packed, write_packed

PRESET = Path(__file__).parents[1] / "presets" / "food101.yaml"
OUTPUTS = ("train", "val", "test", "labels.json", "report.html", "report.json")


def main() -> None:
    """Write the pictures, run the stage's function, print and write what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="a folder as download or preprocess packs it")
    parser.add_argument("--images", type=int, default=101_000)
    parser.add_argument("--work", type=Path, required=True, help="written to, emptied before and after")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    raw = args.work / "raw"
    repeat(args.packed, raw, args.images)
    size = Packed(raw).size
    seconds = run(raw, args.work)
    figures = {
        "seconds": round(seconds, 2),
        "images_per_s": round(args.images / seconds, 1),
        "mb_per_s": round(size / seconds / 1e6, 1),
        "peak_rss_mb_parent": peak_mb(resource.RUSAGE_SELF),
        "peak_rss_mb_worker": peak_mb(resource.RUSAGE_CHILDREN),
    }
    for name, value in figures.items():
        print(f"{name}: {value:,}")
    counts = {name: read_json(args.work / "report.json")[name] for name in ("train", "val", "test", "bad")}
    shutil.rmtree(args.work)
    from common import host  # not before: it loads torch, which the stage must do without

    pictures = {"images": args.images, "mean_kb": round(size / args.images / 1000, 1), **counts}
    write_json(args.out, {**figures, **pictures, "host": host()})


def repeat(packed: Path, raw: Path, count: int) -> None:
    """Write a raw folder of ``count`` pictures as download does."""
    source = Packed(packed)
    labels = source.numbers("label")[:, 0].tolist()
    digests = [hashlib.sha256(source[row]).hexdigest() for row in range(len(source))]

    def items() -> Iterator[Item]:
        for number in range(count):
            row = number % len(source)
            split = "test" if row % 4 == 3 else "train"  # copies in one, or they would be left out
            yield (f"{number:06d}.jpg", split, labels[row], digests[row]), source[row]

    write_packed(raw, ("path", "split", "label", "sha256"), items())
    write_json(raw / "classes.json", [f"class {label:03d}" for label in range(max(labels) + 1)])
    write_json(raw / "left_out.json", [])


def run(raw: Path, work: Path) -> float:
    """Run preprocess as the stage does; return seconds."""
    stage = load_params(PreprocessStage, read_document(PRESET), PRESET)
    start = time.perf_counter()
    preprocess(stage.ingest, stage.image, stage.split, raw, *(work / name for name in OUTPUTS))
    return time.perf_counter() - start


def peak_mb(who: int) -> float:
    """Return the most memory that this process, or the largest of its ended children, has had."""
    return round(resource.getrusage(who).ru_maxrss / 1000, 1)


if __name__ == "__main__":
    main()
