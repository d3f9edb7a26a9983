"""Runs this project's train stage by its own command, in a folder of its own, and reads what it says and takes."""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from peers import prepare

from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.params import read_document
from vitlora.storage.manifest import MANIFEST, write_manifest

ROOT = Path(__file__).resolve().parents[1]
READ_S = 0.5  # between two looks at memory


def take_photographs(parser: argparse.ArgumentParser, train_images: int, val_images: int) -> None:
    """Add the options that say what is trained on, how long, and where the result goes."""
    parser.add_argument("--packed", type=Path, required=True, help="train as preprocess writes it")
    parser.add_argument("--squares", type=Path, required=True, help="val likewise")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--train-images", type=int, default=train_images)
    parser.add_argument("--val-images", type=int, default=val_images)
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--timeout", type=float, default=300, help="seconds of a case")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers, to try every path out")
    parser.add_argument("--work", type=Path, default=Path(".work/stage_run"))
    parser.add_argument("--out", type=Path, required=True)


def share(args: argparse.Namespace) -> dict[str, Path]:
    """Repeat photographs to so many; return what the stage reads, without the base."""
    work = args.work.resolve()
    prepare.repeat_packed(args.packed.resolve(), work / "train", args.train_images)
    prepare.repeat_squares(args.squares.resolve(), work / "val", args.val_images)
    (work / "train" / MANIFEST).unlink()  # a link to that of the photographs themselves
    for name in ("train", "val"):
        write_manifest(work / name)
    return {"train-images": work / "train", "val": work / "val", "labels": args.labels.resolve()}


def run_stage(
    folder: Path,
    inputs: Mapping[str, Path],
    changes: Mapping[str, Any],
    timeout: float,
    gpus: list[str],
    cores: set[int],
) -> dict[str, Any]:
    """Run the stage, with the preset food101 and changes of its section train; return readings, or what went wrong.

    Args:
        folder: A new one.
        inputs: Of the stage, by option.
        changes: Of ``train``, by key.
        timeout: Seconds after which it is ended.
        gpus: Those it sees.
        cores: Those it may use.
    """
    document = read_document(ROOT / "presets" / "food101.yaml")
    document["train"].update(save_steps=10_000, **changes)
    command, env = ready(folder, document, inputs)
    seen = ",".join(gpus)
    env["CUDA_VISIBLE_DEVICES"] = seen
    begun = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        os.sched_setaffinity(process.pid, cores)  # all that it starts inherits them
        memory = watch(process, begun + timeout, seen)
    wall = time.monotonic() - begun
    timings = folder / ".work" / "train_timing.csv"
    if process.returncode or not timings.exists():
        text = (folder / "log").read_text(encoding="utf-8", errors="replace")
        return {"failed": text[-2000:], "exit": process.returncode}
    return {**readings(read_csv(timings), wall), **memory, **told(folder)}


def ready(folder: Path, document: dict[str, Any], inputs: Mapping[str, Path]) -> tuple[list[str], dict[str, str]]:
    """Make a folder with these params; return the stage's command, to be run there, and its environment.

    It leaves ``adapter``, ``metrics.json`` and ``plots`` in the folder.
    """
    folder.mkdir(parents=True)
    write_json(folder / "params.yaml", document)  # which is YAML too
    options = {**inputs, "adapter": "adapter", "metrics": "metrics.json", "plots": "plots"}
    command = [sys.executable, "-m", "stages.train", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return command, {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def watch(process: "subprocess.Popen[bytes]", deadline: float, gpus: str) -> dict[str, float]:
    """Wait for a process and read memory meanwhile; one that takes too long is ended."""
    host_peak = gpu_peak = 0.0
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.terminate()
            deadline += 30
        host_peak = max(host_peak, family_pss(process.pid))
        gpu_peak = max(gpu_peak, gpu_used(gpus))
        time.sleep(READ_S)
    return {"peak_host_pss_gib": round(host_peak, 2), "peak_gpu_gib": round(gpu_peak, 2)}


def family_pss(pid: int) -> float:
    """Return GiB of memory of a process and all below it, each page counted once."""
    total = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(OSError):
                text = Path(f"/proc/{each.pid}/smaps_rollup").read_text(encoding="utf-8")
                total += int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    return total / 2**20


def gpu_used(gpus: str) -> float:
    """Return GiB that the fullest of these GPUs has in use."""
    try:
        command = ["nvidia-smi", "-i", gpus, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0.0
    return max((float(line) / 1024 for line in listed.split()), default=0.0)


def readings(rows: list[dict[str, str]], wall: float) -> dict[str, Any]:
    """Return rates and times of the epochs after the first."""
    counted = rows[1:]

    def spread(column: str, digits: int) -> dict[str, float]:
        values = [float(row[column]) for row in counted]
        ends = {"median": statistics.median(values), "min": min(values), "max": max(values)}
        return {key: round(value, digits) for key, value in ends.items()}

    train, val = spread("train_s", 3)["median"], spread("val_s", 3)["median"]
    return {
        "train_images_per_s": spread("images_per_s", 1),
        "val_images_per_s": spread("val_images_per_s", 1),
        "s_per_epoch": {"train": train, "val": val},
        "data_wait_share": spread("data_wait_share", 4)["median"],
        "epochs_measured": len(counted),
        "start_up_and_end_s": round(wall - len(rows) * (train + val), 1),
    }


def told(folder: Path) -> dict[str, Any]:
    """Return what the run says of itself."""
    metrics = read_json(folder / "metrics.json")
    names = ("num_processes", "micro_batch", "step", "cuda_graph", "precision", "val_accuracy", "val_loss")
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return {name: metrics[name] for name in names} | {"workers_a_process": int(re.findall(r"(\d+) loader", log)[0])}
