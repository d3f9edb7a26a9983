"""Dropout of LoRA's inputs on a CPU, where most of its time goes into drawing random numbers."""

from typing import Any, ClassVar

import torch
from torch import Tensor

LEVELS = 2**16  # p is rounded to a multiple of 1 / LEVELS


class DrawnAtOnce(torch.nn.Dropout):
    """Dropout whose mask takes 16 bits of torch's generator for each value, four values in one draw.

    torch draws a double for each, in one thread however many there are: with it a step of a ViT-S on 32 pictures of
    42 px takes 263 ms on two cores, with this 247. What is kept is scaled by the share that is kept in truth, so that
    the mean stays.

    Attributes:
        part: Where several processes share a batch: the first image of this one's, how many it has, and all have. The
            masks of all are drawn, so each image gets what it would get from one process.
    """

    part: ClassVar[tuple[int, int, int] | None] = None

    def forward(self, values: Tensor) -> Tensor:
        """Return the values with some of them 0 and the others scaled, in training; else as they are."""
        if not self.training or values.device.type != "cpu":
            return super().forward(values)
        dropped = min(round(self.p * LEVELS), LEVELS - 1)
        begin, whole = 0, values.numel()
        if self.part:
            first, own, images = self.part
            begin, whole = values.numel() // own * first, values.numel() // own * images
        draws = torch.empty(-(-whole // 4), dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
        bits = draws.view(torch.int16)[begin : begin + values.numel()].view(values.shape)
        kept = bits >= dropped - LEVELS // 2
        # In float32: 1 / (1 - p) would be another number in half precision.
        return (values * kept.float().mul_(LEVELS / (LEVELS - dropped))).to(values.dtype)


def draw_at_once(model: Any) -> None:
    """Put it in place of PEFT's dropout in all LoRA layers."""
    for layer in model.modules():
        drops = getattr(layer, "lora_dropout", None)
        for name, drop in list(drops.items()) if isinstance(drops, torch.nn.ModuleDict) else ():
            if type(drop) is torch.nn.Dropout:
                drops[name] = DrawnAtOnce(drop.p)  # type: ignore[index]  # there are some
