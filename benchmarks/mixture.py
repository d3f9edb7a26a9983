"""Two adapters that each know half of the classes, combined for all of them: merges against X-LoRA's gate.

For each seed, in a process of its own, adapter A is trained on the first half of the classes and B on the second.
Then, on all classes: each alone, merged by PEFT's ways, and mixed by X-LoRA, with a newly trained head every time; LoRA
and a bare head on all classes are the two ends of the scale. Test is scored once a run, and nothing is picked by it.

    PYTHONPATH=src python benchmarks/mixture.py --params params.yaml --prepared data/prepared --base models/base \
        --work .work/mixture --out mixture.json --seeds 0,1,2 --epochs 3
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from common import host

from vitlora.core.files import read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate.params import EvaluateStage
from vitlora.evaluate.stage import evaluate
from vitlora.storage.manifest import digest
from vitlora.storage.packed import Packed, write_packed
from vitlora.storage.squares import create_split, load_split, open_pixels
from vitlora.train.params import TrainStage
from vitlora.train.stage import train

BOTH = ("a", "b")
# Name: (method, adapters, options)
RUNS = {
    "a alone": ("merge", "a", {}),
    "b alone": ("merge", "b", {}),
    "linear": ("merge", BOTH, {}),
    "ties": ("merge", BOTH, {"combination_type": "ties", "density": 0.5}),
    "dare_linear": ("merge", BOTH, {"combination_type": "dare_linear", "density": 0.5}),
    "svd": ("merge", BOTH, {"combination_type": "svd"}),
    "svd, weights 1": ("merge", BOTH, {"combination_type": "svd", "weights": [1.0, 1.0]}),
    "xlora dense": ("xlora", BOTH, {}),
    "xlora top-1": ("xlora", BOTH, {"top_k_lora": 1}),
    "lora on all classes": ("lora", (), {}),
    "head on all classes": ("head", (), {}),
}


def main() -> None:
    """Run all seeds side by side, and write accuracies, scalings, times, card and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "prepared", "base", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".work/mixture"))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, help="of every run; as the parameters say if left out")
    args = parser.parse_args()
    document = read_document(args.params)
    if args.epochs:
        document["train"]["num_train_epochs"] = args.epochs
    if torch.cuda.is_available():
        document["train"]["dataloader_num_workers"] = 3  # several seeds at once
    names = read_json(args.prepared / "labels.json")["class_names"]
    halves = {"a": names[: len(names) // 2], "b": names[len(names) // 2 :]}
    for name, classes in halves.items():
        shutil.rmtree(args.work / name, ignore_errors=True)  # made anew in a second
        keep_classes(args.prepared, args.work / name, classes)
    seeds = [int(seed) for seed in args.seeds.split(",")]
    params = {part: document[part] for part in ("image", "split", "augment", "lora", "train")}
    result = {"classes": halves, "params": params, **host(), "experts": [], "runs": []}
    with ProcessPoolExecutor(len(seeds), mp_context=multiprocessing.get_context("spawn")) as pool:
        for experts, runs in pool.map(one_seed, [args] * len(seeds), [document] * len(seeds), seeds):
            result["experts"] += experts
            result["runs"] += runs
    write_json(args.out, {**result, "test_accuracy": summary(result["runs"])})
    print_table(result["runs"])


def one_seed(args: argparse.Namespace, document: dict, seed: int) -> tuple[list[dict], list[dict]]:
    """Train both adapters and all that is made of them, in a process and a folder of its own."""
    for name in ("prepared", "base", "work"):
        setattr(args, name, getattr(args, name).resolve())
    document["train"]["seed"] = seed
    here = args.work / f"seed-{seed}"
    here.mkdir(parents=True, exist_ok=True)
    os.chdir(here)  # checkpoints lie in the working folder
    torch.set_num_threads(2)
    kept = Path("rows.json")  # a stopped run goes on after the last of these
    experts, runs = read_json(kept) if kept.exists() else ([], [])
    for name in BOTH[len(experts) :]:
        row = fit(document, args, "lora", {}, args.work / name, Path(f"adapter-{name}"))
        experts.append({"name": name, "seed": seed, **row})
        write_json(kept, [experts, runs])
    for name, (method, adapters, options) in list(RUNS.items())[len(runs) :]:
        folders = [Path(f"adapter-{each}").resolve() for each in adapters]
        pins = [f"{folder}@sha256:{digest(folder)}" for folder in folders]
        options = {**options, "adapters": pins} if pins else options
        row = fit(document, args, method, options, args.prepared, Path("adapter"))
        if "mean_scalings" in row:
            row["mean_scalings"] = dict(zip(adapters, row["mean_scalings"].values(), strict=True))
        row["test_accuracy"] = score(document, args)
        about = {**options, "adapters": list(adapters)} if pins else options
        runs.append({"name": name, "seed": seed, "method": method, "options": about, **row})
        write_json(kept, [experts, runs])
        print(f"seed {seed}: {name}: test accuracy {row['test_accuracy']:.4f}", flush=True)
    return experts, runs


def print_table(rows: list[dict]) -> None:
    """Print the means, best first."""
    print("\n| | accuracy | seeds from, to | trained |\n|---|---|---|---|")
    found = summary(rows)
    for name in sorted(found, key=lambda each: -found[each]["mean"]):
        trained = next(row["trainable_parameters"] for row in rows if row["name"] == name)
        part = found[name]
        print(f"| {name} | {part['mean']:.3f} | {part['least']:.3f}, {part['most']:.3f} | {trained:,} |")


def summary(rows: list[dict]) -> dict:
    """Return mean, least and most of each kind of run."""
    found = {name: [row["test_accuracy"] for row in rows if row["name"] == name] for name in RUNS}
    return {
        name: {"mean": statistics.mean(values), "least": min(values), "most": max(values), "runs": len(values)}
        for name, values in found.items()
        if values
    }


def fit(document: dict, args: argparse.Namespace, method: str, options: dict, data: Path, adapter: Path) -> dict:
    """Train as the stage does; return what it says of itself."""
    lora = {**document["lora"], "method": method, "options": options}
    stage = load_params(TrainStage, {**document, "lora": lora}, args.params)
    shutil.rmtree(adapter, ignore_errors=True)
    inputs = [data / name for name in ("train", "val", "labels.json")]
    start = time.perf_counter()
    train(stage.augment, stage.lora, stage.train, args.base, *inputs, adapter, Path("m.json"), Path("plots"))
    about = read_json(Path("m.json"))
    keys = ("val_accuracy", "best_epoch", "trainable_parameters", "precision", "step", "mean_scalings")
    return {**{key: about[key] for key in keys if key in about}, "train_s": round(time.perf_counter() - start, 1)}


def score(document: dict, args: argparse.Namespace) -> float:
    """Return the accuracy on test that the evaluate stage finds."""
    settings = load_params(EvaluateStage, document, args.params).evaluate
    out = Path("scores")
    val, test, labels = (args.prepared / name for name in ("val", "test", "labels.json"))
    evaluate(settings, args.base, Path("adapter"), val, test, labels, Path("evaluated"), out)
    return float(read_json(out / "scores.json")["accuracy"])


def keep_classes(prepared: Path, target: Path, classes: list[str]) -> None:
    """Write train, val and labels of some classes alone, as preprocess would."""
    labels = read_json(prepared / "labels.json")
    new = {labels["class_names"].index(name): place for place, name in enumerate(classes)}
    target.mkdir(parents=True)
    write_json(target / "labels.json", {**labels, "class_names": classes})
    packed = Packed(prepared / "train")
    columns = packed.columns
    chosen = [number for number, row in enumerate(packed.rows) if int(row["label"]) in new]
    about = packed.rows
    rows = [{**about[number], "label": new[int(about[number]["label"])]} for number in chosen]
    items = ([row[name] for name in columns] for row in rows)
    write_packed(target / "train", columns, zip(items, (packed[number] for number in chosen), strict=True))
    val = load_split(prepared / "val")
    kept = np.flatnonzero(np.isin(val.labels, list(new)))
    values = [new[label] for label in val.labels[kept].tolist()]
    some = val.pick(kept.tolist())
    create_split(target / "val", labels["image_size"], some.paths, values, some.digests)
    pixels = open_pixels(target / "val", "r+")
    pixels[:] = some.images
    pixels.flush()


if __name__ == "__main__":
    main()
