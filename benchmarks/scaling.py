"""How many images/s will several GPUs train, and what binds: measured times of a step, an all-reduce and loading.

    PYTHONPATH=src python benchmarks/scaling.py measure --out all_reduce.json
    PYTHONPATH=src python benchmarks/scaling.py predict --out benchmarks/results/scaling.json

``measure`` times all-reduces of as many bytes as the gradients of an adapter have, among 2, 4, ... processes, one a GPU
by NCCL (or ``--processes`` on CPUs by gloo), and fits them: seconds = latency + bytes x 2 (n - 1) / n / bandwidth.
``predict`` takes the captured step of one GPU (``captured.json``), between the batches that were measured straight
lines; adds the all-reduce, which begins when the step's gradients are there and hides behind nothing; and lets no more
images through than loaders make (``loader.json``). Among more GPUs than ``measure`` had, an all-reduce is taken to be
as with the most it had; between hosts latency and bandwidth are assumed. Beside the predictions stands what was
measured end to end on several GPUs (``several_gpus.json``).
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from common import host
from torch import multiprocessing

from vitlora.core.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent / "results"
# Trained values of LoRA r=16 on query and value and a head of 101 classes: width and blocks.
SHAPES = {"ViT-S/14": (384, 12), "ViT-B/16": (768, 12)}
SIZES = (4_096, 65_536, 1_500_000, 3_000_000, 30_000_000)  # bytes
BETWEEN_HOSTS = {"latency_s": 200e-6, "bytes_per_s": 12e9}  # 100 Gbit/s
CORES_A_GPU = 16
HOSTS = ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2))  # GPUs of a host, hosts


def main() -> None:
    """Measure or predict; print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "predict"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--processes", type=int, nargs="+", help="measure: counts; else 2, 4, ... of the GPUs there are"
    )
    parser.add_argument(
        "--all-reduce",
        type=Path,
        default=RESULTS / "all_reduce.json",
        help="predict: what measure wrote on such a host",
    )
    args = parser.parse_args()
    found = measure(args.processes or counts()) if args.what == "measure" else predict(args.all_reduce)
    write_json(args.out, found)


def counts() -> list[int]:
    """Return 2, 4, ... as far as there are GPUs."""
    gpus = torch.cuda.device_count()
    if gpus < 2:
        raise SystemExit("measure needs two GPUs, or --processes 2 to try it on the processor")
    return [n for n in (2, 4, 8, 16) if n <= gpus]


# --- measured ---


def measure(processes: list[int]) -> dict[str, Any]:
    """Time all-reduces among each number of processes, and fit latency and bandwidth."""
    rows = []
    for count in processes:
        with tempfile.TemporaryDirectory() as folder:
            multiprocessing.spawn(_rank, (count, folder), count)
            times = read_json(Path(folder) / "times.json")
        moved = [size * 2 * (count - 1) / count for size in SIZES]
        slope, latency = np.polyfit(moved, times, 1)
        rows.append(
            {"processes": count, "seconds": times, "latency_s": float(latency), "bytes_per_s": float(1 / slope)}
        )
        print(f"{count}: {latency * 1e6:.0f} us + bytes at {1 / slope / 1e9:.1f} GB/s", flush=True)
    return {"host": host(), "backend": _backend(), "bytes": list(SIZES), "rows": rows}


def _backend() -> str:
    return "nccl" if torch.cuda.device_count() > 1 else "gloo"


