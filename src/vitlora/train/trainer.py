"""The Hugging Face Trainer, fed with finished bytes, stopped by bad numbers, and resumed to the bit."""

import math
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.base import Normalisation
from vitlora.model.batches import Batch, Feed, feed_squares
from vitlora.processes.peers import ALONE, Peers
from vitlora.storage.squares import Squares
from vitlora.train.averaging import Average, EpochAverage, Metrics, RunningAverage, Soup
from vitlora.train.callbacks import Bar, Ranks, StepSeed, TimeLimit
from vitlora.train.checkpoints import Checkpoints, State, contiguous, copy_into, trainable
from vitlora.train.dataset import TrainLoader
from vitlora.train.distillation import Distillation
from vitlora.train.draws import Draws
from vitlora.train.losses import ClassLoss
from vitlora.train.mixing import is_mixed, loss_of_partners, mix_pixels
from vitlora.train.optimise import OptimiserStep, Outcome
from vitlora.train.rates import regroup
from vitlora.train.shares import Span
from vitlora.train.step import Way
from vitlora.train.timing import Timing

WEIGHTS, BEST, OPTIMIZER, PROGRESS = "weights.safetensors", "best.safetensors", "optimizer.safetensors", "progress.json"
# fp16's loss scale starts at 2^16 and halves itself at every overflow: by then it is 1, and there is nothing to halve.
OVERFLOWS_IN_A_ROW = 16
NAMED = 5  # images named in an error


@dataclass(frozen=True)
class Extras:
    """What a run may have beside the Trainer's own.

    Attributes:
        class_loss: In place of cross entropy.
        factors: Of each trained parameter's learning rate, by its id; empty where all have the same.
        average: Of the weights; it is what is validated and kept.
        soup: Of the best epochs.
        distillation: The teacher that is learnt from.
        alone: Ids of the weights that are trained alone in the first ``alone_epochs``.
        time_limit: Ends the run by the clock.
        peers: The processes that share each step and each validation. All of them take the same way: they know the same
            numbers, and ask each other where they might not.
    """

    class_loss: ClassLoss | None = None
    factors: Mapping[int, float] = field(default_factory=dict)
    average: Average | None = None
    soup: Soup | None = None
    distillation: Distillation | None = None
    alone: frozenset[int] = frozenset()
    alone_epochs: int = 0
    time_limit: TimeLimit | None = None
    peers: Peers = ALONE


