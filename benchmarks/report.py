"""How long ``vitlora report`` takes for a test set as large as Food-101's, how large the page is, how soon it is drawn.

    PYTHONPATH=src python benchmarks/report.py --out benchmarks/results/report.json

25,250 test pictures of 101 classes, some 12 % wrong, and 2,020 training pictures: made up, of coarse random colours, as
large on the page as photographs are. Heat maps and suspect labels, which need a model, are left out. Times the whole
command, start of Python included; and Chromium from its start to the page drawn, where there is one.
"""

import argparse
import io
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
import reports
import results
import tiny

from vitlora.core.files import write_json
from vitlora.storage.packed import write_packed
from vitlora.storage.squares import create_split, open_pixels

CLASSES, EACH, SIZE = 101, 250, 224
RUNS = {"one run": ["workspace"], "two runs": ["HEAD", "workspace"]}
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def main() -> None:
    """Build, time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = build(Path(folder) / "project")
        figures = {name: measure(root, runs, args.repeats) for name, runs in RUNS.items()}
    from common import host  # loads torch

    write_json(args.out, {"pictures": CLASSES * EACH, "classes": CLASSES, **figures, "host": host()})


def build(root: Path) -> Path:
    """Write two runs, one committed, and pictures."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    names = [f"class {number:03d} of food" for number in range(CLASSES)]
    results.make_repository(root)
    first = results.make_logits(labels, 0.88, 0, CLASSES)
    reports.make_report_run(root, first, labels, names)
    tiny.commit(root)
    second = np.where(np.arange(len(labels))[:, None] % 4, first, results.make_logits(labels, 0.88, 1, CLASSES))
    reports.make_report_run(root, second, labels, names, {"lora.r": 4})
    random = np.random.default_rng(0)
    paths = [f"test/{row:05d}.png" for row in range(len(labels))]
    test = root / "data/prepared/test"
    create_split(test, SIZE, paths, labels.tolist(), [reports.digest(path) for path in paths])
    pixels = open_pixels(test, "r+")
    for row in range(len(pixels)):
        pixels[row] = coarse(random).transpose(2, 0, 1)
    items = []
    for row in range(20 * CLASSES):
        buffer, name = io.BytesIO(), f"train/{row:05d}.jpg"
        Image.fromarray(coarse(random)).save(buffer, format="JPEG")
        items.append(((name, row % CLASSES, reports.digest(name), SIZE, SIZE, 0), buffer.getvalue()))
    write_packed(root / "data/prepared/train", ("path", "label", "sha256", "width", "height", "plain"), items)
    return root


def coarse(random: np.random.Generator) -> np.ndarray:
    """Return uint8 (SIZE, SIZE, 3) of random colours in squares of 8 px."""
    return random.integers(0, 256, (SIZE // 8, SIZE // 8, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def measure(root: Path, runs: Sequence[str], repeats: int) -> dict[str, float | None]:
    """Return median wall times, s, and the size of the page, MB; the first run of each is not counted."""
    command = [sys.executable, "-m", "vitlora", "report", *runs, "--quick", "--out", "page.html"]
    environment = tiny.environment(root) | {"PYTHONPATH": str(tiny.ROOT / "src")}
    taken = [clock(command, root, environment) for _ in range(repeats + 1)]
    browser, drawn = shutil.which("chromium"), None
    if browser:
        shot = [browser, *HEADLESS, "--screenshot=page.png", "--window-size=1280,900", f"file://{root}/page.html"]
        empty = [*shot[:-1], "about:blank"]
        drawn = statistics.median(
            clock(shot, root, environment) - clock(empty, root, environment) for _ in range(repeats)
        )
    figures = {
        "seconds": round(statistics.median(taken[1:]), 2),
        "megabytes": round((root / "page.html").stat().st_size / 1e6, 2),
        "drawn_seconds": None if drawn is None else round(drawn, 2),
    }
    print(f"{' and '.join(runs)}: {figures}", flush=True)
    return figures


def clock(command: Sequence[str], root: Path, environment: dict[str, str]) -> float:
    """Run a command and return its wall time, s."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
