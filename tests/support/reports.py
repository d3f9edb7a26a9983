"""Writes all results that the report shows, and pictures, without training."""

import hashlib
import json

import numpy as np
import results
from PIL import Image

from vitlora.core.files import write_csv, write_json
from vitlora.evaluate.calibration import Calibration
from vitlora.evaluate.records import write_scores
from vitlora.storage.packed import write_packed
from vitlora.storage.squares import Squares, create_split, open_pixels

NAMES = ["ant", "bee", "<b>cat</b>", "dog"]
SIZE = 32
EACH = 30


def digest(path):
    return hashlib.sha256(path.encode()).hexdigest()


def make_report_run(root, logits, labels, names=NAMES, params=None):
    """Write what a finished run leaves in metrics/, and its logits."""
    paths = [f"test/{row:05d}.png" for row in range(len(labels))]
    digests = [digest(path) for path in paths]
    results.write_run(root, logits, labels, names=names, paths=paths, digests=digests, params=params)
    before = (root / "metrics/evaluate/predictions.csv").read_bytes()
    squares = Squares(np.zeros((len(labels), 3, 1, 1), np.uint8), labels, paths, digests)
    calibration = Calibration(1.0, 0.9, 0.2, 50)
    write_scores(logits, squares, names, calibration, 2, root / "metrics/evaluate", "fp32")
    assert (root / "metrics/evaluate/predictions.csv").read_bytes() == before
    trained = {"method": "lora", "trainable_parameters": 302602, "total_parameters": 22366868, "best_epoch": 2}
    write_json(root / "metrics/train/metrics.json", {**trained, "epochs": 3, "steps": 12, "adapted_modules": 24})
    plots = root / "metrics/train/plots"
    write_csv(
        plots / "epochs.csv",
        ("epoch", "step", "train_loss", "val_loss", "val_accuracy"),
        [(1, 4, 1.2, 0.9, 0.5), (2, 8, 0.6, 0.5, 0.8), (3, 12, 0.4, 0.55, 0.75)],
    )
    write_csv(
        plots / "steps.csv", ("step", "epoch", "loss", "learning_rate"), [(2, 0.5, 1.3, 0.001), (4, 1, 1.1, 0.002)]
    )
    data = {
        "train": 40,
        "val": 8,
        "test": len(labels),
        "classes": len(names),
        "imbalance": 1.5,
        "bad": 1,
        "left_out": 2,
    }
    counts = {"exact_duplicates": 0, "near_duplicates": 2, "near_duplicates_across_splits": 1, "small_classes": []}
    both = {"paths": [paths[0], "train/00003.png"], "splits": ["test", "train"], "classes": names[:2]}
    alike = [{**both, "similarity": 0.97}]
    write_json(root / "metrics/preprocess.json", {**data, **counts, "similar_pictures": alike})
    same = hashlib.sha256((root / "metrics/train/metrics.json").read_bytes()).hexdigest()
    ran = {"stage": "train", "results": same, "seconds": 75.2, "device": "cpu", "processor": "A Processor", "cores": 2}
    about = {"python": "3.11.7", "versions": {"torch": "2.14.1"}, "system": "Linux", "commit": "ab" * 20}
    write_json(root / "metrics/ran/train.json", {**ran, **about})


def make_pictures(root, labels):
    """Write test squares and training originals, of other sizes each."""
    random = np.random.default_rng(0)
    paths = [f"test/{row:05d}.png" for row in range(len(labels))]
    folder = root / "data/prepared/test"
    create_split(folder, SIZE, paths, labels.tolist(), [digest(path) for path in paths])
    coarse = random.integers(0, 256, (len(labels), 3, 2, 2), np.uint8)
    open_pixels(folder, "r+")[:] = coarse.repeat(SIZE // 2, axis=2).repeat(SIZE // 2, axis=3)
    items = []
    for row in range(16):
        path = root / f"{row}.png"
        width, height = 20 + 3 * row, 30 + row
        Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)).save(path)
        name = f"train/{row:05d}.png"
        items.append(((name, row % 4, digest(name), width, height, 0), path.read_bytes()))
        path.unlink()
    write_packed(root / "data/prepared/train", ("path", "label", "sha256", "width", "height", "plain"), items)


def scores_of(root):
    return json.loads((root / "metrics/evaluate/scores.json").read_text())
