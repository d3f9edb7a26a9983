"""What a table of ten thousand to ten million pictures costs training: memory, and time for a batch.

The table is real, and so is the way from it to batches; the pictures it points at are the same 64 small JPEGs again and
again, so that decoding is not what is measured. A process a size: opening the table, the first batch of each of two
epochs, batches after it, and the memory that all processes together take beyond the main one's start (without files'
pages, which the system may drop).

    PYTHONPATH=src python benchmarks/many_pictures.py --out benchmarks/results/many_pictures.json
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import host
from loader import LAW
from PIL import Image

from vitlora.core.files import write_json
from vitlora.storage.packed import INDEX, PLACE, TEXTS, Packed, write_packed
from vitlora.train.dataset import TrainImages, TrainLoader

COLUMNS = ("path", "label", "sha256", "width", "height", "plain")
SIDE, BATCH, PICTURES, WORKERS = 32, 32, 64, 2


def main() -> None:
    """Measure each size in a process of its own; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.batches)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for count in args.counts:
            folder = Path(work) / "packed"
            make(folder, count)
            command = [sys.executable, __file__, "--out", str(args.out), "--one", str(folder)]
            done = subprocess.run(
                [*command, "--batches", str(args.batches)], check=True, stdout=subprocess.PIPE, text=True
            )
            rows.append({"pictures": count, "bytes_of_table": table_bytes(folder), **json.loads(done.stdout)})
            print(rows[-1], flush=True)
    write_json(args.out, {"host": host(), "workers": WORKERS, "batch": BATCH, "side": SIDE, "rows": rows})


def make(folder: Path, count: int) -> None:
    """Write a table of ``count`` rows; each has a text and a digest of its own, and one of a few pictures."""
    random, data = np.random.default_rng(0), []
    for _ in range(PICTURES):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(buffer, "JPEG")
        data.append(buffer.getvalue())
    names = (f"class {number % 1000:04d}/{number:09d}.jpg" for number in range(PICTURES))
    write_packed(folder, COLUMNS, (((name, at % 1000, "0" * 64, 40, 48, 1), data[at]) for at, name in enumerate(names)))
    few = np.load(folder / INDEX)
    table = np.lib.format.open_memmap(folder / INDEX, mode="w+", dtype=few.dtype, shape=(count,))
    for start in range(0, count, 100_000):
        numbers = np.arange(start, min(start + 100_000, count))
        for name, _ in PLACE[:3]:
            table[name][numbers] = few[name][numbers % PICTURES]
        for name in COLUMNS:
            table[name][numbers] = few[name][numbers % PICTURES]
        table["label"][numbers] = numbers % 1000
        table["text_at"][numbers] = numbers * few["path"][0]
    table.flush()
    with (folder / TEXTS).open("wb") as file:
        for start in range(0, count, 100_000):
            numbers = range(start, min(start + 100_000, count))
            file.write("".join(f"class {number % 1000:04d}/{number:09d}.jpg" for number in numbers).encode())


def table_bytes(folder: Path) -> float:
    """Return the bytes a picture that stand in the table and its texts."""
    return round(sum((folder / name).stat().st_size for name in (INDEX, TEXTS)) / len(Packed(folder)), 1)


def measure(folder: Path, batches: int) -> dict[str, Any]:
    """Go through some batches of two epochs."""
    before, start = anonymous_mb("self"), time.perf_counter()
    images = TrainImages(folder, SIDE, "bilinear", LAW, 0)
    opened = time.perf_counter()
    loader = TrainLoader(images, 0, BATCH, 2, WORKERS, False)
    found: dict[str, Any] = {"open_s": round(opened - start, 3)}
    for epoch in range(2):
        loader.set_epoch(epoch)
        begin = time.perf_counter()
        loader.beside()
        batch = iter(loader)
        times = [time.perf_counter()]
        for _ in range(min(batches, len(loader) - 1)):
            next(batch)
            times.append(time.perf_counter())
        apart = np.diff(times)[len(times) // 3 :] * 1000
        found[f"epoch_{epoch + 1}"] = {
            "first_batch_s": round(times[1] - begin, 3),
            "ms_a_batch": round(statistics.median(apart.tolist()), 2),
        }
    workers = [str(process.pid) for process in loader._ring.processes] if loader._ring else []
    found["mb"] = round(sum(map(anonymous_mb, ("self", *workers))) - before)
    loader.close()
    return found


def anonymous_mb(process: str) -> float:
    """Return the megabytes that a process holds, but for files' pages; what several share counts in parts."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    lines = [line.split() for line in text.splitlines() if line.startswith("Pss_Anon")]
    return sum(int(words[1]) for words in lines) / 1024


if __name__ == "__main__":
    main()
