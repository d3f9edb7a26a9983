"""What `data.streaming` takes of memory and time, by the number of pictures and the size of the parquet files.

Rows of random bytes, 50 KB each, in local parquet files with groups of 100 rows, as `datasets` writes pictures; so the
speed is that of the disk and of us, not of a network. A process each; its highest memory, all included.

    PYTHONPATH=src python benchmarks/stream.py --out benchmarks/results/stream.json
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from vitlora.core.files import write_json
from vitlora.download.blocks import blocks_folder, pack_stream
from vitlora.download.hub_layout import in_folder, open_hub_layout
from vitlora.download.stage import COLUMNS, _item

PICTURE, GROUP = 50_000, 100
RUNS = ((2_000, 2_000), (20_000, 2_000), (60_000, 2_000), (20_000, 20_000))  # rows, and rows of a file


def main() -> None:
    """Measure each run in a process of its own; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one)))
        return
    rows = []
    for count, in_file in RUNS:
        with tempfile.TemporaryDirectory() as work:
            make(Path(work), count, in_file)
            command = [sys.executable, __file__, "--out", str(args.out), "--one", work]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        rows.append({"pictures": count, "file_mb": in_file * PICTURE // 1_000_000, **found})
        print(rows[-1], flush=True)
    from common import host  # imports torch, which the stage does not

    write_json(args.out, {"host": host(), "bytes_a_picture": PICTURE, "rows_in_a_group": GROUP, "rows": rows})


def make(root: Path, count: int, in_file: int) -> None:
    """Write a data set in Hub layout."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import ClassLabel, Features, Image

    (root / "hub/data").mkdir(parents=True)
    schema = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])}).arrow_schema
    random = np.random.default_rng(0)
    for number in range(count // in_file):
        path = root / f"hub/data/train-{number:05d}-of-{count // in_file:05d}.parquet"
        with pq.ParquetWriter(path, schema, compression="none") as file:
            for _ in range(in_file // GROUP):
                images = [{"bytes": random.bytes(PICTURE), "path": None} for _ in range(GROUP)]
                file.write_table(pa.table({"image": images, "label": [0, 1] * (GROUP // 2)}, schema=schema))


def measure(root: Path) -> dict[str, Any]:
    """Pack the data set."""
    found = open_hub_layout(in_folder(root / "hub"), None, "image", "label", {"train": "train"})
    begin = time.perf_counter()
    pack_stream(found, COLUMNS, _item, root / "raw", blocks_folder(root / "kept"))
    return {"mb": round(peak_mb()), "s": round(time.perf_counter() - begin, 1)}


def peak_mb() -> float:
    """Return the most memory that this process has held so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
