"""Averages of the trained weights, which validate better than the last ones: running, over epochs, of the best epochs.

Every trained tensor is averaged by itself, a LoRA pair's A and B too, though the mean of products is not the product of
means. All weights come from one run, near to each other, and what comes out is scored on val as it will be used.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from vitlora.core.files import read_json, write_json
from vitlora.train.checkpoints import State, contiguous, copy_into
from vitlora.train.params import Train

FILE, COUNT = "average.safetensors", "updates"
SOUP = "soup.json"
Metrics = Mapping[str, float]  # of a validation, by the Trainer's names


class Average:
    """What is validated and kept in place of the weights themselves.

    Args:
        weights: By name, on one device.

    Attributes:
        averages: By name, in the order of the weights.
    """

    def __init__(self, weights: State) -> None:
        self.weights = list(weights.values())
        self.averages = {name: weight.detach().clone() for name, weight in weights.items()}
        self.state: State = dict(self.averages)  # of a checkpoint

    def save(self, folder: Path) -> None:
        """Keep it in a checkpoint."""
        save_file(contiguous(self.state), folder / FILE)

    def load(self, folder: Path) -> None:
        """Put it back."""
        copy_into(load_file(folder / FILE), self.state)


class RunningAverage(Average):
    """Exponential moving average of weights, looked at after each update (``optimise.Observer``).

    Early on it forgets faster, min(decay, (1 + n) / (10 + n)) after n updates, so that the start does not linger.

    Args:
        weights: By name, on one device.
        decay: How much of the average an update keeps, in the end.

    Attributes:
        tensors: What changes on the device.
    """

    def __init__(self, weights: State, decay: float) -> None:
        super().__init__(weights)
        self.decay, self.updates = decay, torch.zeros((), device=self.weights[0].device)
        self.state[COUNT] = self.updates
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


class EpochAverage(Average, TrainerCallback):  # type: ignore[misc]  # transformers has no type information
    """Plain mean of the weights at the ends of epochs, from one on; before that, the weights as they are.

    Args:
        weights: By name, on one device.
        start: The first epoch that counts; epochs count from 1.

    Source:
        Stochastic weight averaging: arXiv 1803.05407.
    """

    def __init__(self, weights: State, start: int) -> None:
        super().__init__(weights)
        self.start = start

    @torch.no_grad()
    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the weights in, before they are validated."""
        taken = max(1, round(state.epoch) - self.start + 1)
        torch._foreach_lerp_(list(self.averages.values()), [weight.detach() for weight in self.weights], 1 / taken)


def average_of(weights: State, train: Train) -> Average | None:
    """Return the average that the section asks for."""
    if train.ema_decay:
        return RunningAverage(weights, train.ema_decay)
    return EpochAverage(weights, train.swa_epoch_start) if train.swa_epoch_start else None


class Soup:
    """The best epochs' weights, of which those are averaged at the end that make val no worse.

    Args:
        size: Epochs to keep.
        metric: Of validation, by which they are judged: `loss`, the smaller the better, or another.

    Attributes:
        kept: Score, the greater the better, and epoch, the best first and of equals the earlier.
        weights: By epoch and name, on the CPU.

    Source:
        Greedy soup: arXiv 2203.05482.
    """

    def __init__(self, size: int, metric: str) -> None:
        self.size, self.metric = size, metric
        self.kept: list[tuple[float, int]] = []
        self.weights: dict[int, State] = {}

    def offer(self, metrics: Metrics, epoch: int, weights: State) -> None:
        """Keep an epoch's weights if it is among the best so far; not if its score is no number."""
        score = self._score(metrics)
        if not math.isfinite(score):
            return
        self.kept = sorted([*self.kept, (score, epoch)], key=lambda each: (-each[0], each[1]))[: self.size]
        if (score, epoch) in self.kept:
            self.weights[epoch] = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        self.weights = {number: self.weights[number] for _, number in self.kept}

    def cook(self, validate: Callable[[State], Metrics]) -> tuple[list[int], State, Metrics]:
        """Return the epochs that went in, the best first, their mean, and what val says of it; nothing of one epoch.

        Args:
            validate: Scores weights on val.
        """
        (most, first), *others = self.kept
        chosen, mean, found = [first], self.weights[first], dict[str, float]()
        for _, epoch in others:
            more = self.weights[epoch]
            wider = {name: mean[name].lerp(more[name], 1 / (len(chosen) + 1)) for name in mean}
            metrics = validate(wider)
            if self._score(metrics) >= most:
                most, mean, found = self._score(metrics), wider, dict(metrics)
                chosen.append(epoch)
        return chosen, mean, found

    def save(self, folder: Path) -> None:
        """Keep it in a checkpoint."""
        for epoch, weights in self.weights.items():
            save_file(weights, folder / _file(epoch))
        write_json(folder / SOUP, self.kept)

    def load(self, folder: Path) -> None:
        """Put it back."""
        self.kept = [(score, epoch) for score, epoch in read_json(folder / SOUP)]
        self.weights = {epoch: load_file(folder / _file(epoch)) for _, epoch in self.kept}

    def _score(self, metrics: Metrics) -> float:
        value = float(metrics[f"eval_{self.metric}"])
        return -value if self.metric == "loss" else value


def _file(epoch: int) -> str:
    return f"soup-{epoch}.safetensors"
