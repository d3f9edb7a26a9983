r"""What the train stage makes of several GPUs of one machine, end to end from JPEG bytes, beside one GPU, in one run.

    PYTHONPATH=src python benchmarks/several_gpus.py --packed data/prepared/train --squares data/prepared/val \
        --labels data/prepared/labels.json --out several_gpus.json

Every row is the stage's own command, as `dvc repro` calls it, in a folder of its own: `train.num_processes` and the
batch are what differs. Photographs are repeated to the counts asked for, as in `train_speed.py`; weights are random.
Times are the stage's own (`.work/train_timing.csv`); the first epoch pays for start-up and is left out. Memory is read
every half second: of the host, each page counted once (PSS), of the GPUs as the driver tells it.

`--cases` are model:images of a step in all:processes, such as ViT-B/16:512:2.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from common import host
from peers import prepare

from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.params import read_document
from vitlora.storage.manifest import MANIFEST, write_manifest

ROOT = Path(__file__).resolve().parents[1]
CASES = ("ViT-B/16:512:1", "ViT-B/16:512:2", "ViT-B/16:1024:2", "ViT-S/14:32:1", "ViT-S/14:64:2", "ViT-S/14:32:2")
READ_S = 0.5
RECIPE = (75_750, 25_250)  # images of Food-101


class Case(NamedTuple):
    """A model, the images of a step in all, and processes."""

    model: str
    images: int
    processes: int


def main() -> None:
    """Run every case; print and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packed", type=Path, required=True, help="train as preprocess writes it")
    parser.add_argument("--squares", type=Path, required=True, help="val likewise")
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--cases", type=case, nargs="+", default=[case(text) for text in CASES])
    parser.add_argument("--train-images", type=int, default=32_768)
    parser.add_argument("--val-images", type=int, default=8_192)
    parser.add_argument("--epochs", type=int, default=4, help="the first one is not counted")
    parser.add_argument("--timeout", type=float, default=150, help="seconds of a case")
    parser.add_argument("--tiny", action="store_true", help="a 2-layer ViT at 32 px (val too), to try every path out")
    parser.add_argument("--work", type=Path, default=Path(".work/several_gpus"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "host": host(),
        "pictures": "real photographs repeated to the counts of each row; val: their squares",
        "train_images": args.train_images,
        "val_images": args.val_images,
        "rows": [],
    }
    inputs = share(args)
    for each in args.cases:
        row = {**each._asdict(), **run(each, inputs, args)}
        result["rows"].append(row)
        against_one(result["rows"])
        write_json(args.out, result)
        print(brief(row), flush=True)


def case(text: str) -> Case:
    """Read a case as the command line has it."""
    found = re.fullmatch(r"(ViT-B/16|ViT-S/14):(\d+):(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"got {text}; the rule: as ViT-B/16:512:2")
    return Case(found[1], int(found[2]), int(found[3]))


def share(args: argparse.Namespace) -> dict[str, Path]:
    """Repeat the photographs; return what the stage reads, without the base."""
    work = args.work.resolve()
    prepare.repeat_packed(args.packed.resolve(), work / "train", args.train_images)
    prepare.repeat_squares(args.squares.resolve(), work / "val", args.val_images)
    (work / "train" / MANIFEST).unlink()  # a link to that of the photographs themselves
    for name in ("train", "val"):
        write_manifest(work / name)
    return {"train-images": work / "train", "val": work / "val", "labels": args.labels.resolve()}


def run(each: Case, inputs: dict[str, Path], args: argparse.Namespace) -> dict[str, Any]:
    """Run the stage for a case in a new folder; return its readings, or what went wrong."""
    name = f"{each.model.replace('/', '-')}-{each.images}-{each.processes}"
    folder = args.work.resolve() / name
    folder.mkdir(parents=True)
    base = args.work.resolve() / f"base-{each.model.replace('/', '-')}"
    if not base.exists():
        prepare.random_model(base, args.tiny, each.model)
        write_manifest(base)
    document = read_document(ROOT / "presets" / "food101.yaml")
    document["train"].update(
        per_device_train_batch_size=min(each.images, 128),
        gradient_accumulation_steps=max(1, each.images // 128),
        num_train_epochs=args.epochs,
        num_processes=each.processes,
        save_steps=10_000,
    )
    write_json(folder / "params.yaml", document)  # which is YAML too
    options = {**inputs, "base": base, "adapter": "adapter", "metrics": "metrics.json", "plots": "plots"}
    command = [sys.executable, "-m", "stages.train", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    begun = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        memory = watch(process, begun + args.timeout)
    wall = time.monotonic() - begun
    timings = folder / ".work" / "train_timing.csv"
    if process.returncode or not timings.exists():
        text = (folder / "log").read_text(encoding="utf-8", errors="replace")
        return {"failed": text[-2000:], "exit": process.returncode}
    return {**readings(read_csv(timings), wall), **memory, **told(folder)}


def watch(process: "subprocess.Popen[bytes]", deadline: float) -> dict[str, float]:
    """Wait for a process and read memory meanwhile; one that takes too long is ended."""
    host_peak = gpu_peak = 0.0
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.terminate()
            deadline += 30
        host_peak = max(host_peak, family_pss(process.pid))
        gpu_peak = max(gpu_peak, gpu_used())
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


def gpu_used() -> float:
    """Return GiB that the fullest GPU has in use."""
    try:
        command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
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
        "recipe_epoch_s": round(sum(n / spread(c, 1)["median"] for n, c in zip(RECIPE, RATES, strict=True)), 2),
    }


RATES = ("images_per_s", "val_images_per_s")


def told(folder: Path) -> dict[str, Any]:
    """Return what the run says of itself."""
    metrics = read_json(folder / "metrics.json")
    names = ("num_processes", "micro_batch", "step", "cuda_graph", "precision", "val_accuracy", "val_loss")
    log = (folder / "log").read_text(encoding="utf-8", errors="replace")
    return {name: metrics[name] for name in names} | {"workers_a_process": int(re.findall(r"(\d+) loader", log)[0])}


def against_one(rows: list[dict[str, Any]]) -> None:
    """Write into the newest row how many times as fast it is as one GPU with as many images in all, or with as many."""
    newest = rows[-1]
    batches = {"at_equal_batch": newest["images"], "at_equal_batch_a_gpu": newest["images"] // newest["processes"]}
    for name, images in batches.items():
        alone = [r for r in rows if (r["model"], r["images"], r["processes"]) == (newest["model"], images, 1)]
        if "failed" not in newest and newest["processes"] > 1 and alone and "failed" not in alone[0]:
            rate = newest["train_images_per_s"]["median"] / alone[0]["train_images_per_s"]["median"]
            newest[f"times_one_gpu_{name}"] = round(rate, 3)


def brief(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    what = f"{row['model']}, {row['images']} images a step, {row['processes']} at once"
    if "failed" in row:
        return f"{what}: failed with {row['exit']}: {row['failed'][-600:]}"
    rate = row["train_images_per_s"]
    times = ", ".join(f"{v} x {k[14:]}" for k, v in row.items() if k.startswith("times_one_gpu"))
    return (
        f"{what}: {rate['median']:,.0f} images/s ({rate['min']:,.0f} to {rate['max']:,.0f}), waits "
        f"{row['data_wait_share']:.1%}, host {row['peak_host_pss_gib']} GiB, start and end "
        f"{row['start_up_and_end_s']} s; {times}"
    )


if __name__ == "__main__":
    main()
