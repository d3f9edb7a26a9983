"""Adapters against a linear head on real photographs, through the pipeline's own stages.

Runs `train`, `evaluate` and `export` for each seed as `dvc repro` would, on a data set that `download` has brought,
then trains the same head on the same frozen base with no adapter, with the same Trainer, batches and augmentation.

    PYTHONPATH=src python benchmarks/food101_10.py --raw data/raw --base models/base --out results.json

The learning rates were picked on val (`--search` prints that table); test is scored once a seed.
"""

import argparse
import json
import shutil
import statistics
import time
from pathlib import Path

import torch
from common import host

from vitlora.core.files import read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate import stage as evaluation
from vitlora.evaluate.params import EvaluateStage
from vitlora.export.params import ExportStage
from vitlora.export.stage import export
from vitlora.model.base import device_of_choice, load_base, read_normalisation
from vitlora.model.inference import score
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.storage.labels import read_labels
from vitlora.storage.packed import Packed
from vitlora.storage.squares import load_split
from vitlora.train.dataset import TrainImages, TrainLoader
from vitlora.train.params import Train, TrainStage
from vitlora.train.stage import (
    CHECKPOINTS,
    ImageTrainer,
    images_of_step,
    loader_workers,
    set_seed,
    train,
    training_arguments,
)
from vitlora.train.step import Way

PREPARED = ("train", "val", "test", "labels.json")


def main() -> None:
    """Run all seeds of both, and write accuracies, times, card and versions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--raw", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".work/food101_10"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--head-lr", type=float, default=2e-3)
    parser.add_argument("--search", action="store_true", help="print val accuracy of several learning rates, no test")
    args = parser.parse_args()
    document = read_document(args.params)
    prepared = args.work / "prepared"
    if not (prepared / "labels.json").exists():
        stage = load_params(PreprocessStage, document, args.params)
        paths = [prepared / name for name in PREPARED]
        paths += [args.work / "report.html", args.work / "preprocess.json"]
        preprocess(stage.ingest, stage.image, stage.split, args.raw, *paths)
    stage = load_params(TrainStage, document, args.params)
    if args.search:
        search(stage, args.base, prepared, args.work)
        return
    runs = {"lora": [], "head": []}
    for seed in range(args.seeds):
        chosen = stage.train.model_copy(update={"seed": seed})
        runs["lora"].append(lora(stage, chosen, args.base, prepared, args.work, document, args.params))
        head_only = chosen.model_copy(update={"learning_rate": args.head_lr})
        runs["head"].append(head(stage, head_only, args.base, prepared, args.work))
        print(json.dumps({name: rows[-1] for name, rows in runs.items()}), flush=True)
    means = {name: statistics.mean(row["test_accuracy"] for row in rows) for name, rows in runs.items()}
    write_json(args.out, {"runs": runs, "mean_test_accuracy": means, "params": document, **host(), **counts(prepared)})


def lora(stage, chosen: Train, base: Path, prepared: Path, work: Path, document: dict, params: Path) -> dict:
    """Train, evaluate and export as the stages do; return the scores."""
    train_images, val, test, labels = (prepared / name for name in PREPARED)
    adapter, out, exported = work / "adapter", work / "evaluate", work / "export"
    for folder in (adapter, out, exported):
        shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    train(
        stage.augment, stage.lora, chosen, base, train_images, val, labels, adapter, work / "train.json", work / "plots"
    ).checkpoints.remove()
    seconds = time.perf_counter() - start
    settings = load_params(EvaluateStage, document, params).evaluate
    evaluation.evaluate(settings, base, adapter, val, test, labels, work / "evaluated", out)
    wanted = load_params(ExportStage, document, params).export
    calibration = work / "evaluated/calibration.json"
    export(wanted, base, adapter, test, out / "predictions.csv", calibration, exported, work / "export.json")
    scores, trained = read_json(out / "scores.json"), read_json(work / "train.json")
    return {
        "seed": chosen.seed,
        "test_accuracy": scores["accuracy"],
        "macro_f1": scores["macro_f1"],
        "val_accuracy": trained["val_accuracy"],
        "best_epoch": trained["best_epoch"],
        "precision": trained["precision"],
        "trainable_parameters": trained["trainable_parameters"],
        "train_stage_s": round(seconds, 1),
        "export": read_json(work / "export.json"),
    }


def head(stage, chosen: Train, base: Path, prepared: Path, work: Path) -> dict:
    """Train only the classifier on the frozen base, all else as in ``train``; return the scores."""
    train_images, val, test, labels = (prepared / name for name in PREPARED)
    known, normalisation = read_labels(labels), read_normalisation(base)
    set_seed(chosen.seed)
    model, fresh = load_base(base, known.class_names, known.image_size)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in fresh)
    law = (known.image_size, known.interpolation, stage.augment)
    images = TrainImages(train_images, *law, chosen.seed, chosen.decoder)
    epochs, workers = chosen.num_train_epochs, loader_workers(chosen)
    loader = TrainLoader(images, chosen.seed, images_of_step(chosen), epochs, workers, torch.cuda.is_available())
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    args = training_arguments(chosen)
    model.to(device_of_choice())
    trainer = ImageTrainer(model, args, loader, load_split(val), normalisation, Way("eager"))
    start = time.perf_counter()
    trainer.train()
    squares = load_split(test)
    logits = score(trainer.model.eval(), squares, normalisation, 256)
    accuracies = [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry]
    return {
        "seed": chosen.seed,
        "test_accuracy": float((logits.argmax(1) == squares.labels).mean()),
        "val_accuracy": max(accuracies),
        "trainable_parameters": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "train_s": round(time.perf_counter() - start, 1),
    }


def search(stage, base: Path, prepared: Path, work: Path) -> None:
    """Print val accuracy for several learning rates of both, seed 0."""
    train_images, val, _, labels = (prepared / name for name in PREPARED)
    for rate in (5e-4, 1e-3, 2e-3, 5e-3):
        chosen = stage.train.model_copy(update={"learning_rate": rate})
        shutil.rmtree(work / "adapter", ignore_errors=True)
        train(
            stage.augment, stage.lora, chosen, base, train_images, val, labels, work / "adapter", work / "t.json", work
        ).checkpoints.remove()
        with_head = head(stage, chosen, base, prepared, work)
        with_lora = read_json(work / "t.json")
        print(f"lr {rate}: lora val {with_lora['val_accuracy']:.4f}, head {with_head['val_accuracy']:.4f}", flush=True)


def counts(prepared: Path) -> dict:
    """Return how many images each split has."""
    squares = {name: len(load_split(prepared / name).labels) for name in PREPARED[1:3]}
    return {"images": {"train": len(Packed(prepared / "train")), **squares}}


if __name__ == "__main__":
    main()
