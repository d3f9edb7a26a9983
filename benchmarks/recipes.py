"""Which settings train a better model: the same pictures and seeds, one setting changed at a time.

Every arm is trained and evaluated by the stages' own functions, once a seed; its difference from the first arm is taken
seed by seed, with Student's 95 % interval. Nothing is picked by test. ``--rarest 0.1`` first makes classes unequal: the
last keeps a tenth of its training pictures, those between fall by equal factors; val and test stay as they are.

    PYTHONPATH=src python benchmarks/recipes.py --arms imbalance --rarest 0.1 --params benchmarks/food101_10.yaml \
        --prepared data/prepared --base models/base --seeds 0,1,2,3,4,5 --out imbalance.json
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import host
from scipy.stats import ttest_1samp

from vitlora.core.files import read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate.params import EvaluateStage
from vitlora.evaluate.stage import evaluate
from vitlora.storage.packed import Packed, write_packed
from vitlora.train.params import TrainStage
from vitlora.train.stage import train

Arms = dict[str, dict[str, Any]]
BY_CLASS = {"metric_for_best_model": "balanced_accuracy"}
ARMS: dict[str, Arms] = {
    "imbalance": {
        "cross entropy": BY_CLASS,
        "balanced weights": {**BY_CLASS, "class_weights": "balanced"},
        "effective number": {**BY_CLASS, "class_weights": "effective_number"},
        "focal 2": {**BY_CLASS, "focal_gamma": 2.0},
        "logit adjustment": {**BY_CLASS, "logit_adjustment": 1.0},
        "weights + focal 2": {**BY_CLASS, "class_weights": "balanced", "focal_gamma": 2.0},
    },
    "rates": {
        "as it is": {},
        "smoothing 0.1": {"label_smoothing_factor": 0.1},
        "average 0.9": {"ema_decay": 0.9},
        "average 0.99": {"ema_decay": 0.99},
        "layers 0.75": {"layer_decay": 0.75},
        "head x 3": {"head_learning_rate": 6e-3},
        "cosine": {"lr_scheduler_type": "cosine"},
    },
}
SCORES = ("accuracy", "balanced_accuracy")


def main() -> None:
    """Train every arm with every seed; print and save after each."""
    args = parse()
    result: dict[str, Any] = {"host": host(), "params": args.params.name, "rarest": args.rarest, "arms": {}}
    data = args.work / "train"
    shutil.rmtree(data, ignore_errors=True)
    result["training_images"] = make_unequal(args.prepared, data, args.rarest)
    print(json.dumps(result["training_images"]), flush=True)
    for seed in args.seeds:
        for name, changes in ARMS[args.arms].items():
            row = {"seed": seed, **fit(args, data, {**changes, "seed": seed})}
            result["arms"].setdefault(name, {"changes": changes, "runs": []})["runs"].append(row)
            print(f"seed {seed}: {name}: {json.dumps(row)}", flush=True)
            compare(result["arms"])
            write_json(args.out, result)
    print_table(result["arms"])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "prepared", "base", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--arms", choices=list(ARMS), required=True)
    parser.add_argument("--rarest", type=float, default=1.0, help="share of its pictures that the last class keeps")
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="else those of --params")
    parser.add_argument("--work", type=Path, default=Path(".work/recipes"))
    args = parser.parse_args()
    for name in ("params", "prepared", "base", "out", "work"):
        setattr(args, name, getattr(args, name).resolve())
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)  # the train stage keeps its checkpoints in the working directory
    return args


def make_unequal(prepared: Path, target: Path, rarest: float) -> dict[str, int]:
    """Write the training pictures with classes of falling size; return how many each has."""
    packed, names = Packed(prepared / "train"), read_json(prepared / "labels.json")["class_names"]
    labels = np.array([int(row["label"]) for row in packed.rows])
    kept: list[int] = []
    for label in range(len(names)):
        rows = np.flatnonzero(labels == label)
        share = rarest ** (label / (len(names) - 1))
        chosen = np.random.default_rng(label).permutation(rows)[: max(1, round(share * len(rows)))]
        kept += chosen.tolist()
    columns = [name for name in packed.rows[0] if name not in ("offset", "length")]
    items = ([packed.rows[row][name] for name in columns] for row in sorted(kept))
    write_packed(target, columns, zip(items, (packed[row] for row in sorted(kept)), strict=True))
    return {names[label]: int((labels[kept] == label).sum()) for label in range(len(names))}


def fit(args: argparse.Namespace, data: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Train and evaluate as the stages do."""
    document = read_document(args.params)
    document["train"].update({**changes, **({"num_train_epochs": args.epochs} if args.epochs else {})})
    stage = load_params(TrainStage, document, args.params)
    settings = load_params(EvaluateStage, document, args.params).evaluate
    val, test, labels = (args.prepared / name for name in ("val", "test", "labels.json"))
    for folder in ("adapter", "plots", "evaluated"):
        shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    outputs = Path("adapter"), Path("train.json"), Path("plots")
    train(stage.augment, stage.lora, stage.train, args.base, data, val, labels, *outputs).checkpoints.remove()
    seconds = round(time.perf_counter() - start, 1)
    out = Path("scores")
    evaluate(settings, args.base, outputs[0], val, test, labels, Path("evaluated"), out)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    scores = read_json(out / "scores.json")
    return {**{name: scores[name] for name in SCORES}, "train_s": seconds}


def compare(arms: dict[str, Any]) -> None:
    """Add each arm's means, and its differences from the first, over the seeds that both have."""
    first = next(iter(arms.values()))["runs"]
    for arm in arms.values():
        for score in SCORES:
            ours = [row[score] for row in arm["runs"]]
            apart = [mine - row[score] for mine, row in zip(ours, first, strict=False)]
            arm[score] = {"mean": statistics.mean(ours), "difference": statistics.mean(apart)}
            if len(apart) > 1 and any(apart):
                interval = ttest_1samp(apart, 0).confidence_interval(0.95)
                arm[score] |= {"low": float(interval.low), "high": float(interval.high)}


def print_table(arms: dict[str, Any]) -> None:
    """Print a row an arm."""
    print("\n| arm | accuracy | balanced accuracy | difference | 95 % interval | s |\n" + "|---" * 6 + "|")
    for name, arm in arms.items():
        score = arm["balanced_accuracy"]
        interval = f"{score['low']:+.4f} to {score['high']:+.4f}" if "low" in score else ""
        seconds = statistics.median(row["train_s"] for row in arm["runs"])
        cells = f"{arm['accuracy']['mean']:.4f} | {score['mean']:.4f} | {score['difference']:+.4f} | {interval}"
        print(f"| {name} | {cells} | {seconds} |")


if __name__ == "__main__":
    main()
