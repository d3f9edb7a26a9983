r"""End to end training speed of this project beside its peers: one command, one table.

Each contestant trains the same ViT-B/16 (random weights) on the same photographs in a process of its own: one epoch to
warm up, then measured ones, each with validation. Rates are end to end through its own training loop: loading,
decoding, augmenting, copying, forward, backward, optimiser, logging; validation is timed beside it, saving apart.

    PYTHONPATH=src python benchmarks/train_speed.py --data FOLDER --out train_speed.json
    PYTHONPATH=src python benchmarks/train_speed.py --data FOLDER --out tiny.json --tiny --train-images 64 \
        --val-images 32 --batch 8 --accumulation 2 --repeats 1

``--rounds`` makes several tables in one run, so that a machine's rates of one hour stand side by side:

    PYTHONPATH=src python benchmarks/train_speed.py --packed-train data/prepared/train --packed-val data/prepared/val \
        --rounds ViT-S/14:32 ViT-S/14:64 ViT-B/16:32 ViT-B/16:512 --only fused,eager,trainer,timm,loop,trainer-compile \
        --slow trainer,timm,loop,trainer-compile --slow-train-images 1280 --preload --out train_speed_small.json
    PYTHONPATH=src python benchmarks/train_speed.py --packed-train data/prepared/train --packed-val data/prepared/val \
        --rounds ViT-S/14:32 ViT-S/14:32:augment.policy=randaugment --only eager --preload --out augmented.json

FOLDER is in Hub layout with splits train and validation, columns image and label. Pictures are repeated to the counts
asked for. `--only` picks contestants; the file is written after each, so that nothing is lost when time runs out.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import host
from peers import forked, prepare
from peers.contestants import CONTESTANTS, Contestant
from peers.job import Job
from ruamel.yaml import YAML

from vitlora.core.files import write_json

HERE = Path(__file__).resolve().parent
MODELS = ("ViT-B/16", "ViT-S/14")
# PEFT's tutorial on all of Food-101.
RECIPE_TRAIN, RECIPE_VAL, RECIPE_EPOCHS = 75_750, 25_250, 5
COLUMNS = (
    ("train img/s", lambda row: _rate(row["train_images_per_s"])),
    ("val img/s", lambda row: _rate(row["val_images_per_s"])),
    ("epoch s", lambda row: f"{row['s_per_epoch']['train']:.1f} + {row['s_per_epoch']['val']:.1f}"),
    ("images", lambda row: f"{row['train_images']} + {row['val_images']}"),
    ("batch", lambda row: row["batch"]),
    ("workers", lambda row: row["workers"]),
    ("first step s", lambda row: row["time_to_first_step_s"]),
    ("waits for data", lambda row: _percent(row["data_wait_share"])),
    ("GPU idle meanwhile", lambda row: _percent(row["data_wait_gpu_idle_share"])),
    ("GPU busy", lambda row: _percent(row.get("gpu_busy_share"))),
    ("MFU", lambda row: _percent(row["mfu"])),
    ("GPU GiB", lambda row: row.get("peak_gpu_gib", "")),
    ("host GiB", lambda row: row["peak_host_gib"]),
    ("skipped", lambda row: row["skipped_fp16_steps"]),
    ("recipe s", lambda row: row["recipe_s"]),
)


@dataclass(frozen=True)
class Shared:
    """Where the pictures and the model are, in each contestant's form."""

    data: Path | None
    files: Path
    train: Path
    few: Path
    val: Path
    labels: Path
    base: Path
    size: int


def main() -> None:
    """Measure each round; print and save after each contestant."""
    args = parse()
    if not args.rounds:
        measure_all(args, lambda result: write_json(args.out, result))
        return
    runs: list[dict[str, Any]] = []
    for number, (model, batch, changes) in enumerate(args.rounds):
        own = argparse.Namespace(**vars(args))
        own.model, own.batch, own.accumulation, own.changes = model, batch, 1, changes
        own.work = args.work / f"{number}-{model.replace('/', '-')}-{batch}"
        runs.append(measure_all(own, lambda result: write_json(args.out, {"runs": [*runs, result]})))
        shutil.rmtree(own.work)


