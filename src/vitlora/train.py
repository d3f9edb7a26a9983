"""Train: fit a LoRA adapter with the Hugging Face Trainer and keep the epoch that is best on val."""

import hashlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from vitlora.adapters import Adapted, add_adapter, save_adapter
from vitlora.dataset import TrainImages, TrainLoader
from vitlora.errors import VitloraError
from vitlora.feed import Batch, Feed, feed_squares
from vitlora.files import write_csv, write_json
from vitlora.labels import Labels, read_labels
from vitlora.model import Normalisation, device_of_choice, load_base, read_normalisation
from vitlora.scores import accuracy
from vitlora.sections.train import Augment, Lora, Train
from vitlora.step import Way, install, micro_batch, precision
from vitlora.tensors import Squares, load_split
from vitlora.timing import Timing

CHECKPOINTS = Path(".work/train")
Log = Mapping[str, float]


def train(
    augment: Augment,
    lora: Lora,
    train: Train,
    base: Path,
    train_images: Path,
    val: Path,
    labels: Path,
    adapter: Path,
    metrics: Path,
    plots: Path,
) -> None:
    """Fit an adapter, save the best epoch's weights, and record how it went.

    Args:
        augment: Law of the random crops and flips.
        lora: PEFT's settings.
        train: The Trainer's settings.
        base: Base model folder.
        train_images: Training pictures, packed.
        val: Validation squares; they pick the epoch.
        labels: Class names, image size and filter.
        adapter: Gets the adapter with labels and preprocessing beside it.
        metrics: Gets counts, device, precision, and the best epoch's validation scores.
        plots: Gets ``epochs.csv`` and ``steps.csv``.

    Raises:
        VitloraError: The parameters don't fit the base model or the data.
    """
    ready = get_ready(augment, lora, train, base, train_images, val, labels)
    trainer = ready.trainer
    _announce(ready, train)
    if train.early_stopping_patience:
        trainer.add_callback(EarlyStoppingCallback(train.early_stopping_patience))
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    trainer.train()
    save_adapter(trainer.model, adapter, base, ready.labels, trainer.normalisation)
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
    steps, epochs = curves(trainer.state.log_history)
    write_csv(plots / "steps.csv", ("step", "epoch", "loss", "learning_rate", "grad_norm"), steps)
    write_csv(plots / "epochs.csv", ("epoch", "step", "train_loss", "val_loss", "val_accuracy"), epochs)
    write_json(metrics, {**_about(ready, train), **_best(epochs, train)})


@dataclass(frozen=True)
class Ready:
    """All that training needs: the adapted model and what is known of it, its labels, and the Trainer around it."""

    adapted: Adapted
    labels: Labels
    trainer: "ImageTrainer"


def get_ready(
    augment: Augment, lora: Lora, train: Train, base: Path, train_images: Path, val: Path, labels: Path
) -> Ready:
    """Load model and data and set up the Trainer; nothing runs yet. Arguments and errors as in ``train``."""
    known = read_labels(labels)
    set_seed(train.seed)  # the head starts out random
    model, fresh = load_base(base, known.class_names, known.image_size)
    adapted = add_adapter(model, fresh, lora)
    images = TrainImages(train_images, known.image_size, known.interpolation, augment, train.seed, train.decoder)
    if not len(images):
        raise VitloraError(f"{train_images}: no image to train on")
    normalisation = read_normalisation(base)
    moved = adapted.model.to(device_of_choice())
    way = install(moved, train.step, precision(train), normalisation, known.image_size, train.fp8)
    args = training_arguments(train, micro_batch(train, model.config, known.image_size))
    return Ready(adapted, known, ImageTrainer(moved, args, images, load_split(val), normalisation, way))


