"""What the Trainer calls at its steps and epochs: the seed of each step, AdaLoRA's ranks, the bar."""

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback

from vitlora.core.files import read_json, write_json
from vitlora.processes.peers import ALONE, Peers
from vitlora.train.checkpoints import contiguous, copy_into
from vitlora.train.draws import seed_draws
from vitlora.train.timing import Timing

KEPT = ("sensitivity", "uncertainty", "kept")  # of AdaLoRA's schedule, in a checkpoint


SIGN_OF_LIFE_S = 30.0
Log = Mapping[str, float]


def mean_loss(history: Sequence[Mapping[str, Any]], epoch: int) -> float | None:
    """Return the mean of the training losses that the Trainer logged in an epoch, which counts from 1; None if none."""
    losses = [row["loss"] for row in history if "loss" in row and epoch - 1 < row["epoch"] <= epoch]
    return sum(losses) / len(losses) if losses else None


class StepSeed(TrainerCallback):  # type: ignore[misc]  # likewise
    """Dropout as a function of (seed, step): torch's generator is seeded anew before every optimiser step.

    Left alone it also feeds the data loaders, which draw from it once an epoch without workers and once in all with
    persistent ones, so that the second epoch would depend on the number of workers.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give cuBLAS the larger of its two repeatable workspaces: the Trainer's choice is too small for cuBLASLt."""
        if args.full_determinism:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Seed for the step's first micro-batch."""
        seed_draws(args.seed, args.device.type == "cuda", state.global_step)


class Patience(EarlyStoppingCallback):  # type: ignore[misc]  # likewise
    """Early stopping that counts from an epoch on: before it, what is to help has not begun.

    Args:
        epochs: Without a better score, before training stops.
        first: The first epoch that may count as one.
    """

    def __init__(self, epochs: int, first: int) -> None:
        super().__init__(epochs)
        self.first = first

    def check_metric_value(self, args: Any, state: Any, control: Any, metric_value: float) -> None:
        """Count an epoch that is no better."""
        if round(state.epoch) >= self.first:
            super().check_metric_value(args, state, control, metric_value)


class Ranks(TrainerCallback):  # type: ignore[misc]  # likewise
    """AdaLoRA's schedule: every update is looked at, and now and then ranks are allotted anew.

    PEFT leaves the call to its user; without it nothing is ever pruned. Its own running averages walk over all the
    model's parameters in every step. Here they are two rows of numbers, of which PEFT's allocator gets views.

    Attributes:
        tensors: What changes on the device: both averages, and 0 for each rank that is pruned for good.
    """

    def __init__(self, model: Any) -> None:
        self.tuner, self.config = model.base_model, model.peft_config[model.active_adapter]
        allocator = self.allocator = self.tuner.rankallocator
        named = self.tuner.model.named_parameters()
        weights = {name: weight for name, weight in named if "lora_" in name and allocator.adapter_name in name}
        self.weights = list(weights.values())
        self.scales = {name: weight for name, weight in weights.items() if "lora_E" in name}
        self.sensitivity, self.uncertainty = (_row(self.weights, 0.0) for _ in range(2))
        self.kept = _row(self.scales.values(), 1.0)
        self.tensors = (self.sensitivity, self.uncertainty, self.kept)
        allocator.exp_avg_ipt = dict(zip(weights, _parts(self.sensitivity, self.weights), strict=True))
        allocator.exp_avg_unc = dict(zip(weights, _parts(self.uncertainty, self.weights), strict=True))
        self.masks = dict(zip(self.scales, _parts(self.kept, self.scales.values()), strict=True))

    def __call__(self, sound: Tensor) -> None:
        """Smooth each weight's sensitivity, |w g|, and how much that varies; a step that fp16 lost says nothing."""
        weights, grads = (torch.cat([part.flatten() for part in parts]) for parts in (self.weights, self._grads()))
        found = torch.where(sound, (weights * grads).abs(), self.sensitivity)
        self.sensitivity.lerp_(found, 1 - self.allocator.beta1)
        change = torch.where(sound, (found - self.sensitivity).abs(), self.uncertainty)
        self.uncertainty.lerp_(change, 1 - self.allocator.beta2)
        torch._foreach_mul_(list(self.scales.values()), list(self.masks.values()))

    def _grads(self) -> list[Tensor]:
        return [weight.grad for weight in self.weights if weight.grad is not None]

    @property
    def pattern(self) -> dict[str, list[bool]] | None:
        """Which ranks of each layer are in use, once that is settled."""
        found: dict[str, list[bool]] | None = self.config.rank_pattern
        return found

    @pattern.setter
    def pattern(self, pattern: dict[str, list[bool]] | None) -> None:
        """Set which ranks are left, by layer."""
        self.config.rank_pattern = pattern

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Allot where PEFT's schedule wants it; steps count from one."""
        step, last = state.global_step + 1, self.config.total_step - self.config.tfinal
        if step > last:
            return
        budget, due = self.allocator.budget_schedule(step)
        if due or step == last:
            self.pattern = self.allocator.mask_to_budget(self.tuner.model, budget)
        if step == last:
            for name, flags in (self.pattern or {}).items():
                self.masks[name].copy_(torch.tensor(flags)[:, None])

    def save(self, folder: Path) -> None:
        """Keep the running averages by which ranks are judged, and the pattern."""
        save_file(contiguous(dict(zip(KEPT, self.tensors, strict=True))), folder / "ranks.safetensors")
        write_json(folder / "ranks.json", self.pattern)

    def load(self, folder: Path) -> None:
        """Put them back."""
        copy_into(load_file(folder / "ranks.safetensors"), dict(zip(KEPT, self.tensors, strict=True)))
        self.pattern = read_json(folder / "ranks.json")


