"""How large `vitlora page` makes a page, how soon it is ready, how long a picture takes, how near it is to predict.

    PYTHONPATH=src python benchmarks/page.py NAME=EXPORTED:PICTURES ... --out benchmarks/results/page.json

EXPORTED is an exported folder, PICTURES a folder of at least 100 pictures that the model was made for. Each is measured
with model_int8.onnx, as the page takes it, and with model.onnx alone. Build seconds are those of the whole command with
the runtime in the cache. Chromium opens the page as a file; ready is from there to the model being ready, and a
picture from its file to its probabilities, one thread, the median over the pictures, and the fastest: the median moves
with whatever else the machine does, and `load` says how much that was. Predict is `Classifier`, float32.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from browser import browser

from vitlora import Classifier
from vitlora.core.files import significant, write_json
from vitlora.page.runtime import RUNTIME
from vitlora.storage.manifest import write_manifest

PICTURES = 100
DONE = "document.querySelector('#state').textContent === 'Done'"
READY = "document.documentElement.dataset.ready"
SHARES = "[...document.querySelectorAll('.card')].map((card) => JSON.parse(card.dataset.shares))"
MS = "[...document.querySelectorAll('.facts')].map((line) => Number(line.textContent.match(/(\\d+)\\u00a0ms/)[1]))"


def main() -> None:
    """Measure each model and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=EXPORTED:PICTURES")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3, help="builds and starts, of which the median is written")
    args = parser.parse_args()
    figures = {}
    for given in args.models:
        name, places = given.split("=", 1)
        model, pictures = map(Path, places.split(":", 1))
        figures[name] = measure(model, sorted(pictures.iterdir())[:PICTURES], args.repeats)
        print(name, figures[name])
    load = [significant(each, 2) for each in os.getloadavg()]  # of the last 1, 5 and 15 minutes
    from common import host  # loads torch

    runtime = f"{RUNTIME.name} {RUNTIME.version}"
    write_json(args.out, {"runtime": runtime, "models": figures, "load": load, "host": host()})


def measure(model: Path, pictures: list[Path], repeats: int) -> dict:
    """Return the figures of a model in both precisions."""
    classifier = Classifier(model)
    names = classifier.class_names
    given = np.array([[answer.probabilities[name] for name in names] for answer in classifier(pictures)])
    found: dict = {"image_size": classifier.facts["image_size"], "pictures": len(pictures)}
    with tempfile.TemporaryDirectory() as place:
        for precision in ("int8", "fp32"):
            folder = copied(model, Path(place, precision), precision)
            seconds = [built(folder) for _ in range(repeats)]
            page = folder / "page.html"
            runs = [browsed(page, pictures, Path(place, f"profile{number}")) for number in range(repeats)]
            found[precision] = {
                "bytes": page.stat().st_size,
                "build_seconds": significant(statistics.median(seconds), 3),
                **near(np.array(runs[0]["shares"]), given),
                "ready_seconds": significant(statistics.median(run["ready"] for run in runs), 3),
                "picture_ms": statistics.median(statistics.median(run["ms"]) for run in runs),
                "fastest_picture_ms": min(min(run["ms"]) for run in runs),
                "requests_outside": sum(run["outside"] for run in runs),
            }
    return found


def copied(model: Path, folder: Path, precision: str) -> Path:
    """Copy what a page needs of an exported folder, with the int8 model or without it."""
    folder.mkdir()
    names = ["model.onnx", "vitlora.json", "README.md", *(["model_int8.onnx"] if precision == "int8" else [])]
    for name in names:
        shutil.copy2(model / name, folder / name)
    write_manifest(folder)
    return folder


def built(folder: Path) -> float:
    """Return how long the command takes."""
    command = [sys.executable, "-m", "vitlora", "page", "--model", str(folder), "--out", str(folder / "page.html")]
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


def browsed(page: Path, pictures: list[Path], profile: Path) -> dict:
    """Open a page in a fresh browser and give it all pictures."""
    with browser(profile) as tab:
        ready = float(tab.open(f"file://{page.resolve()}", READY)) / 1000
        tab.choose("#files", pictures)
        tab.wait(DONE)
        assert not tab.problems, tab.problems
        outside = [address for address in tab.requests if not address.startswith(("file://", "blob:null/", "data:"))]
        return {"ready": ready, "shares": tab.run(SHARES), "ms": tab.run(MS), "outside": len(outside)}


def near(found: np.ndarray, given: np.ndarray) -> dict:
    """Return how near the page's probabilities (N, C) are to predict's."""
    apart = np.abs(found - given).max(axis=1)
    return {
        "class_agreement": float((found.argmax(axis=1) == given.argmax(axis=1)).mean()),
        "largest_difference": significant(float(apart.max()), 3),
        "difference_19_of_20": significant(float(np.percentile(apart, 95)), 3),
        "median_difference": significant(float(np.median(apart)), 3),
    }


if __name__ == "__main__":
    main()
