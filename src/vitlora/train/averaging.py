"""A running average of the trained weights, which validates better than the last ones and costs a pass over them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitlora.train.checkpoints import State, contiguous, copy_into

FILE, COUNT = "average.safetensors", "updates"


class Average:
    """Exponential moving average of weights, looked at after each update (``optimise.Observer``).

    Early on it forgets faster, min(decay, (1 + n) / (10 + n)) after n updates, so that the start does not linger.

    Args:
        weights: By name, on one device.
        decay: How much of the average an update keeps, in the end.

    Attributes:
        averages: By name, in the order of the weights.
        tensors: What changes on the device.
    """

    def __init__(self, weights: State, decay: float) -> None:
        self.weights, self.decay = list(weights.values()), decay
        self.averages = {name: weight.detach().clone() for name, weight in weights.items()}
        self.updates = torch.zeros((), device=self.weights[0].device)
        self.tensors: Sequence[Tensor] = (*self.averages.values(), self.updates)

    @torch.no_grad()
    def __call__(self, sound: Tensor) -> None:
        """Take the weights in; a step that fp16 lost counts for nothing."""
        kept = ((1 + self.updates) / (10 + self.updates)).clamp(max=self.decay)
        averages = list(self.averages.values())
        steps = torch._foreach_sub([weight.detach() for weight in self.weights], averages)
        torch._foreach_mul_(steps, (1 - kept) * sound)
        torch._foreach_add_(averages, steps)
        self.updates += sound

    def save(self, folder: Path) -> None:
        """Keep it in a checkpoint."""
        save_file(contiguous({**self.averages, COUNT: self.updates}), folder / FILE)

    def load(self, folder: Path) -> None:
        """Put it back."""
        copy_into(load_file(folder / FILE), {**self.averages, COUNT: self.updates})
