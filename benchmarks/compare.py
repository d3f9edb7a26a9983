"""How long ``vitlora compare`` takes for a test set as large as Food-101's: 25,250 pictures of 101 classes.

    PYTHONPATH=src python benchmarks/compare.py --out benchmarks/results/compare.json

Writes the files that two finished runs leave, one committed, one in the workspace, with their logits in DVC's cache,
into a temporary folder; times the whole command, start of Python and imports included, as a person waits for it.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
import results
import tiny

from vitlora.core.files import write_json

CLASSES, EACH = 101, 250
NOTE = "two cores shared with other work; `processor` is what a quiet core would take"
WAYS = {
    "screen": ["compare"],
    "json": ["compare", "--json"],
    "markdown": ["compare", "--md"],
    "gate": ["gate", "--against", "HEAD"],
}


def main() -> None:
    """Build, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = build(Path(folder) / "project")
        figures = {way: measure(root, words, args.repeats) for way, words in WAYS.items()}
    from common import host  # loads torch

    write_json(
        args.out, {"pictures": CLASSES * EACH, "classes": CLASSES, "seconds": figures, "host": host(), "note": NOTE}
    )


def build(root: Path) -> Path:
    """Write both runs."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    names = [f"class_{number:03d}" for number in range(CLASSES)]
    results.make_repository(root)
    first = scattered(labels, 0)
    results.write_run(root, first, labels, names=names)
    tiny.commit(root)
    results.write_run(
        root, np.where(np.arange(len(labels))[:, None] % 4, first, scattered(labels, 1)), labels, names=names
    )
    return root


def scattered(labels: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """Return logits that are right in about 88 of 100 rows."""
    return results.make_logits(labels, 0.88, seed, CLASSES)


def measure(root: Path, words: list[str], repeats: int) -> dict[str, float]:
    """Return seconds of a command: median and most on the clock, median of the processor; the first is not counted."""
    command = [sys.executable, "-m", "vitlora", *words]
    environment = tiny.environment(root) | {"PYTHONPATH": str(tiny.ROOT / "src")}
    clock, processor = [], []
    for _ in range(repeats + 1):
        start, before = time.perf_counter(), spent()
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False)
        clock.append(time.perf_counter() - start)
        processor.append(spent() - before)
        assert done.returncode in (0, 3), done.stderr.decode()
    taken = {
        "median": statistics.median(clock[1:]),
        "most": max(clock[1:]),
        "processor": statistics.median(processor[1:]),
    }
    rounded = {name: round(value, 2) for name, value in taken.items()}
    print(" ".join(words), rounded, flush=True)
    return rounded


def spent() -> float:
    """Return the processor's seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
