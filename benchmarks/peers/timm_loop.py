"""timm as its users put it together: its folder data set, loader and prefetcher, its ViT-B/16, PEFT's LoRA on `qkv`.

timm keeps query, key and value in one layer, so the adapter sits there; it costs as many operations as two of its rank
on query and value. Augmentation is the recipe's (timm's colour jitter is off). The loop is the plain one.
"""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from peers.job import Job, NotHereError, places
from peers.loop import device, fit
from peers.meter import Meter


def run(job: Job, meter: Meter) -> None:
    """Train timm's model on timm's loader."""
    try:
        import timm
        from timm.data import ImageDataset, create_loader
    except ImportError as error:
        raise NotHereError(f"timm: {error}") from None
    mean = std = (0.5, 0.5, 0.5)
    batch, accumulation = job.steps
    prefetcher = torch.cuda.is_available()

    def loader(split: str, count: int, training: bool) -> Any:
        dataset = ImageDataset(f"{job.files}/{split}")
        samples = dataset.reader.samples
        dataset.reader.samples = [samples[place] for place in places(len(samples), count)]
        return create_loader(
            dataset,
            input_size=(3, job.size, job.size),
            batch_size=batch,
            is_training=training,
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            hflip=0.5,
            color_jitter=None,
            interpolation="bilinear",
            mean=mean,
            std=std,
            crop_pct=1.0,
            num_workers=job.loaders,
            pin_memory=True,
            persistent_workers=job.loaders > 0,
            use_prefetcher=prefetcher,
            device=device(),
        )

    name = {"ViT-B/16": "vit_base_patch16_224", "ViT-S/14": "vit_small_patch14_dinov2"}[job.model]
    tiny = (
        {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
        if job.tiny
        else {"img_size": job.size}
    )
    train, val = loader("train", job.train_images, True), loader("val", job.val_images, False)
    classes = len(train.dataset.reader.class_to_idx)
    base = timm.create_model(name, pretrained=False, num_classes=classes, **tiny)
    config = LoraConfig(r=16, lora_alpha=16, lora_dropout=0.1, target_modules=["qkv"], modules_to_save=["head"])
    model = get_peft_model(base, config).to(device())
    meter.notes.update(batch=f"{batch} x {accumulation}", workers=job.loaders, timm=timm.__version__)
    fit(
        model,
        model,
        lambda _: map(_on_device, train),
        len(train),
        lambda: map(_on_device, val),
        accumulation,
        job.all_epochs,
        meter,
    )


def _on_device(pair: Any) -> Any:
    """Move what timm's prefetcher has not moved already, as on a machine without a GPU."""
    pixels, labels = pair
    return pixels.to(device(), non_blocking=True), labels.to(device(), non_blocking=True)