def _row(weights: Iterable[Tensor], value: float) -> Tensor:
    """Return one number for each of the weights', all in a row."""
    parts = list(weights)
    return torch.full((sum(part.numel() for part in parts),), value, device=parts[0].device)


def _parts(row: Tensor, weights: Iterable[Tensor]) -> list[Tensor]:
    """Return views of a row in the shapes of the weights."""
    parts = list(weights)
    pieces = torch.split(row, [part.numel() for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


class TimeLimit(TrainerCallback):  # type: ignore[misc]  # likewise
    """Ends a run after the last epoch, validation included, that is sure to fit into a number of minutes.

    Args:
        minutes: By the clock.
        peers: The processes that share the run; the first one's clock counts.

    Attributes:
        before: Seconds that an interrupted run had taken by its checkpoint.
        longest: Seconds of the longest epoch so far.
        epoch_began: Seconds that the run had taken by then.
    """

    def __init__(self, minutes: float, peers: Peers = ALONE) -> None:
        self.minutes, self.peers = minutes, peers
        self.before = self.longest = self.epoch_began = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, over all its interruptions."""
        return self.before + time.monotonic() - self.began

    @property
    def kept(self) -> list[float]:
        """What a checkpoint keeps."""
        return [self.elapsed, self.longest, self.epoch_began]

    @kept.setter
    def kept(self, seconds: list[float]) -> None:
        """Put it back, once the clock is started."""
        self.before, self.longest, self.epoch_began = seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop where the longest epoch so far would not fit any more."""
        now = self.elapsed
        self.longest, self.epoch_began = max(self.longest, now - self.epoch_began), now
        late = bool(self.peers.first(now + self.longest > 60 * self.minutes))
        if late and state.global_step < state.max_steps:
            control.should_training_stop = True
            tqdm.write(
                f"note: stopped after epoch {round(state.epoch)} of {args.num_train_epochs:g}: another would end later "
                f"than train.max_minutes, {self.minutes:g}, allows"
            )


class Bar(TrainerCallback):  # type: ignore[misc]  # likewise
    """A progress bar over optimiser steps with the time left, and two lines an epoch: scores, and speed."""

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar."""
        self.told = time.monotonic()
        self.bar = tqdm(total=state.max_steps, unit="step", dynamic_ncols=True, disable=None, file=sys.stderr)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.timing.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Advance the bar; where there is none, as in CI, print a line now and then."""
        self.bar.update(state.global_step - self.bar.n)
        if self.bar.disable and time.monotonic() - self.told > SIGN_OF_LIFE_S:
            self.told = time.monotonic()
            print(f"step {state.global_step:,} of {state.max_steps:,}", flush=True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the clock before validation."""
        self.timing.end()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Log | None = None, **kwargs: Any) -> None:
        """Print the epoch's validation scores and its speed above the bar."""
        scores = metrics or {}
        mean = mean_loss(state.log_history, round(state.epoch))
        loss = "" if mean is None else f"train loss {mean:.4f}  "
        tqdm.write(
            f"epoch {round(state.epoch)}/{args.num_train_epochs:g}  {loss}val loss {scores['eval_loss']:.4f}  "
            f"val accuracy {scores['eval_accuracy']:.4f}"
        )
        for line in self.timing.report(round(state.epoch), scores["eval_runtime"], scores["eval_samples_per_second"]):
            tqdm.write(line)

    def close(self) -> None:
        """End the bar's line: whatever is printed next, an error too, begins its own."""
        if self.bar is not None:
            self.bar.close()