class ImageTrainer(Trainer):  # type: ignore[misc]  # transformers has no type information
    """The Trainer, fed with finished uint8 batches that are normalised on the device."""

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        images: TrainImages,
        val: Squares,
        normalisation: Normalisation,
        way: Way,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=images,
            eval_dataset=val.labels,
            compute_metrics=lambda scored: {"accuracy": accuracy(scored.label_ids, scored.predictions)},
            preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1),
        )
        self.val, self.normalisation, self.way = val, normalisation, way
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.timing = Timing(len(images))
        self.add_callback(Bar(self.timing))
        self.add_callback(StepSeed())

    def get_train_dataloader(self) -> Feed:
        """Return the training batches, on the device a step ahead."""
        args = self.args
        loader = TrainLoader(
            self.train_dataset,
            args.seed,
            args.train_batch_size,
            int(args.num_train_epochs),
            args.dataloader_num_workers,
            args.device.type == "cuda",
        )
        self.timing.feed = Feed(loader, args.device)
        return self.timing.feed

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Feed:
        """Return val, on the device a batch ahead."""
        return feed_squares(self.val, self.args.eval_batch_size, self.args.device)

    def _prepare_inputs(self, inputs: Any) -> Any:
        moved: Batch = super()._prepare_inputs(inputs)
        if self.way.takes_bytes:
            return moved
        # Bytes cross processes and the bus, a quarter of what floats would be.
        return {**moved, "pixel_values": self.normalisation(moved["pixel_values"])}