class ImageTrainer(Trainer):  # type: ignore[misc]  # transformers has no type information
    """The Trainer on finished uint8 batches that are normalised on the device.

    Its epoch is its own, since the Trainer's walks over all modules in each step and waits for the device: callbacks,
    log, schedule, validation and checkpoints are called as the Trainer's epoch calls them, but for
    ``on_pre_optimizer_step``, as a captured step has no place between. The schedule is a function of the step's number.

    It keeps checkpoints of its own, of safetensors and JSON: the Trainer's are not atomic, and lack what makes a
    resumed run's log equal. Dropout and augmentation are functions of seed and step, so no generator's state is kept.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        loader: TrainLoader,
        val: Squares,
        normalisation: Normalisation,
        way: Way,
        extras: Extras | None = None,
    ) -> None:
        super().__init__(
            model=model,
            args=args,
            train_dataset=loader.dataset,
            eval_dataset=val.labels,
            compute_metrics=lambda scored: accuracies(scored.predictions, scored.label_ids),
            preprocess_logits_for_metrics=lambda logits, _: logits.argmax(-1) if logits.dim() > 1 else logits,
        )
        self.val, self.normalisation, self.way = val, normalisation, way
        extras = extras or Extras()
        self.class_loss = extras.class_loss.to(args.device) if extras.class_loss else None
        self.factors, self.average, self.time_limit = extras.factors, extras.average, extras.time_limit
        self.distillation = extras.distillation
        self.soup, self.alone, self.alone_epochs = extras.soup, extras.alone, extras.alone_epochs
        self.peers, self.stopping = extras.peers, False
        if isinstance(self.average, EpochAverage):
            self.add_callback(self.average)
        if self.time_limit:
            self.add_callback(self.time_limit)
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.loader = loader
        self.timing = Timing(loader.dataset.decoder)
        self.progress = Bar(self.timing)
        if self.peers.writes:
            self.add_callback(self.progress)
        self.add_callback(StepSeed())
        self.best: State | None = None  # weights of the epoch that is best on val so far
        self.best_ranks: Any = None  # AdaLoRA's at that time
        self.ranks = Ranks(model) if hasattr(getattr(model, "base_model", None), "rankallocator") else None
        if self.ranks:
            self.add_callback(self.ranks)
        self.validated_step = 0
        self.control: TrainerControl
        self.overflows, self.overflows_in_a_row = 0, 0  # steps that fp16 lost
        self.optimise: OptimiserStep
        self._norm = 0.0  # of the last step's gradients
        self.stop: list[int] = []  # signals that this process got

    def fit(self, checkpoints: Checkpoints, save_steps: int) -> None:
        """Train from the newest checkpoint, or from the start, and leave the last epoch's weights in the model.

        Args:
            checkpoints: Of this run.
            save_steps: Optimiser steps between checkpoints; one is kept after every validation too, but for large ones,
                which take at most a twentieth of the time, and of which none is kept shortly before the end.

        Raises:
            VitloraError: A loss is not a number, or fp16 overflows again and again.
            StoppedError: A signal asked to stop; a checkpoint has been kept.
        """
        self.checkpoints = checkpoints
        newest = self._newest_of_all(checkpoints)
        self.resumed_at = int(newest.name) if newest else 0
        if newest:
            print(f"resuming after step {self.resumed_at}")
        with _stop_signals() as self.stop:
            keeper = Keeper(self, newest, save_steps, self.stop)
            self.add_callback(keeper)
            try:
                self.train(resume_from_checkpoint=str(newest) if newest else None)
                if self.average:
                    copy_into(self.average.averages, trainable(self.model))
            finally:
                self.progress.close()
                if self.timing.feed:
                    self.timing.feed.close()

    def _newest_of_all(self, checkpoints: Checkpoints) -> Path | None:
        """Return the newest checkpoint, as the first process finds it."""
        newest = checkpoints.newest() if self.peers.writes else None
        step = int(self.peers.first(int(newest.name) if newest else -1))
        return checkpoints.at(step) if step >= 0 else None

    def restore_best(self) -> None:
        """Give the model the weights of the epoch that was best on val."""
        assert self.best is not None  # training validates once an epoch
        copy_into(self.best, trainable(self.model))
        if self.ranks:
            self.ranks.pattern = self.best_ranks

    def cook_soup(self) -> tuple[list[int], Metrics]:
        """Give the model the mean of the best epochs, without those that make val worse.

        Returns:
            The epochs that went in, the best first, and what val says of their mean; nothing where it is one epoch.
        """
        assert self.soup is not None
        chosen, mean, found = self.soup.cook(self._validate)
        copy_into(mean, trainable(self.model))
        return chosen, found

    def _validate(self, weights: State) -> Metrics:
        """Score weights, which the model keeps, as ``evaluate`` does, but without a word in the log."""
        copy_into(weights, trainable(self.model))
        found: Metrics = self.evaluation_loop(self.get_eval_dataloader(), "soup", metric_key_prefix="eval").metrics
        return found

    def get_train_dataloader(self) -> Feed:
        """Return the training batches, on the device a step ahead."""
        self.timing.feed = Feed(self.loader, self.args.device)
        return self.timing.feed

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Feed:
        """Return val, or this process's batches of it, on the device a batch ahead."""
        batch = self.args.eval_batch_size
        own = self.peers.batches(len(self.val.labels), batch) if self.peers.count > 1 else None
        return feed_squares(self.val, batch, self.args.device, own)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """Validate; several processes score whole batches of a single one's, and then each goes through all results."""
        if self.peers.count > 1:
            dataloader = self._scored_by_all(dataloader)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def _scored_by_all(self, own: Feed) -> "Scored":
        self.check_agreement()
        self.model.eval()
        losses, found = [], []
        for batch in own:
            loss, logits, _ = super().prediction_step(self.model, batch, False)
            losses.append(loss.reshape(1))
            found.append(logits.argmax(-1))
        labels, size = torch.from_numpy(self.val.labels), self.args.eval_batch_size
        batches = -(-len(labels) // size)
        none = torch.zeros(0)
        all_losses = self.peers.in_order(torch.cat([none, *(loss.float().cpu() for loss in losses)]), batches, 1)
        all_found = self.peers.in_order(torch.cat([none.long(), *(each.cpu() for each in found)]), len(labels), size)
        return Scored(labels, all_found, all_losses, size)

    def check_agreement(self) -> None:
        """Refuse to go on with processes whose weights are not the same any more; all of them ask at the same time.

        What is kept has passed this before, so that a run may go on from it.
        """
        weights = trainable(self.model)
        sums = [weight.detach().view(torch.int32).sum(dtype=torch.int64) for weight in weights.values()]
        if differing := self.peers.differing(torch.stack(sums).cpu()):
            raise VitloraError(
                f"after step {self.state.global_step} the processes hold different weights, {len(differing)} of "
                f"{len(weights)} tensors, {list(weights)[differing[0]]} first; the rule: the same bits; nothing is "
                "kept from here; run again, which goes on from the checkpoint before; where that does not help, set "
                "train.num_processes to 1"
            )

    def prediction_step(self, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        """Score a batch, or return what another process has found."""
        if "found" in inputs:
            return inputs["loss"], inputs["found"], inputs["labels"]
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        moved: Batch = super()._prepare_inputs(inputs)
        if self.way.takes_bytes:
            return moved
        # Bytes cross processes and the bus, a quarter of what floats would be.
        return {**moved, "pixel_values": self.normalisation(moved["pixel_values"])}

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Let the schedule watch torch's own optimiser, which is the one that steps, and set the step up."""
        self.get_step_ready()
        return super().create_scheduler(num_training_steps, self.optimise.optimizer)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Make the optimiser, with a learning rate for each layer where they differ."""
        there_was_none = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if there_was_none and len(set(self.factors.values())) > 1:
            regroup(optimizer, self.factors)
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validate, with the average of the weights if there is one."""
        with self._averaged():
            found: dict[str, float] = super().evaluate(*args, **kwargs)
        return found

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        if not self.average:
            yield
            return
        weights = trainable(self.model)
        own = {name: weight.detach().clone() for name, weight in weights.items()}
        copy_into(self.average.averages, weights)
        try:
            yield
        finally:
            copy_into(own, weights)

    def step_alone(self, steps: int) -> OptimiserStep:
        """Return what runs steps outside a training, to measure it; ``steps`` is the length of the schedule."""
        _, self.optimizer = self.accelerator.prepare(self.model, self.create_optimizer())  # wraps the model in place
        self.create_scheduler(steps)
        return self.optimise

    def get_step_ready(self) -> None:
        """Make ``optimise``; model and optimiser are prepared."""
        scaler = self.accelerator.scaler or torch.amp.GradScaler(self.args.device.type, enabled=False)
        optimizer, most = self.optimizer.optimizer, self.args.max_grad_norm
        draw = Draws(self.model, self.args.seed, self.peers.count > 1)
        running = self.average if isinstance(self.average, RunningAverage) else None
        observer, captured = self.ranks or running, self.way.captured
        half = torch.float16 if self.args.fp16 else torch.bfloat16 if self.args.bf16 else None
        autocast = half if self.args.device.type == "cuda" else None
        self.optimise = OptimiserStep(
            self.model, optimizer, scaler, self._loss, most, observer, captured, self.peers, draw, autocast
        )

    def _loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch. The model's own is kept, with all that PEFT may add to it, and amended."""
        images = mix_pixels(batch) if is_mixed(batch) else batch["pixel_values"]
        inputs = self._prepare_inputs({"pixel_values": images, "labels": batch["labels"]})
        loss, outputs = self.compute_loss(self.model, inputs, return_outputs=True)
        if self.class_loss:  # in training only: val's is plain cross entropy, whatever is trained with
            loss = loss + self.class_loss.beyond(outputs["logits"], batch)
        elif is_mixed(batch):
            loss = loss + loss_of_partners(outputs["logits"], batch)
        if self.distillation:
            loss = self.distillation.blend(loss, outputs["logits"], images, self.accelerator.autocast())
        found: Tensor = loss
        return found

    def _run_epoch(
        self,
        *,
        model: Any,
        epoch: int,
        train_dataloader: Feed,
        trial: Any,
        ignore_keys_for_eval: Any,
        start_time: float,
        epochs_trained: int,
        steps_trained_in_current_epoch: int,
        **_: Any,
    ) -> None:
        if self.control.should_training_stop:  # a run that had stopped early when it was interrupted
            return
        accumulated = self.args.gradient_accumulation_steps
        skipped = steps_trained_in_current_epoch if epoch == epochs_trained else 0
        train_dataloader.set_epoch(epoch)
        self.optimise.train_only(self.alone if epoch < self.alone_epochs else None)
        batches = iter(train_dataloader.skip(skipped))
        self.timing.images_of_all = 0
        for at in range(skipped // accumulated, self.steps_per_epoch):
            spans, whole = self._shared(at)
            self.timing.images_of_all += whole
            micro = list(islice(batches, len(spans) if whole else accumulated))
            # Seeded behind the loaders: torch's draw too.
            self._call("on_step_begin")
            if whole:
                self.optimise(self.state.global_step, micro, spans, whole, self.stop)
            else:
                self.optimise(self.state.global_step, micro)
            self._call("on_optimizer_step")
            rate = self.lr_scheduler.get_last_lr()[0]
            self.lr_scheduler.step()
            self.state.global_step += 1
            self.state.epoch = epoch + (at + 1) / self.steps_per_epoch
            self._call("on_step_end")
            self._settle(trial, epoch, ignore_keys_for_eval, start_time, rate)
            if self.control.should_epoch_stop or self.control.should_training_stop:
                break
        self._call("on_epoch_end")
        self._settle(trial, epoch, ignore_keys_for_eval, start_time, None)

    def _shared(self, at: int) -> tuple[list[Span], int]:
        """Return this process's micro-batches of a step of an epoch, and all its images; nothing where it is alone."""
        share = self.loader.share
        if share is None:
            return [], 0
        begin = at * share.step
        end = min(begin + share.step, len(self.train_dataset))
        return list(share.spans(begin, end, self.loader.batch_size)), end - begin

    def _call(self, event: str) -> None:
        self.control = getattr(self.callback_handler, event)(self.args, self.state, self.control)

    def _settle(self, trial: Any, epoch: int, ignore_keys: Any, start_time: float, rate: float | None) -> None:
        """Look at what the steps found, one behind unless it is needed now; log, validate and save what is due."""
        due = self.control.should_log or self.control.should_evaluate or self.control.should_save
        for outcome in self.optimise.finished(0 if due else 1):
            self._check(outcome)
        if self.stopping and not due:  # all processes have just heard of it, from the step before
            due = self.control.should_save = True
            for outcome in self.optimise.finished(0):
                self._check(outcome)
        if due:
            self._maybe_log_save_evaluate(
                self._tr_loss, self._norm, self.model, trial, epoch, ignore_keys, start_time, learning_rate=rate
            )

    def _check(self, outcome: Outcome) -> None:
        """Stop at numbers that are none; the step has changed no weight then."""
        self.stopping = self.stopping or outcome.asked
        if not math.isfinite(outcome.loss):
            raise VitloraError(self._diverged(outcome, f"the loss is {outcome.loss}"))
        if math.isfinite(outcome.norm):
            self.overflows_in_a_row = 0
        elif self.args.fp16:  # the loss scaler skips this step and halves itself
            self.overflows += 1
            self.overflows_in_a_row += 1
            if self.overflows_in_a_row == OVERFLOWS_IN_A_ROW:
                raise VitloraError(self._diverged(outcome, f"fp16 overflowed in {OVERFLOWS_IN_A_ROW} steps in a row"))
        else:
            raise VitloraError(self._diverged(outcome, f"the gradient's norm is {outcome.norm}"))
        self._tr_loss += outcome.loss
        self._norm = outcome.norm

    def _diverged(self, outcome: Outcome, what: str) -> str:
        args, images = self.args, self.train_dataset
        epoch, at = divmod(outcome.number, self.steps_per_epoch)
        size = args.train_batch_size * args.gradient_accumulation_steps
        rows = self.loader.rows(epoch)[at * size : (at + 1) * size]
        names = ", ".join(images.packed.about(row)["path"] for row in rows[:NAMED])
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        newest = self.checkpoints.newest()
        kept = f"; the checkpoint of step {int(newest.name)} is kept" if newest else ""
        return (
            f"step {outcome.number + 1}, epoch {epoch + 1}: {what}; images {names}{more}; nothing is saved from "
            f"this step{kept}; lower train.learning_rate (got {args.learning_rate:g}), or set train.bf16 or fp32"
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps."""
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return -(-len(self.train_dataset) // int(size))

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        self.validated_step = self.state.global_step
        found: bool = super()._determine_best_metric(metrics, trial)
        kept = self.average.averages if self.average else trainable(self.model)
        if self.soup:
            self.soup.offer(metrics, round(self.state.epoch), kept)
        if found:
            self._keep_as_best(kept)
            self.best_ranks = self.ranks.pattern if self.ranks else None
        return found

    def _keep_as_best(self, kept: State) -> None:
        """Copy weights; a GPU does it by itself, into pinned memory, while the next steps run."""
        pinned = self.args.device.type == "cuda"
        if self.best is None:
            self.best = {name: torch.empty_like(each, device="cpu", pin_memory=pinned) for name, each in kept.items()}
        for name, weight in kept.items():
            self.best[name].copy_(weight.detach(), non_blocking=True)

    # --- checkpoints ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self.peers.count > 1:
            self.check_agreement()
        at = self.state.global_step
        if self.checkpoints.due(at - self.resumed_at, self.state.max_steps - at) or self.stop or self.stopping:
            self.keep()

    def keep(self) -> None:
        """Keep a checkpoint of this step."""
        if self.peers.writes:
            self.checkpoints.save(self.state.global_step, self._write)

    def _write(self, folder: Path) -> None:
        save_file(contiguous(trainable(self.model)), folder / WEIGHTS)
        if self.best is not None:
            if self.args.device.type == "cuda":
                torch.cuda.synchronize()  # the best may be under way
            save_file(self.best, folder / BEST)
        optimizer = self.optimizer.state_dict()
        parts = {f"{row}/{key}": value for row, kept in optimizer["state"].items() for key, value in kept.items()}
        save_file(contiguous({k: v for k, v in parts.items() if isinstance(v, Tensor)}), folder / OPTIMIZER)
        if self.ranks:
            self.ranks.save(folder)
        if self.average:
            self.average.save(folder)
        if self.soup:
            self.soup.save(folder)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
        scaler = self.accelerator.scaler
        progress = {
            "optimizer": {key: value for key, value in parts.items() if not isinstance(value, Tensor)},
            "learning_rates": [group["lr"] for group in optimizer["param_groups"]],
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "loss_since_log": float(self._tr_loss),
            "last_logged_step": self._globalstep_last_logged,
            "validated": self.state.global_step == self.validated_step,
            "stopped": self.control.should_training_stop,
            "seconds": self.time_limit.kept if self.time_limit else None,
            "patience": [early.early_stopping_patience_counter for early in self._early_stopping()],
            "best_ranks": self.best_ranks,
            "overflows": [self.overflows, self.overflows_in_a_row],
        }
        write_json(folder / PROGRESS, progress)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        copy_into(load_file(Path(resume_from_checkpoint) / WEIGHTS), trainable(self.model))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        progress = read_json(Path(checkpoint) / PROGRESS)
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**load_file(Path(checkpoint) / OPTIMIZER), **progress["optimizer"]}.items():
            row, _, key = name.partition("/")
            state.setdefault(int(row), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        for group, rate in zip(groups, progress["learning_rates"], strict=True):
            group["lr"] = rate
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.lr_scheduler.load_state_dict(progress["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(read_json(Path(checkpoint) / PROGRESS)["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Nothing to load: everything random is a function of seed and step."""

    def pick_up(self, checkpoint: Path) -> None:
        """Restore what the Trainer forgets, and make up for a validation that was still due."""
        progress = read_json(checkpoint / PROGRESS)
        if (checkpoint / BEST).exists():
            self.best = load_file(checkpoint / BEST)
        self._tr_loss += progress["loss_since_log"]
        self._globalstep_last_logged = progress["last_logged_step"]
        self.overflows, self.overflows_in_a_row = progress["overflows"]
        self.best_ranks = progress["best_ranks"]
        if self.ranks:
            self.ranks.load(checkpoint)
        if self.average:
            self.average.load(checkpoint)
        if self.soup:
            self.soup.load(checkpoint)
        if self.time_limit:
            self.time_limit.kept = progress["seconds"]
        for early, counter in zip(self._early_stopping(), progress["patience"], strict=True):
            early.early_stopping_patience_counter = counter
        epoch, at = divmod(self.state.global_step, self.steps_per_epoch)
        self.control.should_training_stop = progress["stopped"]
        if at == 0 and not progress["validated"]:
            self.control = self.callback_handler.on_epoch_end(self.args, self.state, self.control)
            self._settle(None, epoch - 1, None, 0.0, None)

    def _early_stopping(self) -> list[EarlyStoppingCallback]:
        return [each for each in self.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]


class Scored:
    """Val's batches as they were scored, for the Trainer's own loop.

    Args:
        labels: int64 (N,).
        found: Predicted labels, int64 (N,).
        losses: Mean of each batch, float32.
        size: Images of a batch.
    """

    def __init__(self, labels: Tensor, found: Tensor, losses: Tensor, size: int) -> None:
        self.dataset, self.found, self.losses, self.size = labels, found, losses, size

    def __len__(self) -> int:
        return len(self.losses)

    def __iter__(self) -> Iterator[Batch]:
        parts = zip(torch.split(self.dataset, self.size), torch.split(self.found, self.size), self.losses, strict=True)
        for labels, found, loss in parts:
            yield {"labels": labels, "found": found, "loss": loss}


def accuracies(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, float]:
    """Return the share of right answers, and its mean over the classes that there are; arguments (N,) each."""
    right = predicted == labels
    counts = np.bincount(labels)
    shares = np.bincount(labels, weights=right)[counts > 0] / counts[counts > 0]
    return {"accuracy": float(right.mean()), "balanced_accuracy": float(shares.mean())}


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Yield a list that gets the number of a signal that asks to stop; a second Ctrl-C ends at once.

    A second SIGTERM doesn't, not even after this: dvc hands its own on, where the whole group got one.
    """
    main, got = os.getpid(), list[int]()

    def note(number: int, frame: Any) -> None:
        if (got and number == signal.SIGINT) or os.getpid() != main:  # a loader process has inherited this
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        got.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield got
    finally:
        for number, handler in before.items():
            signal.signal(number, note if number == signal.SIGTERM and got else handler)


class Keeper(TrainerCallback):  # type: ignore[misc]  # likewise
    """Asks for checkpoints, and ends the run after one if a signal wants that."""

    def __init__(self, trainer: ImageTrainer, resumed: Path | None, save_steps: int, stop: list[int]) -> None:
        self.trainer, self.resumed, self.save_steps, self.stop = trainer, resumed, save_steps, stop

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore what the Trainer doesn't; losses are summed up here, where they have been read."""
        self.trainer._tr_loss = torch.zeros((), dtype=torch.float64)
        if self.trainer.peers.count > 1:
            self.trainer.check_agreement()
        if self.resumed:
            self.trainer.pick_up(self.resumed)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save now and then; the epoch's last step is saved after its validation, unless the run must end."""
        within = state.global_step % self.trainer.steps_per_epoch > 0
        stop = bool(self.stop) if self.trainer.peers.count == 1 else self.trainer.stopping
        control.should_save = stop or (within and state.global_step % self.save_steps == 0)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave, if asked to; several processes wait here until the first one has saved."""
        trainer = self.trainer
        if trainer.peers.any(bool(self.stop) or trainer.stopping):
            if not trainer.checkpoints.at(state.global_step).exists():  # asked since it was seen not to be due
                trainer.keep()
            trainer.peers.any(False)
            number = self.stop[0] if self.stop else signal.SIGTERM
            raise StoppedError(number, f"stopped after step {state.global_step}, which is kept; `dvc repro` goes on")
