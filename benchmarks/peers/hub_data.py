"""Images as the Hugging Face recipes load them: `datasets`, decoded and transformed on the fly by torchvision."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from torchvision.transforms import (
    CenterCrop,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    ToTensor,
)

from peers.job import places


def load(folder: str, cache: Path | None = None) -> Any:
    """Open a folder in Hub layout as anyone would: splits `train` and `validation`, columns `image` and `label`."""
    return load_dataset(folder, cache_dir=str(cache) if cache else None)


def repeated(split: Any, count: int) -> Any:
    """Return a split of ``count`` rows that refer to the same pictures again and again; nothing is copied."""
    return split.select(places(len(split), count))


def with_transforms(train: Any, val: Any, size: int, mean: Any, std: Any) -> tuple[Any, Any]:
    """Attach the recipe's transforms, which run whenever a row is read."""
    finish = [ToTensor(), Normalize(mean=mean, std=std)]
    augment = Compose([RandomResizedCrop(size), RandomHorizontalFlip(), *finish])
    centre = Compose([Resize(size), CenterCrop(size), *finish])
    return train.with_transform(Pixels(augment)), val.with_transform(Pixels(centre))


class Pixels:
    """Adds `pixel_values` to a batch of rows; a class, so that it can be sent to a worker."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Transform every picture of the batch."""
        rows["pixel_values"] = [self.transform(image.convert("RGB")) for image in rows["image"]]
        return rows


def stack(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate rows into a batch."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


def accuracy(scored: Any) -> dict[str, float]:
    """Score logits as the recipes do, on the CPU after all batches."""
    return {"accuracy": float((np.argmax(scored.predictions, axis=1) == scored.label_ids).mean())}
