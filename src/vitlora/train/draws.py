"""Dropout as a function of seed, step, and an image's place in the step: the same for one process and for several."""

import hashlib
from typing import Any

import torch

from vitlora.train.dropout import DrawnAtOnce
from vitlora.train.shares import Span


def seed_draws(seed: int, on_gpu: bool, *place: int) -> None:
    """Seed torch's generators from a hash: of a seed, the CPU's uses the low 32 bits only.

    ``torch.manual_seed`` would do the same, and keep a stack trace for every kind of device that isn't there.

    Args:
        seed: Of the run.
        on_gpu: Whether to seed the GPU's too.
        place: Step, and what else tells these draws from others.
    """
    digest = hashlib.sha256(":".join(map(str, (seed, *place))).encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    torch.default_generator.manual_seed(number)
    if on_gpu:
        torch.cuda.manual_seed(number)


class Draws:
    """What is drawn for a process's micro-batch: what a single process would draw for these images.

    Our own two ways to draw LoRA's dropout can do so: the fused kernels number the rows, and on a CPU all of the step's
    masks are drawn. Where others draw as well, each process draws by itself, as a function of seed, step and its part.

    Args:
        model: Whose layers draw.
        seed: Of the run.
        shared: Whether several processes share each step.
    """

    def __init__(self, model: Any, seed: int, shared: bool) -> None:
        self.seed, self.shared = seed, shared
        self.on_gpu = next(model.parameters()).device.type == "cuda"
        self.fused = next((m.forward for m in model.modules() if hasattr(m.forward, "count_from")), None)
        self.alike = shared and (self.fused is not None or not (self.on_gpu or _others_draw(model)))

    def __call__(self, step: int, span: Span) -> None:
        """Get ready for a micro-batch; the step is seeded."""
        apart = self.shared and not self.alike and span.first > 0
        if span.unit or apart:
            seed_draws(self.seed, self.on_gpu, step, span.unit, *[span.first] * apart)
        elif self.shared:
            seed_draws(self.seed, self.on_gpu, step)
        if self.alike:
            DrawnAtOnce.part = span.first, span.stop - span.start, span.images
            if self.fused is not None:
                self.fused.count_from(span.first)


def _others_draw(model: Any) -> bool:
    """Whether anything but our own dropout draws at random, as far as layers and the base's config say."""
    kinds = torch.nn.modules.dropout._DropoutNd
    layers = (module for module in model.modules() if isinstance(module, kinds) and not isinstance(module, DrawnAtOnce))
    config = model.config.to_dict().items()
    named = (value for key, value in config if "drop" in key and isinstance(value, int | float))
    return any(layer.p > 0 for layer in layers) or any(value > 0 for value in named)
