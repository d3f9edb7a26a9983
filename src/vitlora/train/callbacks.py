"""What the Trainer calls at its steps and epochs: the seed of each step, AdaLoRA's ranks, the bar."""

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import Trainer, TrainerCallback

from vitlora.core.files import read_json, write_json
from vitlora.train.checkpoints import contiguous
from vitlora.train.timing import Timing

AVERAGES = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of the importance of each rank


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
        """Seed from a hash: of a seed, torch's CPU generator uses the low 32 bits only."""
        digest = hashlib.sha256(f"{args.seed}:{state.global_step}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))


class Ranks(TrainerCallback):  # type: ignore[misc]  # likewise
    """AdaLoRA's schedule: after every optimiser step, while the gradients are there, ranks are allotted anew.

    PEFT leaves the call to its user; without it nothing is ever pruned.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.tuner = trainer, trainer.model.base_model
        self.config = trainer.model.peft_config[trainer.model.active_adapter]

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
        """Allot; steps count from one. A step that fp16 lost has gradients that say nothing."""
        if self.trainer.accelerator.optimizer_step_was_skipped:
            return
        self.tuner.update_and_allocate(state.global_step + 1)

    def save(self, folder: Path) -> None:
        """Keep the running averages by which ranks are judged, and the pattern."""
        parts = {
            f"{kind}/{name}": value
            for kind in AVERAGES
            for name, value in getattr(self.tuner.rankallocator, kind).items()
        }
        save_file(contiguous(parts), folder / "ranks.safetensors")
        write_json(folder / "ranks.json", self.pattern)

    def load(self, folder: Path) -> None:
        """Put them back."""
        device = next(self.tuner.parameters()).device
        for key, value in load_file(folder / "ranks.safetensors").items():
            kind, _, name = key.partition("/")
            getattr(self.tuner.rankallocator, kind)[name] = value.to(device)
        self.pattern = read_json(folder / "ranks.json")


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