class StepSeed(TrainerCallback):  # type: ignore[misc]  # likewise
    """Dropout as a function of (seed, step): torch's generator is seeded anew before every optimiser step.

    Left alone it also feeds the data loaders, which draw from it once an epoch without workers and once in all with
    persistent ones, so that the second epoch would depend on the number of workers.
    """

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed from a hash: of a seed, torch's CPU generator uses the low 32 bits only."""
        digest = hashlib.sha256(f"{args.seed}:{state.global_step}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))


class Bar(TrainerCallback):  # type: ignore[misc]  # likewise
    """A progress bar over optimiser steps with the time left, and two lines an epoch: scores, and speed."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, unit="step", dynamic_ncols=True, disable=None, file=sys.stderr)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.timing.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar."""
        self.bar.update(state.global_step - self.bar.n)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock before validation."""
        self.timing.end()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Log | None = None, **kwargs: Any) -> None:
        """Print the epoch's validation scores and its speed above the bar."""
        scores = metrics or {}
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        loss = f"train loss {losses[-1]:.4f}  " if losses else ""
        tqdm.write(
            f"epoch {round(state.epoch)}/{args.num_train_epochs:g}  {loss}val loss {scores['eval_loss']:.4f}  "
            f"val accuracy {scores['eval_accuracy']:.4f}"
        )
        for line in self.timing.report(round(state.epoch), scores["eval_runtime"], scores["eval_samples_per_second"]):
            tqdm.write(line)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self.bar.close()


def curves(history: list[dict[str, Any]]) -> tuple[list[list[object]], list[list[object]]]:
    """Arrange the Trainer's log as rows, leaving out every timing.

    Returns:
        steps: step, epoch, loss (mean since the row before), learning rate, gradient norm;
        epochs: epoch, step, mean of the training losses logged in it (empty if none), val loss, val accuracy.
    """
    logged = [entry for entry in history if "loss" in entry]
    steps: list[list[object]] = [
        [entry["step"], round(entry["epoch"], 4), entry["loss"], entry["learning_rate"], entry.get("grad_norm")]
        for entry in logged
    ]
    epochs: list[list[object]] = []
    for entry in (entry for entry in history if "eval_loss" in entry):
        epoch = round(entry["epoch"])
        losses = [row["loss"] for row in logged if epoch - 1 < row["epoch"] <= epoch]
        mean = float(np.mean(losses)) if losses else None
        epochs.append([epoch, entry["step"], mean, entry["eval_loss"], entry["eval_accuracy"]])
    return steps, epochs


def _announce(ready: Ready, train: Train) -> None:
    adapted, way, args = ready.adapted, ready.trainer.way, ready.trainer.args
    share = adapted.trainable / adapted.total
    print(f"adapted layers: {len(adapted.adapted_modules)}, such as {adapted.adapted_modules[0]}")
    print(f"trainable parameters: {adapted.trainable:,} of {adapted.total:,} ({share:.2%})")
    used = precision(train)
    wanted = "fp16" if train.fp16 else "bf16" if train.bf16 else "fp32"
    note = "" if used == wanted else f"; train.{wanted} asks for a GPU and there is none"
    print(f"precision: {used} on {_device()}{note}")
    print(
        f"step: {way.step}{f', since {way.note}' if way.note else ''}; {args.per_device_train_batch_size} images x "
        f"{args.gradient_accumulation_steps}, {args.dataloader_num_workers} loader workers, {train.decoder}"
    )


def training_arguments(train: Train, micro: tuple[int, int] | None = None) -> TrainingArguments:
    """Return the Trainer's arguments: ours under their own names, and what the pipeline itself fixes.

    Args:
        train: The section.
        micro: Images of a micro-batch and how many make a step, where they differ from the section's.
    """
    ours = {"decoder", "step", "fp8", "join_micro_batches", "early_stopping_patience", "metric_for_best_model"}
    given = {key: value for key, value in train if key not in ours}
    images, accumulated = micro or (train.per_device_train_batch_size, train.gradient_accumulation_steps)
    given |= {
        "fp16": precision(train) == "fp16",
        "bf16": precision(train) == "bf16",
        "per_device_train_batch_size": images,
        "gradient_accumulation_steps": accumulated,
        "dataloader_num_workers": loader_workers(train),
    }
    arguments = TrainingArguments(
        output_dir=str(CHECKPOINTS),
        eval_strategy="epoch",
        save_strategy="epoch",
        metric_for_best_model=f"eval_{train.metric_for_best_model}",
        greater_is_better=train.metric_for_best_model == "accuracy",
        remove_unused_columns=False,  # a batch is made of bytes, not of the data set's columns
        logging_nan_inf_filter=False,  # it shows a diverged run as loss 0.0, and waits for the GPU at every step
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        **given,
    )
    assert arguments.device is not None  # asking sets the number of GPUs
    arguments._n_gpu = min(arguments.n_gpu, 1)  # more would run in nn.DataParallel, slower and never twice the same
    return arguments


def loader_workers(train: Train) -> int:
    """Return how many processes decode: as the section says, or all cores but two beside a GPU and none beside a CPU.

    A CPU that trains is busy with the model; a worker would only take turns with it.
    """
    if train.dataloader_num_workers is not None:
        return train.dataloader_num_workers
    return max(1, min(14, (os.cpu_count() or 1) - 2)) if torch.cuda.is_available() else 0


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _about(ready: Ready, train: Train) -> dict[str, object]:
    adapted, trainer = ready.adapted, ready.trainer
    return {
        "adapted_modules": len(adapted.adapted_modules),
        "target_modules": adapted.adapted_modules,
        "trainable_parameters": adapted.trainable,
        "total_parameters": adapted.total,
        "device": _device(),
        "precision": precision(train),
        "decoder": train.decoder,
        "step": trainer.way.step,
        "micro_batch": trainer.args.per_device_train_batch_size,
    }


def _best(epochs: list[list[Any]], train: Train) -> dict[str, object]:
    """Pick the row that the Trainer restored: the first of equals, or the last epoch if it restores none."""
    if not train.load_best_model_at_end:
        best = epochs[-1]
    elif train.metric_for_best_model == "accuracy":
        best = max(epochs, key=lambda row: row[4])
    else:
        best = min(epochs, key=lambda row: row[3])
    return {
        "epochs": len(epochs),
        "steps": epochs[-1][1],
        "best_epoch": best[0],
        "val_loss": best[3],
        "val_accuracy": best[4],
    }
