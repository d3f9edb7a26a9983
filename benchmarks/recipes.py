"""Which settings train a better model: the same pictures and seeds, one setting or a few changed at a time.

Every arm is preprocessed, trained and evaluated by the stages' own functions, once a seed, which draws val too. Its
difference from the first arm is taken seed by seed, with Student's 95 % interval. ``--search`` leaves the official test
pictures out and scores on a part of the training pictures instead, another for each seed: that is where settings may
be picked. ``--rarest 0.1`` makes classes unequal: the last keeps a tenth of its training pictures, those between fall
by equal factors; val and test stay as they are.

    PYTHONPATH=src python benchmarks/recipes.py --arms imbalance --rarest 0.1 --params benchmarks/food101_10.yaml \
        --raw data/raw --base models/base --seeds 0,1,2,3,4,5 --out imbalance.json
"""

import argparse
import hashlib
import json
import os
import shutil
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, set_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import host
from scipy.stats import ttest_1samp

from vitlora.core.cores import cores
from vitlora.core.files import read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate.params import EvaluateStage
from vitlora.evaluate.stage import evaluate
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.storage.packed import Packed, write_packed
from vitlora.train.params import TrainStage
from vitlora.train.stage import train

Arms = dict[str, dict[str, Any]]
BY_CLASS = {"train.metric_for_best_model": "balanced_accuracy"}
LONG = {  # preset folder until it trained all weights
    "lora.method": "lora",
    "train.learning_rate": 2e-3,
    "train.num_train_epochs": 16,
    "train.layer_decay": 1.0,
    "augment.cutmix_alpha": 0.0,
}
PLAIN = {**LONG, "train.num_train_epochs": 15, "augment.scale": [0.08, 1.0]}  # food101_10.yaml, but cosine
RATE = {text: {"train.learning_rate": float(text)} for text in ("5e-5", "1e-4", "2e-4", "3e-4", "5e-4", "1e-3", "3e-3")}
LAYERS = {"train.layer_decay": 0.75}
AVERAGE = {"train.ema_decay": 0.99}
SMOOTH = {"train.label_smoothing_factor": 0.1}
TRIVIAL = {"augment.policy": "trivialaugment"}
ATTENTION = {"lora.target_modules": "attention"}
ALL = {"lora.target_modules": "all-linear"}
FULL = {"lora.method": "full", **LAYERS}
BEST = {**FULL, **RATE["1e-4"]}
CHANGES: Arms = {
    "smoothing 0.1": SMOOTH,
    "TrivialAugment": TRIVIAL,
    "TrivialAugment, smoothing 0.1": {**TRIVIAL, **SMOOTH},
    "crops from 0.08": {"augment.scale": [0.08, 1.0]},
    "crops from 0.6": {"augment.scale": [0.6, 1.0]},
    "24 epochs": {"train.num_train_epochs": 24},
    "rate 1e-3": RATE["1e-3"],
    "rate 3e-3": RATE["3e-3"],
    "average 0.99": AVERAGE,
    "soup of 4": {"train.soup_size": 4},
    "mean from epoch 10": {"train.swa_epoch_start": 10},
    "head first": {"train.head_only_epochs": 1},
    "head / 5": {"train.head_learning_rate": 4e-4},
    "r 32": {"lora.r": 32, "lora.lora_alpha": 32},
    "layers 0.75": LAYERS,
    "bicubic": {"image.interpolation": "bicubic"},
    "280 px": {"image.size_px": 280},
    "dora": {"lora.method": "dora"},
    "query, key and value": {"lora.target_modules": ["query", "key", "value"]},
    "attention": ATTENTION,
    "attention, rate 1e-3": {**ATTENTION, **RATE["1e-3"]},
    "all-linear, rate 1e-3": {**ALL, **RATE["1e-3"]},
    "all-linear, rate 5e-4": {**ALL, **RATE["5e-4"]},
    "all-linear, rate 3e-4": {**ALL, **RATE["3e-4"]},
    "all-linear, layers 0.75": {**ALL, **LAYERS},
    "all-linear, rate 1e-3, layers 0.75": {**ALL, **RATE["1e-3"], **LAYERS},
    "all-linear, rate 1e-3, TrivialAugment": {**ALL, **RATE["1e-3"], **TRIVIAL},
    "all-linear, rate 5e-4, layers 0.75": {**ALL, **RATE["5e-4"], **LAYERS},
    "all-linear, rate 5e-4, average 0.99": {**ALL, **RATE["5e-4"], **AVERAGE},
    "all-linear, pissa, rate 3e-4": {**ALL, **RATE["3e-4"], "lora.method": "pissa"},
    "full, rate 1e-4": {**BEST, "train.layer_decay": 1.0},
    "full, layers 0.65, rate 1e-4": {**BEST, "train.layer_decay": 0.65},
    "full, layers 0.75, rate 5e-5": {**FULL, **RATE["5e-5"]},
    "full, layers 0.75, rate 1e-4": BEST,
    "full, layers 0.75, rate 2e-4": {**FULL, **RATE["2e-4"]},
    "full, layers 0.75, rate 3e-4": {**FULL, **RATE["3e-4"]},
    "full, layers 0.75, rate 5e-4": {**FULL, **RATE["5e-4"]},
    "full, layers 0.75, rate 3e-4, 10 epochs": {**FULL, **RATE["3e-4"], "train.num_train_epochs": 10},
    "full, layers 0.75, rate 1e-4, 12 epochs": {**BEST, "train.num_train_epochs": 12},
    "full, layers 0.75, rate 1e-4, 14 epochs": {**BEST, "train.num_train_epochs": 14},
    "full, layers 0.75, rate 1e-4, batch 64": {**BEST, "train.per_device_train_batch_size": 64},
    "full, layers 0.75, rate 2e-4, batch 64": {**FULL, **RATE["2e-4"], "train.per_device_train_batch_size": 64},
    "full, layers 0.75, rate 1e-4, head x 10": {**BEST, "train.head_learning_rate": 1e-3},
    "full, layers 0.75, rate 1e-4, average 0.99": {**BEST, **AVERAGE},
    "full, layers 0.75, rate 1e-4, TrivialAugment": {**BEST, **TRIVIAL},
    "full, layers 0.75, rate 1e-4, smoothing 0.1": {**BEST, **SMOOTH},
}
CUTMIX = {**LONG, "augment.cutmix_alpha": 1.0}
ARMS: dict[str, Arms] = {
    "imbalance": {
        "cross entropy": BY_CLASS,
        "balanced weights": {**BY_CLASS, "train.class_weights": "balanced"},
        "effective number": {**BY_CLASS, "train.class_weights": "effective_number"},
        "focal 2": {**BY_CLASS, "train.focal_gamma": 2.0},
        "logit adjustment": {**BY_CLASS, "train.logit_adjustment": 1.0},
        "balanced sampling": {**BY_CLASS, "train.sampling": "balanced"},
        "smoothing 0.1": {**BY_CLASS, **SMOOTH},
        "weights + focal 2": {**BY_CLASS, "train.class_weights": "balanced", "train.focal_gamma": 2.0},
    },
    "folder": {  # of presets/folder.yaml
        "plain, 15 epochs": PLAIN,
        "long": LONG,
        **{f"long, {name}": {**LONG, **changes} for name, changes in CHANGES.items()},
        "CutMix": CUTMIX,
        **{f"CutMix, {name}": {**CUTMIX, **changes} for name, changes in CHANGES.items()},
    },
}
SCORES = ("accuracy", "balanced_accuracy", "accuracy_with_flip")


