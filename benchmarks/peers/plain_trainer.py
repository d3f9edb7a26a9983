"""transformers' Trainer and PEFT's modules as most people write them, on our packed photographs: no code of ours steps.

The data set is a torch one with torchvision's transforms, PIL decodes, and torch's loader has processes that stay.
"""

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision import transforms
from transformers import AutoImageProcessor, Trainer

from peers import recipe, trainers
from peers.job import Job
from peers.meter import Meter
from vitlora.storage.labels import read_labels
from vitlora.storage.packed import Packed
from vitlora.storage.squares import Squares, load_split


def run(job: Job, meter: Meter, compile_mode: str | None = None) -> None:
    """Train as a script does; ``compile_mode`` is Trainer's ``torch_compile_mode``, None leaves the model as it is."""
    processor = AutoImageProcessor.from_pretrained(job.base)
    model = recipe.adapted(job.base, read_labels(Path(job.labels)).class_names, 16, 0.1)
    batch, accumulation = job.steps
    args = recipe.arguments(
        num_train_epochs=job.all_epochs,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        optim="adamw_torch_fused",
        report_to=[],
        save_strategy="no",
        load_best_model_at_end=False,
        torch_compile=compile_mode is not None,
        torch_compile_mode=compile_mode,
        dataloader_drop_last=compile_mode == "reduce-overhead",  # another shape is another graph to capture
        **recipe.loader_processes(job.loaders),
    )
    trainers.watch(meter)
    train, val = Photographs(job, processor), Ready(load_split(Path(job.val)), processor)
    Trainer(model, args, stack, train, val, compute_metrics=accuracy).train()


class Photographs(Dataset[dict[str, Any]]):
    """The training photographs, one at a time."""

    def __init__(self, job: Job, processor: Any) -> None:
        self.packed = Packed(Path(job.train))
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(job.size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(processor.image_mean, processor.image_std),
            ]
        )

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Decode and transform one."""
        pixels = self.transform(Image.open(io.BytesIO(self.packed[row])).convert("RGB"))
        return {"pixel_values": pixels, "labels": int(self.packed.index["label"][row])}


class Ready(Dataset[dict[str, Any]]):
    """Squares that are decoded already."""

    def __init__(self, squares: Squares, processor: Any) -> None:
        self.squares, self.normalise = squares, transforms.Normalize(processor.image_mean, processor.image_std)

    def __len__(self) -> int:
        return len(self.squares.labels)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Normalise one."""
        pixels = torch.from_numpy(self.squares.images[row].copy()).float().div_(255)
        return {"pixel_values": self.normalise(pixels), "labels": int(self.squares.labels[row])}


def stack(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Make a batch."""
    pixels = torch.stack([row["pixel_values"] for row in rows])
    return {"pixel_values": pixels, "labels": torch.tensor([row["labels"] for row in rows])}


def accuracy(scored: Any) -> dict[str, float]:
    """Score logits on the CPU after all batches."""
    return {"accuracy": float((scored.predictions.argmax(1) == scored.label_ids).mean())}