def measure_all(args: argparse.Namespace, save: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Measure ceilings, then every contestant; save what there is after each, and print the table."""
    args.work.mkdir(parents=True, exist_ok=True)
    shared, preparation = share(args)
    result: dict[str, Any] = {"host": host(), "settings": settings(args), "preparation_s": preparation, "rows": []}
    result["ceilings"] = run("ceilings", Contestant("ceilings"), shared, args)
    print(json.dumps(result["ceilings"]), flush=True)
    for name in args.only:
        row = {"name": name, "what": CONTESTANTS[name].what, **measure(name, shared, args)}
        derive(row, CONTESTANTS[name], result["ceilings"], args.model == "ViT-B/16" and not args.tiny)
        result["rows"].append(row)
        save(result)
        print(f"{name}: {brief(row)}", flush=True)
    print_table(result)
    return result


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in Hub layout; without it --packed-train and --packed-val")
    parser.add_argument("--model", choices=MODELS, default="ViT-B/16")
    parser.add_argument(
        "--rounds",
        type=one_round,
        nargs="+",
        help="a table each, such as ViT-S/14:32 or, with parameters of ours, ViT-B/16:512:augment.policy=augmix",
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file")
    parser.add_argument("--packed-train", type=Path, help="train as our preprocess writes it; else made here")
    parser.add_argument("--packed-val", type=Path, help="val likewise; labels.json stands beside the two")
    parser.add_argument("--params", type=Path, default=HERE.parent / "presets" / "food101.yaml")
    parser.add_argument("--train-images", type=int, default=16_000)
    parser.add_argument("--val-images", type=int, default=4_000)
    slow = [name for name, contestant in CONTESTANTS.items() if contestant.slow]
    parser.add_argument("--slow", type=names, default=slow, help="contestants that get fewer images")
    parser.add_argument("--slow-train-images", type=int, default=2_048)
    parser.add_argument("--slow-val-images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3, help="epochs measured, after one to warm up")
    parser.add_argument("--busy-steps", type=int, default=0, help="profile so many optimiser steps of one more epoch")
    parser.add_argument("--batch", type=int, help="else the tutorial's 128, and ours by the preset")
    parser.add_argument("--accumulation", type=int, help="else the tutorial's 4, likewise")
    parser.add_argument("--workers", type=int, help="else all cores but two, 14 at most, and ours by the preset")
    parser.add_argument("--only", type=names, default=list(CONTESTANTS), help=", ".join(CONTESTANTS))
    parser.add_argument("--tiny", action="store_true", help="a 2-layer ViT at 32 px, to try every path out")
    parser.add_argument("--preload", action="store_true", help="import once for all: no row's start-up holds imports")
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one contestant")
    parser.add_argument("--work", type=Path, default=Path(".work/train_speed"))
    args = parser.parse_args()
    args.work, args.params, args.changes = args.work.resolve(), args.params.resolve(), {}
    if args.data is None and not (args.packed_train and args.packed_val):
        parser.error("--data, or --packed-train and --packed-val")
    args.data = args.data.resolve() if args.data else None
    return args


def one_round(text: str) -> tuple[str, int, dict[str, Any]]:
    """Read a model, the images of a step, and parameters of ours by dotted key."""
    model, _, rest = text.partition(":")
    batch, _, changed = rest.partition(":")
    changes = dict(word.split("=", 1) for word in changed.split(",") if "=" in word)
    if model not in MODELS or not batch.isdecimal() or len(changes) != len(changed.split(",")) * bool(changed):
        raise argparse.ArgumentTypeError(f"got {text}; the rule: as ViT-S/14:32, of {', '.join(MODELS)}")
    return model, int(batch), {key: YAML(typ="safe").load(value) for key, value in changes.items()}


def names(text: str) -> list[str]:
    """Split a list of contestants and refuse unknown ones."""
    chosen = text.split(",")
    unknown = sorted(set(chosen) - set(CONTESTANTS))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(CONTESTANTS)}")
    return chosen


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return what was asked for, without places on this machine."""
    return {
        "model": args.model,
        "params": args.params.name,
        "changes": args.changes,
        "repeats": args.repeats,
        "workers": args.workers,
        "tiny": args.tiny,
        "preload": args.preload,
        "pictures": "real photographs repeated to the counts of each row",
        "recipe_s": f"start-up and {RECIPE_EPOCHS} epochs of {RECIPE_TRAIN:,} + {RECIPE_VAL:,} images, extrapolated",
    }


def share(args: argparse.Namespace) -> tuple[Shared, dict[str, float]]:
    """Prepare what the contestants read; return it and how long each part took.

    Everyone's one-off work on the data is done here, before its clock starts: ours is download and preprocess, that of
    the recipes is the conversion that `datasets` does at a first ``load_dataset``.
    """
    work, seconds = args.work, {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        made = make()
        seconds[name] = round(time.perf_counter() - start, 2)
        return made

    size = timed("random model", lambda: prepare.random_model(work / "base", args.tiny, args.model))
    raw, prepared = work / "raw", work / "prepared"
    train, val = args.packed_train, args.packed_val
    if args.data:
        timed("datasets: first load_dataset", lambda: first_load(args.data, work))
        timed("ours: pack the data set", lambda: prepare.download_folder(args.data, raw))
        timed("timm: write files", lambda: prepare.write_files(raw, work / "files"))
    else:  # timm validates on training photographs then: its files must be photographs
        for split in ("train", "val"):
            prepare.write_files(train, work / "files", split)
    if train is None or val is None:
        timed("ours: preprocess", lambda: prepare.preprocess_folder(raw, args.params, size, prepared))
        train, val = prepared / "train", prepared / "val"
    few = min(args.train_images, args.slow_train_images)
    prepare.repeat_packed(train, work / "train", args.train_images)
    prepare.repeat_packed(train, work / "few", few)
    prepare.repeat_squares(val, work / "val", args.val_images)
    labels = train.resolve().parent / "labels.json"
    packed = work / "train", work / "few", work / "val"
    return Shared(args.data, work / "files", *packed, labels, work / "base", size), seconds


def first_load(data: Path, work: Path) -> None:
    """Let `datasets` fill its cache, in a process of its own."""
    command = [sys.executable, "-c", "import sys; from peers import hub_data; hub_data.load(sys.argv[1])", str(data)]
    subprocess.run(command, env=environment(work), check=True, capture_output=True)


def environment(work: Path) -> dict[str, str]:
    """Return the contestants' environment: our packages, a cache of this run's own, and no network."""
    paths = [str(HERE), str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HF_DATASETS_CACHE": str(work / "datasets_cache"),
        "HF_HUB_OFFLINE": "1",
    }


def measure(name: str, shared: Shared, args: argparse.Namespace) -> dict[str, Any]:
    """Run one contestant, or say why not."""
    contestant = CONTESTANTS[name]
    if contestant.skipped:
        return {"skipped": contestant.skipped}
    if contestant.hub and not shared.data:
        return {"skipped": "reads a folder in Hub layout (--data)"}
    start = time.perf_counter()
    row = run(name, contestant, shared, args)
    return {**row, "wall_s": round(time.perf_counter() - start, 1)}


def run(name: str, contestant: Contestant, shared: Shared, args: argparse.Namespace) -> dict[str, Any]:
    """Run one contestant in its own process, with a folder of its own, and return what it found."""
    folder = args.work / name
    folder.mkdir(exist_ok=True)
    out = folder / "row.json"
    out.unlink(missing_ok=True)
    job = describe(name in args.slow, shared, args, out)
    job.write(folder / "job.json")
    if args.preload and name != "ceilings":
        code = run_forked(name, folder / "job.json", args)
        return outcome(folder, code, args.timeout)
    command = [sys.executable, "-m", "peers", name, str(folder / "job.json")]
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        # A session of its own, so that a contestant that ran too long goes with all its workers.
        process = subprocess.Popen(
            command, cwd=folder, env=environment(args.work), stdout=log, stderr=log, start_new_session=True
        )
        try:
            code: int | None = process.wait(args.timeout)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process.pid)
            process.wait()
    return outcome(folder, code, args.timeout)


def run_forked(name: str, job: Path, args: argparse.Namespace) -> int | None:
    """Run one contestant as a child of a process that has imported everything; return None if it took too long."""
    process = forked.start(name, job, environment(args.work))
    assert process.pid is not None
    process.join(args.timeout)
    code = process.exitcode
    end(process.pid)
    process.join()
    return code


def outcome(folder: Path, code: int | None, timeout: float) -> dict[str, Any]:
    """Return what a contestant wrote, or the end of its log."""
    out = folder / "row.json"
    if code == 0 and out.exists():
        row: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return row
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    reason = f"ran past {timeout:g} s" if code is None else f"ended with {code}"
    return {"failed": f"{reason}: {' | '.join(lines[-3:])}"}


def end(session: int) -> None:
    """End what is left of a contestant's session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)


def describe(slow: bool, shared: Shared, args: argparse.Namespace, out: Path) -> Job:
    """Write down what a contestant is to do; its clock starts now."""
    return Job(
        data=str(shared.data or ""),
        model=args.model,
        files=str(shared.files),
        train=str(shared.few if slow else shared.train),
        val=str(shared.val),
        labels=str(shared.labels),
        base=str(shared.base),
        params=str(args.params),
        train_images=min(args.train_images, args.slow_train_images) if slow else args.train_images,
        val_images=min(args.val_images, args.slow_val_images) if slow else args.val_images,
        epochs=1 + args.repeats,
        busy_steps=args.busy_steps,
        size=shared.size,
        batch=args.batch,
        accumulation=args.accumulation,
        workers=args.workers,
        tiny=args.tiny,
        changes=args.changes,
        started=time.time(),
        out=str(out),
    )


def derive(row: dict[str, Any], contestant: Contestant, ceilings: dict[str, Any], counted: bool) -> None:
    """Add what follows from the readings: the share of the device's matrix rate, and the whole recipe's seconds."""
    if "train_images_per_s" not in row:
        return
    train, val = row["train_images_per_s"]["median"], row["val_images_per_s"]["median"]
    peak = ceilings.get("tflop_per_s")
    row["mfu"] = None if not counted or not peak else round(train * contestant.flops / (peak * 1e12), 4)
    epoch = RECIPE_TRAIN / train + RECIPE_VAL / val + row["s_per_epoch"]["saving_and_other"]
    row["recipe_s"] = round(row["start_up_s"] + RECIPE_EPOCHS * epoch, 1)


def brief(row: dict[str, Any]) -> str:
    """Say in a line how a contestant did."""
    for word in ("skipped", "failed"):
        if word in row:
            return f"{word}: {row[word]}"
    rates = f"train {_rate(row['train_images_per_s'])}, val {_rate(row['val_images_per_s'])} images/s"
    return f"{rates}, recipe {row['recipe_s']} s, took {row['wall_s']} s"


def print_table(result: dict[str, Any]) -> None:
    """Print a row a contestant."""
    print("\n| contestant | " + " | ".join(title for title, _ in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for row in result["rows"]:
        cells = [str(show(row)) for _, show in COLUMNS] if "recipe_s" in row else [brief(row)]
        ran = row.get("step", row["name"])
        name = row["name"] if ran == row["name"] else f"{row['name']} (ran {ran})"
        print(f"| {name} | " + " | ".join(cells) + " |")


def _rate(spread: dict[str, float]) -> str:
    digits = 0 if spread["median"] >= 100 else 1
    median, low, high = (f"{spread[key]:,.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    main()
