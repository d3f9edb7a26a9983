"""What the Trainer itself costs a step: 2,000 steps of a tiny model through the train stage.

The model is a ViT of two layers at 32 px with 32 units, so nearly all of a step is what surrounds the model: fetching,
callbacks, log, schedule, checkpoints' bookkeeping. The second epoch is measured, in milliseconds of the main thread's
processor time a step: all of it, the part inside the optimiser step (on a CPU that is the model's arithmetic), and the
rest. Pictures are tiny JPEGs, loaded by two workers, so that decoding is not the main thread's.

    PYTHONPATH=src python benchmarks/trainer_cost.py --out benchmarks/results/trainer_cost.json
"""

import argparse
import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import host
from peers import prepare
from PIL import Image

from vitlora.core.files import write_json
from vitlora.core.params import load_params, read_document
from vitlora.storage.packed import write_packed
from vitlora.storage.squares import create_split
from vitlora.train.optimise import OptimiserStep
from vitlora.train.params import TrainStage
from vitlora.train.stage import train
from vitlora.train.trainer import ImageTrainer

PARAMS = Path(__file__).resolve().parents[1] / "presets" / "food101.yaml"
SIDE, BATCH, PICTURES = 32, 8, 64


class Clock:
    """Adds up the main thread's processor time, in all and inside the optimiser steps, of the second epoch."""

    def __init__(self) -> None:
        self.inside = self.spent = self.wall = 0.0
        self.steps = 0
        step, epoch = OptimiserStep.__call__, ImageTrainer._run_epoch

        def timed_step(optimise: Any, number: int, batches: Any) -> None:
            begun = time.thread_time()
            step(optimise, number, batches)
            self.inside += time.thread_time() - begun

        def timed_epoch(trainer: Any, **given: Any) -> None:
            self.inside, spent, wall = 0.0, time.thread_time(), time.perf_counter()
            epoch(trainer, **given)
            self.spent, self.wall = time.thread_time() - spent, time.perf_counter() - wall
            self.steps = trainer.steps_per_epoch

        OptimiserStep.__call__ = timed_step
        ImageTrainer._run_epoch = timed_epoch


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    out, clock = args.out.resolve(), Clock()
    torch.set_num_threads(1)  # so that the thread's time is all of the arithmetic's
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        inputs = make(Path(folder), args.steps * BATCH)
        document = read_document(PARAMS)
        document["train"] |= {
            "num_train_epochs": 2,
            "per_device_train_batch_size": BATCH,
            "gradient_accumulation_steps": 1,
            "dataloader_num_workers": 2,
            "save_steps": 10 * args.steps,
        }
        stage = load_params(TrainStage, document, PARAMS)
        places = (Path("adapter"), Path("train.json"), Path("plots"))
        train(stage.augment, stage.lora, stage.train, *inputs, *places).checkpoints.remove()
        os.chdir("/")
    found = {
        "steps": clock.steps,
        "main_thread_ms": {
            "all": round(1000 * clock.spent / clock.steps, 3),
            "in_the_optimiser_step": round(1000 * clock.inside / clock.steps, 3),
            "the_rest": round(1000 * (clock.spent - clock.inside) / clock.steps, 3),
        },
        "wall_ms": round(1000 * clock.wall / clock.steps, 3),
        "host": host(),
    }
    print(json.dumps(found, indent=1))
    rows = json.loads(out.read_text(encoding="utf-8")) if out.exists() else []
    kept = [row for row in rows if row["host"]["device"] != found["host"]["device"]]
    out.write_text(json.dumps([*kept, found], indent=1) + "\n", encoding="utf-8")


def make(folder: Path, images: int) -> tuple[Path, Path, Path, Path]:
    """Write a base model and data as the first two stages leave them; return base, train, val and labels."""
    random = np.random.default_rng(0)
    prepare.random_model(folder / "base", tiny=True)
    rows = []
    for number in range(PICTURES):
        file = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file, "JPEG")
        rows.append(((f"{number}.jpg", number % 2, f"{number:064x}", SIDE, SIDE, 1), file.getvalue()))
    write_packed(folder / "few", ("path", "label", "sha256", "width", "height", "plain"), rows)
    prepare.repeat_packed(folder / "few", folder / "train", images)
    create_split(folder / "val", SIDE, ["a.jpg", "b.jpg"], [0, 1], ["0" * 64, "1" * 64])
    labels = {"class_names": ["a", "b"], "image_size": SIDE, "interpolation": "bilinear"}
    write_json(folder / "labels.json", labels)
    return folder / "base", folder / "train", folder / "val", folder / "labels.json"


if __name__ == "__main__":
    main()