def main() -> None:
    """Train every arm with every seed; save after each, so that nothing is lost when time runs out."""
    args = parse()
    arms = {name: changes for name, changes in ARMS[args.arms].items() if not args.only or name in args.only}
    asked = {name: getattr(args, name) for name in ("search", "rarest", "per_class", "jobs", "set")}
    result: dict[str, Any] = {"host": host(), **asked}
    result |= {"params": args.params.name, "arms": {name: {"changes": arms[name], "runs": []} for name in arms}}
    # As trials beside each other have it: six evaluations, each with threads for all cores, take minutes for seconds.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // args.jobs)))
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        documents = {
            (seed, name): settings(args, {**arms[name], "train.seed": seed, "split.seed": seed})
            for seed in args.seeds
            for name in arms
        }
        kinds = {kind(document): document for document in documents.values()}  # arms share what is prepared alike
        cpus = sorted(os.sched_getaffinity(0))
        beside = min(args.jobs, len(kinds), len(cpus))
        for done in [
            pool.submit(prepare, args, document, args.work / key, set(cpus[at % beside :: beside]))
            for at, (key, document) in enumerate(kinds.items())
        ]:
            done.result()
        runs = [pool.submit(run, args, seed, name, document) for (seed, name), document in documents.items()]
        for one in as_completed(runs):
            name, row, counts = one.result()
            result["training_images"] = counts
            result["arms"][name]["runs"].append(row)
            result["arms"][name]["runs"].sort(key=lambda row: row["seed"])
            compare(result["arms"])
            write_json(args.out, result)
    print_table(result["arms"])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "raw", "base", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--arms", choices=list(ARMS), required=True)
    parser.add_argument("--only", type=lambda text: text.split(";"), help="names of arms, with ; between")
    parser.add_argument("--search", action="store_true", help="score on a part of the training pictures")
    parser.add_argument("--rarest", type=float, default=1.0, help="share of its pictures that the last class keeps")
    parser.add_argument("--per-class", type=int, help="cap the training pictures, and val with them")
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="seeds at a time; above 1 the seconds mean little")
    parser.add_argument("--set", nargs="*", default=[], help="values for all arms, such as image.size_px=98")
    parser.add_argument("--work", type=Path, default=Path(".work/recipes"))
    args = parser.parse_args()
    for name in ("params", "raw", "base", "out", "work"):
        setattr(args, name, getattr(args, name).resolve())
    return args