def _rank(rank: int, count: int, folder: str) -> None:
    device = f"cuda:{rank}" if _backend() == "nccl" else "cpu"
    os.environ["OMP_NUM_THREADS"] = "1"
    store = dist.FileStore(f"{folder}/store", count)
    dist.init_process_group(_backend(), store=store, rank=rank, world_size=count, timeout=timedelta(seconds=60))
    times = []
    for size in SIZES:
        gradients = torch.ones(size // 4, device=device)
        taken = [_one(gradients) for _ in range(60)]
        times.append(statistics.median(taken[10:]))
    if rank == 0:
        write_json(Path(folder) / "times.json", times)
    dist.destroy_process_group()


def _one(gradients: torch.Tensor) -> float:
    if gradients.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    dist.all_reduce(gradients)
    if gradients.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


# --- predicted ---


def predict(measured: Path) -> dict[str, Any]:
    """Predict rates for a fixed batch a GPU, and for a fixed batch in all."""
    fits = {row["processes"]: row for row in read_json(measured)["rows"]}
    per_core = loader_rate()
    rows = []
    for model in SHAPES:
        batches, times = steps(model)
        for what, sizes in (("a GPU", (32, 512)), ("in all", (512, 4096))):
            for size in sizes:
                rows += [_row(model, size, what, shape, batches, times, fits, per_core) for shape in HOSTS]
    for row in rows:
        print("{model} {batch} {of}: {gpus:>2} GPUs {images_per_s:>7,} images/s, {times:.2f} x, {binds}".format(**row))
    checked = list(check(fits, per_core))
    for row in checked:
        print("{model} {batch} in all, {gpus} GPUs: {images_per_s:,}, measured {measured:,.0f}".format(**row))
    rest = {"between_hosts_assumed": BETWEEN_HOSTS, "rows": rows, "checked": checked}
    return {"host": host(), "loader_images_per_s_a_core": round(per_core), **rest}


def check(fits: dict[int, Any], per_core: float) -> Iterator[dict[str, Any]]:
    """Yield a prediction for everything that was measured end to end on several GPUs, with the reading."""
    for row in read_json(RESULTS / "several_gpus.json")["rows"]:
        shape = (row["processes"], 1)
        predicted = _row(row["model"], row["images"], "in all", shape, *steps(row["model"]), fits, per_core)
        yield predicted | {"measured": row["train_images_per_s"]["median"]}


def steps(model: str) -> tuple[list[int], list[float]]:
    """Return the batches that were measured captured and fused, and seconds of a step of each."""
    rows = [row for row in read_json(RESULTS / "captured.json")["rows"] if row["method"] == "lora"]
    rows = [row for row in rows if row["model"] == model and row["step"] == "fused" and row["captured"]]
    found = {row["batch"]: row["captured"]["ms"] / 1000 for row in rows}
    return sorted(found), [found[batch] for batch in sorted(found)]


def loader_rate() -> float:
    """Return images/s that a core makes where all cores of a host load and nothing else runs (``loader.json``)."""
    rows = [row for row in read_json(RESULTS / "loader.json")["rows"] if "simplejpeg" in row["loader"]]
    return max(row["images_per_s_per_core"] for row in rows)


def step_seconds(batch: float, batches: list[int], times: list[float]) -> float:
    """Return seconds of a step: a straight line between two that were measured, and the nearest one's beyond them."""
    at = min(max(int(np.searchsorted(batches, batch)), 1), len(batches) - 1)
    (low, high), (first, second) = batches[at - 1 : at + 1], times[at - 1 : at + 1]
    return max(first + (second - first) * (batch - low) / (high - low), 0.5 * times[0])


def _row(
    model: str,
    size: int,
    what: str,
    shape: tuple[int, int],
    batches: list[int],
    times: list[float],
    fits: dict[int, Any],
    per_core: float,
) -> dict[str, Any]:
    gpus = shape[0] * shape[1]
    images = size * gpus if what == "a GPU" else size
    alone = step_seconds(size, batches, times)
    step = step_seconds(images / gpus, batches, times)
    reduced = _all_reduce(trained_bytes(model), *shape, fits)
    loaded = images / (per_core * CORES_A_GPU * gpus)
    seconds = max(step + reduced, loaded)
    binds = "loaders" if loaded > step + reduced else "the step" if reduced < 0.05 * step else "the all-reduce"
    base = max(alone, size / (per_core * CORES_A_GPU))
    return {
        "model": model,
        "batch": size,
        "of": what,
        "gpus": gpus,
        "hosts": shape[1],
        "images_per_s": round(images / seconds),
        "times": round((images / seconds) / (size / base), 2),
        "all_reduce_share": round(reduced / seconds, 3),
        "binds": binds,
    }


def trained_bytes(model: str) -> int:
    """Return bytes of an adapter's gradients and its head's, float32."""
    width, blocks = SHAPES[model]
    return 4 * (blocks * 2 * 2 * 16 * width + 101 * (width + 1))


def _all_reduce(size: int, gpus: int, hosts: int, fits: dict[int, Any]) -> float:
    """Within a host, then between hosts, as rings do."""
    total = 0.0
    known = max(count for count in fits if count <= max(gpus, min(fits)))
    for count, usual in ((gpus, fits[known]), (hosts, BETWEEN_HOSTS)):
        if count > 1:
            total += usual["latency_s"] + size * 2 * (count - 1) / count / usual["bytes_per_s"]
    return total


if __name__ == "__main__":
    main()
