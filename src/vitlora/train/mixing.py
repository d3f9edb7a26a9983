"""Mixup and CutMix on the device, of a batch with the rows that ``epoch_mixing`` draws; no step of it waits for it."""

import torch
from torch import Tensor

from vitlora.model.batches import Batch


def is_mixed(batch: Batch) -> bool:
    """Whether a batch's images are to be mixed."""
    return "partner" in batch


def mix_pixels(batch: Batch) -> Tensor:
    """Blend each image with its partner where that comes in.

    Bytes stay bytes, since the fused step takes these: a blend is off by half a level at most.

    Returns:
        uint8 (B, 3, H, W), in memory as the batch's images are.
    """
    images, sides = batch["pixel_values"], batch["box"][..., None, None]
    y, x = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    left, top, right, bottom = sides.unbind(1)
    within = (x >= left) & (x < right) & (y[:, None] >= top) & (y[:, None] < bottom)
    share = torch.where(within, batch["inside"][:, None, None], 1.0)[:, None]
    layout = torch.contiguous_format if images.is_contiguous() else torch.channels_last
    mixed = torch.lerp(images[partners(batch)].float(), images.float(), share)
    return mixed.round_().to(torch.uint8, memory_format=layout)


def loss_of_partners(logits: Tensor, batch: Batch) -> Tensor:
    """Return what turns the mean loss by the images' own labels into the one by both labels, each by its share.

    Two cross-entropies of the same logits differ by the difference of two logits alone. So the model's own loss is
    kept, with all that PEFT may add to it.

    Args:
        logits: (B, C), of the mixed images.
        batch: Labels and shares.
    """
    labels, classes = batch["labels"], torch.arange(logits.shape[1], device=logits.device)
    own, others = ((rows[:, None] == classes).float() for rows in (labels, labels[partners(batch)]))
    apart = ((own - others) * logits.float()).sum(dim=1)
    return ((1 - batch["label_share"]) * apart).mean()


def partners(batch: Batch) -> Tensor:
    """Return the row of each image's partner, int64 (B,)."""
    return torch.arange(len(batch["labels"]), device=batch["labels"].device) + batch["partner"]
