"""Look at this machine and, once data is prepared, at what holds training up: the loader or the step."""

import argparse
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vitlora.core.cores import cores
from vitlora.core.params import load_params, read_document
from vitlora.safety.check import check_document
from vitlora.train.params import Train, TrainStage

PACKAGES = ("torch", "transformers", "peft", "dvc", "simplejpeg", "triton")
PREPARED = tuple(Path("data/prepared") / name for name in ("train", "val", "labels.json"))
BASE = Path("models/base")
SHARED = Path("/dev/shm")  # noqa: S108 - where worker processes hand over their batches
SHARED_BYTES = 2**30
MARGIN = 1.1  # a loader needs to be this much faster than the step, as it shares the machine with it
STEPS = 1000  # of the schedule that measured steps pretend to be part of
WORTH_A_WORKER = 0.1  # share of the time


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to measure each part (5)")


def act(args: argparse.Namespace) -> None:
    """Print versions and device, then images/s of loader and step and which parameter to change.

    Raises:
        VitloraError: params.yaml holds a mistake, or does not fit the base model or the data.
    """
    for line in about_machine():
        print(line)
    path = Path("params.yaml")
    document = read_document(path)
    check_document(document, path, BASE)
    missing = [str(place) for place in (*PREPARED, BASE) if not place.exists()]
    if missing:
        print(f"no {missing[0]} yet: run `dvc repro preprocess`, then this shows whether loader or step is the slower")
        return
    stage = load_params(TrainStage, document, path)
    loader, step, way, workers = measure(stage, args.seconds)
    print(f"loader   {loader:8,.0f} images/s, {workers} workers, {stage.train.decoder}")
    print(f"step     {step:8,.0f} images/s, {way}")
    print(advice(loader, step, way, workers, stage.train))


def about_machine() -> Iterator[str]:
    """Yield a line each on versions, device and shared memory."""
    import torch

    yield f"python   {platform.python_version()}, {', '.join(_versions())}"
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield f"device   {card.name}, {card.total_memory / 2**30:.0f} GiB; {cores()} cores"
        if SHARED.is_dir() and shutil.disk_usage(SHARED).free < SHARED_BYTES:
            free = shutil.disk_usage(SHARED).free / 2**20
            yield f"note: {SHARED} has {free:.0f} MiB free, too little for loader workers; in Docker: --shm-size=2g"
    else:
        bf16 = "with" if torch.cpu._is_avx512_bf16_supported() else "without"
        yield f"device   CPU, {cores()} cores, {bf16} bf16; {torch.get_num_threads()} threads"


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def measure(stage: TrainStage, seconds: float) -> tuple[float, float, str, int]:
    """Run loader and step apart from each other, as training would.

    Returns:
        images/s of each, how the step runs, and the number of loader workers.
    """
    from vitlora.train.stage import get_ready
    from vitlora.train.step import precision

    trainer = get_ready(stage.augment, stage.lora, stage.train, BASE, *PREPARED).trainer
    feed, kind = trainer.get_train_dataloader(), precision(stage.train)
    batches = _repeat(feed)
    batch = next(batches)
    loader = _rate(lambda: len(next(batches)["labels"]), seconds)
    optimise = trainer.step_alone(STEPS)

    def step() -> int:
        optimise(0, [batch])
        for _ in optimise.finished(1):  # waits for the step before, as training does
            pass
        return len(batch["labels"])

    step()  # compiles and captures
    captured = ", captured" if optimise.capture else ""
    way = f"{trainer.way.step}{captured}, {kind}, {trainer.args.per_device_train_batch_size} images"
    return loader, _rate(step, seconds), way, trainer.args.dataloader_num_workers


def _repeat(feed: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while True:
        yield from feed


def _rate(work: Callable[[], int], seconds: float) -> float:
    """Return images/s of ``work``, called for at least so many seconds and three times."""
    start, images, calls = time.perf_counter(), 0, 0
    while calls < 3 or time.perf_counter() - start < seconds:
        images, calls = images + work(), calls + 1
    return images / (time.perf_counter() - start)


def advice(loader: float, step: float, way: str, workers: int, train: Train) -> str:
    """Say which of the two holds training up, and what to change.

    Args:
        loader: images/s.
        step: images/s.
        way: As ``measure`` says it.
        workers: Of the loader; without any, loading and step take turns.
        train: The section.
    """
    most = cores() - 1
    if workers == 0:
        share = step / (loader + step)
        if share < WORTH_A_WORKER:
            return f"the step is the bottleneck; loading takes {share:.1%} of the time"
        return f"loading takes {share:.0%} of the time: set train.dataloader_num_workers: 1"
    if loader > MARGIN * step:
        slow = "" if "fused" in way or "fp32" in way else ": train.step: fused is faster where the model allows it"
        return f"the step is the bottleneck{slow}"
    if workers < most:
        return f"the loader is the bottleneck: raise train.dataloader_num_workers to {most}"
    if train.decoder == "pil":
        return "the loader is the bottleneck: set train.decoder: simplejpeg"
    return "the loader is the bottleneck, and decoding is all it does: give it more cores, or store smaller photos"
