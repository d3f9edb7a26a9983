"""The same stop-watch for every contestant: epochs, waiting for data, an idle GPU, memory.

Everyone's batches but ours come out of torch's DataLoader in the end (the Trainer's, accelerate's and timm's wrap it),
so waiting is measured there: the time that the training loop is blocked in the loader's ``__next__``. A wait costs
nothing while the GPU still has work queued; a pair of CUDA events around it tells how long the GPU really stood idle
meanwhile. Our loader measures the same by itself.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from torch.utils.data import dataloader

from peers.job import Job

FIRST_SCALE, FEWER_STEPS = 65536.0, 2000  # torch's GradScaler: where it starts, and from when on it may grow
SKIPPED_BEFORE_PROFILE = 4


class FinishedError(Exception):
    """All that was asked for has been measured; ends a training loop from within."""


@dataclass
class Epoch:
    """One epoch's readings; seconds, and images as the loader handed them out."""

    train_s: float = 0.0
    val_s: float = 0.0
    other_s: float | None = None  # saving, and whatever else lies between two epochs
    train_images: int = 0
    wait_s: float = 0.0
    idle_s: float | None = None
    waits: list[tuple[Any, Any]] = field(default_factory=list)


class Meter:
    """Measures one contestant; the training loop tells it when an epoch, its training and its validation end."""

    def __init__(self, job: Job) -> None:
        self.started, self.wanted, self.busy_steps = job.started, job.epochs, job.busy_steps
        self.val_images = job.val_images
        self.cuda = torch.cuda.is_available()
        self.epochs: list[Epoch] = []
        self.notes: dict[str, Any] = {}
        self.scale: Callable[[], float] | None = None  # reads the loss scale of fp16
        self.phase = ""
        self.clock = 0.0
        self.steps = 0
        self.first_step_s: float | None = None
        self.first_epoch_end_s: float | None = None
        self.skipped: int | None = None
        self.memory: dict[str, float | None] = {}
        self.busy: float | None = None
        self._seen = 0
        self._profile: Any = None

    def watch_loaders(self) -> None:
        """Measure every fetch of torch's loaders in this process from now on."""
        original = dataloader._BaseDataLoaderIter.__next__

        def timed(iterator: Any) -> Any:
            if self.phase in ("", "val"):
                return original(iterator)
            before, start = self._mark(), time.perf_counter()
            batch = original(iterator)
            self._note_fetch(batch, time.perf_counter() - start, before)
            return batch

        dataloader._BaseDataLoaderIter.__next__ = timed

    def epoch_begin(self) -> None:
        """Start an epoch; call it before the loader's iterator is made."""
        now = self._now()
        if self.epochs and self.epochs[-1].other_s is None:
            self.epochs[-1].other_s = now - self.clock
        if len(self.epochs) == self.wanted:
            self.phase, self._seen = "busy", 0
            return
        self.epochs.append(Epoch())
        self.phase, self.clock = "train", now

    def step(self) -> None:
        """Count an optimiser step; the first one's time is kept."""
        self.steps += 1
        if self.first_step_s is None:
            self._now()
            self.first_step_s = time.time() - self.started
        if self.phase == "busy":
            self._profile_step()

    def loaded(self, images: int, waited_s: float) -> None:
        """Take what a loader that is none of torch's says of the epoch: images, and seconds that the device waited."""
        epoch = self.epochs[-1]
        epoch.train_images, epoch.wait_s, epoch.idle_s = images, waited_s, waited_s

    def epoch_end(self) -> None:
        """End an epoch's training; what follows is validation."""
        now = self._now()
        if self.phase == "busy":
            self._end_profile()
        epoch = self.epochs[-1]
        epoch.train_s = now - self.clock
        if self.cuda and epoch.idle_s is None:
            epoch.idle_s = sum(before.elapsed_time(after) for before, after in epoch.waits) / 1000
        epoch.waits.clear()
        self._read_memory()
        if self.scale and self.steps < FEWER_STEPS:
            self.skipped = round(math.log2(FIRST_SCALE / self.scale()))
        self.phase, self.clock = "val", time.perf_counter()

    def val_end(self) -> None:
        """End an epoch's validation."""
        now = self._now()
        self.epochs[-1].val_s = now - self.clock
        self.phase, self.clock = "", now
        self._read_memory()
        if self.first_epoch_end_s is None:
            self.first_epoch_end_s = time.time() - self.started

    def row(self) -> dict[str, Any]:
        """Return the readings; epochs after the first, for the first pays for start-up."""
        measured = self.epochs[1 : self.wanted]
        train = [epoch.train_images / epoch.train_s for epoch in measured]
        val = [self.val_images / epoch.val_s for epoch in measured]
        others = [epoch.other_s for epoch in (measured[:-1] or self.epochs) if epoch.other_s is not None]
        seconds = {"train": _middle(e.train_s for e in measured), "val": _middle(e.val_s for e in measured)}
        return {
            "train_images_per_s": _spread(train),
            "val_images_per_s": _spread(val),
            "s_per_epoch": {**seconds, "saving_and_other": _middle(others)},
            "time_to_first_step_s": _rounded(self.first_step_s),
            "start_up_s": _rounded(max(0.0, (self.first_epoch_end_s or 0) - sum(seconds.values()))),
            "data_wait_share": _share(e.wait_s / e.train_s for e in measured),
            "data_wait_gpu_idle_share": _share(e.idle_s / e.train_s for e in measured) if self.cuda else None,
            "gpu_busy_share": _rounded(self.busy, 4),
            **self.memory,
            "skipped_fp16_steps": self.skipped,
            "optimizer_steps": self.steps,
            "train_images": measured[-1].train_images,
            "val_images": self.val_images,
            "epochs_measured": len(measured),
            "precision": "fp16" if self.cuda else "fp32",
            "epochs": [
                {"train_s": round(e.train_s, 3), "val_s": round(e.val_s, 3), "other_s": _rounded(e.other_s)}
                for e in self.epochs
            ],
            **self.notes,
        }

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def _mark(self) -> Any:
        if not self.cuda or self.phase != "train":
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _note_fetch(self, batch: Any, seconds: float, before: Any) -> None:
        if self.phase == "busy":
            return
        epoch = self.epochs[-1]
        epoch.train_images += _images(batch)
        epoch.wait_s += seconds
        if before is not None:
            epoch.waits.append((before, self._mark()))

    def _profile_step(self) -> None:
        # Steps, not fetches: a loader may hand out a batch in parts, long before the device gets to it.
        self._seen += 1
        if self._seen == SKIPPED_BEFORE_PROFILE and self.cuda:
            self._now()
            self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._profile.__enter__()
            self.clock = time.perf_counter()
        elif self._seen == SKIPPED_BEFORE_PROFILE + self.busy_steps:
            self._end_profile()

    def _end_profile(self) -> None:
        if self._profile is not None:
            wall = self._now() - self.clock
            self._profile.__exit__(None, None, None)
            self.busy = _kernel_seconds(self._profile) / wall
        raise FinishedError

    def _read_memory(self) -> None:
        """Keep the peaks; of the host's memory main process and workers are added up."""
        us = psutil.Process()
        family = [us, *us.children(recursive=True)]
        peak = sum(_proc_kib(process.pid, "status", "VmHWM") for process in family) / 2**20
        shared_once = sum(_proc_kib(process.pid, "smaps_rollup", "Pss") for process in family) / 2**20
        readings = {"peak_host_gib": peak, "peak_host_pss_gib": shared_once}
        if self.cuda:
            readings["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
            readings["peak_gpu_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        for name, value in readings.items():
            self.memory[name] = round(max(value, self.memory.get(name) or 0), 2)


def _images(batch: Any) -> int:
    if isinstance(batch, Mapping):
        batch = batch["labels"] if "labels" in batch else next(iter(batch.values()))
    elif isinstance(batch, list | tuple):
        batch = batch[-1]
    return len(batch)


def _kernel_seconds(profile: Any) -> float:
    """Return how long at least one kernel ran: the union of the intervals in the profiler's trace."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") == "kernel")
    total, end = 0.0, -math.inf
    for start, stop in spans:
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e6


def _proc_kib(pid: int, file: str, key: str) -> int:
    """Read one line of Linux's account of a process; one that has just ended counts nothing."""
    try:
        lines = Path(f"/proc/{pid}/{file}").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(key + ":")), 0)


def _middle(values: Any) -> float:
    found = list(values)
    return round(statistics.median(found), 3) if found else 0.0


def _spread(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 1),
        "min": round(min(values), 1),
        "max": round(max(values), 1),
    }


def _share(values: Any) -> float:
    return round(statistics.median(values), 4)


def _rounded(value: float | None, digits: int = 2) -> float | None:
    return None if value is None else round(value, digits)
