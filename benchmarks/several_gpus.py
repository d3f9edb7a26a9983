r"""What the train stage makes of several GPUs of one machine, end to end from JPEG bytes, beside one GPU, in one run.

    PYTHONPATH=src python benchmarks/several_gpus.py --packed data/prepared/train --squares data/prepared/val \
        --labels data/prepared/labels.json --gpus 2 --out several_gpus.json

Every row is the stage's own command, as `dvc repro` calls it, in a folder of its own: `train.num_processes` and the
batch are what differs. Photographs are repeated to the counts asked for, as in `train_speed.py`; weights are random.
Times are the stage's own (`.work/train_timing.csv`); the first epoch pays for start-up and is left out. Memory is read
every half second: of the host, each page counted once (PSS), of the GPUs as the driver tells it.

`--cases` are model:images of a step in all:processes, such as ViT-B/16:512:2. Neighbours that fit run at the same time,
each on GPUs and an equal share of cores of its own; a case for all GPUs runs alone.
"""

import argparse
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from common import host
from peers import prepare
from stage_run import run_stage, share, take_photographs

from vitlora.core.files import write_json
from vitlora.storage.manifest import write_manifest

CASES = ("ViT-B/16:512:1", "ViT-B/16:512:2", "ViT-B/16:1024:2", "ViT-S/14:32:1", "ViT-S/14:64:2", "ViT-S/14:32:2")
RECIPE = (75_750, 25_250)  # images of Food-101


class Case(NamedTuple):
    """A model, the images of a step in all, and processes."""

    model: str
    images: int
    processes: int


def main() -> None:
    """Run every case; print and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=case, nargs="+", default=[case(text) for text in CASES])
    parser.add_argument("--gpus", type=int, required=True, help="of this machine; without one, processes at once")
    take_photographs(parser, train_images=32_768, val_images=8_192)
    args = parser.parse_args()
    result: dict[str, Any] = {
        "host": host(),
        "pictures": "real photographs repeated to the counts of each row; val: their squares",
        "train_images": args.train_images,
        "val_images": args.val_images,
        "rows": [],
    }
    inputs = share(args)
    for model in {each.model for each in args.cases}:
        prepare.random_model(base(args, model), args.tiny, model)
        write_manifest(base(args, model))
    for group in groups(args.cases, args.gpus):
        with ThreadPoolExecutor(len(group)) as pool:
            rows = list(pool.map(lambda place: run(*place, inputs, args), places(group, args.gpus)))
        for each, readings in zip(group, rows, strict=True):
            beside = [f"{other.model}:{other.images}:{other.processes}" for other in group if other != each]
            row = {**each._asdict(), **readings, "beside": beside}
            result["rows"].append(row)
            against_one(result["rows"])
            print(brief(row), flush=True)
        write_json(args.out, result)


def case(text: str) -> Case:
    """Read a case as the command line has it."""
    found = re.fullmatch(r"(ViT-B/16|ViT-S/14):(\d+):(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"got {text}; the rule: as ViT-B/16:512:2")
    return Case(found[1], int(found[2]), int(found[3]))


def groups(cases: list[Case], gpus: int) -> Iterator[list[Case]]:
    """Yield neighbours that fit on so many GPUs at once."""
    group: list[Case] = []
    for each in cases:
        if group and sum(one.processes for one in (*group, each)) > gpus:
            yield group
            group = []
        group.append(each)
    yield group


def places(group: list[Case], gpus: int) -> Iterator[tuple[Case, list[str], set[int]]]:
    """Yield each case with its GPUs and its cores."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
    names, cores, first = visible.split(","), sorted(os.sched_getaffinity(0)), 0
    for each in group:
        last = first + each.processes
        yield each, names[first:last], set(cores[len(cores) * first // gpus : len(cores) * last // gpus])
        first = last


def base(args: argparse.Namespace, model: str) -> Path:
    """Return where a model of random weights lies."""
    return Path(args.work.resolve(), f"base-{model.replace('/', '-')}")


def run(
    each: Case, gpus: list[str], cores: set[int], inputs: dict[str, Path], args: argparse.Namespace
) -> dict[str, Any]:
    """Run the stage for a case in a new folder; return its readings, or what went wrong."""
    name = f"{each.model.replace('/', '-')}-{each.images}-{each.processes}"
    changes = {
        "per_device_train_batch_size": min(each.images, 128),
        "gradient_accumulation_steps": max(1, each.images // 128),
        "num_train_epochs": args.epochs,
        "num_processes": each.processes,
    }
    files = {**inputs, "base": base(args, each.model)}
    row = run_stage(args.work.resolve() / name, files, changes, args.timeout, gpus, cores)
    if "failed" not in row:
        rates = [row[f"{split}_images_per_s"]["median"] for split in ("train", "val")]
        row["recipe_epoch_s"] = round(sum(n / rate for n, rate in zip(RECIPE, rates, strict=True)), 2)
    return row


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