def kind(document: dict[str, Any]) -> str:
    """Return a name for what a run's pictures are prepared by."""
    told = json.dumps([document[section] for section in ("ingest", "image", "split")], default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def run(
    args: argparse.Namespace, seed: int, name: str, document: dict[str, Any]
) -> tuple[str, dict[str, Any], dict[str, int]]:
    """Train an arm with a seed, in a folder of its own; return its name, its row, and images per class."""
    set_start_method("fork", force=True)  # of the loaders, as in a process that was not spawned
    prepared = args.work / kind(document)
    work = args.work / f"{seed}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    os.chdir(work)  # the train stage keeps its checkpoints in the working directory
    row = {"seed": seed, **fit(args, document, prepared)}
    print(f"seed {seed}: {name}: {json.dumps(row)}", flush=True)
    return name, row, read_json(prepared / "counts.json")


def settings(args: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """Return the params with an arm's changes."""
    document = read_document(args.params)
    common = {key: json.loads(value) for key, _, value in (word.partition("=") for word in args.set)}
    for key, value in {"evaluate.tta": "flip", **common, **changes}.items():
        section, name = key.split(".")
        document[section][name] = value
    return document


def prepare(args: argparse.Namespace, document: dict[str, Any], folder: Path, cpus: set[int]) -> None:
    """Preprocess as the stage does, with a process a core, then thin out the training pictures as asked for."""
    all_cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    raw, stage = args.raw, load_params(PreprocessStage, document, args.params)
    if args.search:
        raw = folder / "raw"
        leave_out_official(args.raw, raw)
    names = ("train", "val", "test", "labels.json", "page.html", "report.json")
    preprocess(stage.ingest, stage.image, stage.split, raw, *(folder / name for name in names))
    shutil.move(folder / "train", folder / "all")
    counts = thin_out(folder, args.rarest, args.per_class)
    write_json(folder / "counts.json", counts)
    os.sched_setaffinity(0, all_cpus)


def leave_out_official(source: Path, target: Path) -> None:
    """Copy what download wrote, without the data's own val and test pictures."""
    packed = Packed(source)
    columns, rows = packed.columns, packed.rows
    kept = [at for at, row in enumerate(rows) if row["split"] == "train"]
    write_packed(target, columns, (([rows[at][name] for name in columns], packed[at]) for at in kept))
    for name in ("classes.json", "left_out.json"):
        shutil.copy(source / name, target / name)


def thin_out(folder: Path, rarest: float, most: int | None) -> dict[str, int]:
    """Write the training pictures with classes of falling size; return how many each has."""
    packed, names = Packed(folder / "all"), read_json(folder / "labels.json")["class_names"]
    about = packed.rows
    labels = np.array([int(row["label"]) for row in about])
    kept: list[int] = []
    for label in range(len(names)):
        rows = np.flatnonzero(labels == label)
        share = rarest ** (label / (len(names) - 1))
        chosen = np.random.default_rng(label).permutation(rows)[: max(1, round(share * len(rows)))]
        kept += chosen[:most].tolist()
    columns = packed.columns
    items = ([about[row][name] for name in columns] for row in sorted(kept))
    write_packed(folder / "train", columns, zip(items, (packed[row] for row in sorted(kept)), strict=True))
    return {names[label]: int((labels[kept] == label).sum()) for label in range(len(names))}


def fit(args: argparse.Namespace, document: dict[str, Any], prepared: Path) -> dict[str, Any]:
    """Train and evaluate as the stages do."""
    stage = load_params(TrainStage, document, args.params)
    scoring = load_params(EvaluateStage, document, args.params).evaluate
    data, val, test, labels = (prepared / name for name in ("train", "val", "test", "labels.json"))
    for folder in ("adapter", "plots", "evaluated", "scores"):
        shutil.rmtree(folder, ignore_errors=True)
    outputs = Path("adapter"), Path("train.json"), Path("plots")
    start = time.perf_counter()
    train(stage.augment, stage.lora, stage.train, args.base, data, val, labels, *outputs).checkpoints.remove()
    seconds = round(time.perf_counter() - start, 1)
    evaluate(scoring, args.base, outputs[0], val, test, labels, Path("evaluated"), Path("scores"))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    scores, trained = read_json(Path("scores/scores.json")), read_json(outputs[1])
    found = {name: scores[name] for name in SCORES}
    return {**found, "val_accuracy": trained["val_accuracy"], "epochs": trained["epochs"], "train_s": seconds}


def compare(arms: dict[str, Any]) -> None:
    """Add each arm's means, and its differences from the first, over the seeds that there are by now."""
    first = {row["seed"]: row for row in next(iter(arms.values()))["runs"]}
    for arm in (arm for arm in arms.values() if arm["runs"]):
        for score in SCORES:
            pairs = [(row[score], first[row["seed"]][score]) for row in arm["runs"] if row["seed"] in first]
            arm[score] = {"mean": statistics.mean(row[score] for row in arm["runs"])}
            apart = [mine - theirs for mine, theirs in pairs]
            if apart:
                arm[score]["difference"] = statistics.mean(apart)
            if len(apart) > 1 and any(apart):
                interval = ttest_1samp(apart, 0).confidence_interval(0.95)
                arm[score] |= {"low": float(interval.low), "high": float(interval.high)}


def print_table(arms: dict[str, Any]) -> None:
    """Print a row an arm."""
    print("\n| arm | accuracy | difference | balanced accuracy | difference | with flip | s |\n" + "|---" * 7 + "|")
    for name, arm in arms.items():
        seconds = statistics.median(row["train_s"] for row in arm["runs"])
        cells = " | ".join(f"{arm[score]['mean']:.4f} | {_difference(arm[score])}" for score in SCORES[:2])
        print(f"| {name} | {cells} | {arm[SCORES[2]]['mean']:.4f} | {seconds} |")


def _difference(score: dict[str, float]) -> str:
    interval = f" ({score['low']:+.4f} to {score['high']:+.4f})" if "low" in score else ""
    return f"{score['difference']:+.4f}{interval}"


if __name__ == "__main__":
    main()
