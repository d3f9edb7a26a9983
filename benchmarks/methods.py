"""Every method of `lora.method` on one data set: accuracy, trained parameters, bytes, speed and memory.

Trains through the pipeline's own `train`, loads the adapter it saved, and scores test with that. Each row tries two
learning rates with the first seed, its own and a third of it; the one that is best on val (then by val loss) is trained
with the other seeds too. Test is scored once a run and picks nothing. Runs go side by side in several
processes; speed and memory are measured after them, one row at a time, over steps of one batch: the GPU's memory, or
on a CPU that of a process which does nothing else.

    PYTHONPATH=src python benchmarks/methods.py --data food101-10 --prepared data/prepared --base models/base \\
        --params benchmarks/food101_10.yaml --out benchmarks/results/methods.json

Rows of other data sets, and of methods that were not asked for, stay in the file.
"""

import argparse
import gc
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import commit, host, welch
from scipy import stats

from vitlora.cli.inspect import peak_mb
from vitlora.core.files import read_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate.params import EvaluateStage
from vitlora.model.adapters import load_adapter
from vitlora.model.base import device_of_choice
from vitlora.model.inference import device_precision, score
from vitlora.storage.squares import load_split
from vitlora.train.params import TrainStage
from vitlora.train.stage import get_ready, train

QV, ALL = ["query", "value"], "all-linear"
RATE = 2e-3
# Name: learning rate to start from, and what differs from the params file. All adapt query and value unless they say.
ROWS: dict[str, tuple[float, dict[str, Any]]] = {
    "lora": (RATE, {}),
    "dora": (RATE, {"method": "dora"}),
    "rslora": (1e-3, {"method": "rslora"}),
    "pissa": (1e-3, {"method": "pissa"}),
    "olora": (5e-4, {"method": "olora"}),
    "gaussian": (RATE, {"method": "gaussian"}),
    "adalora": (3e-3, {"method": "adalora"}),
    "loha": (RATE, {"method": "loha"}),
    "lokr": (RATE, {"method": "lokr"}),
    "oft": (1e-3, {"method": "oft"}),
    "boft": (1e-3, {"method": "boft"}),
    "hra": (RATE, {"method": "hra"}),
    "ia3": (1e-2, {"method": "ia3"}),
    "ln_tuning": (3e-3, {"method": "ln_tuning"}),
    "vera": (1e-2, {"method": "vera"}),
    "vblora": (3e-3, {"method": "vblora"}),
    "randlora": (1e-3, {"method": "randlora"}),
    "fourierft": (1e-2, {"method": "fourierft"}),
    "waveft": (1e-3, {"method": "waveft"}),
    "c3a": (1e-2, {"method": "c3a"}),
    "shira": (1e-3, {"method": "shira"}),
    "miss": (1e-3, {"method": "miss"}),
    "road": (3e-3, {"method": "road"}),
    "delora": (3e-3, {"method": "delora"}),
    "gralora": (1e-3, {"method": "gralora"}),
    "lora all-linear": (1e-3, {"target_modules": ALL}),
    "dora all-linear": (1e-3, {"method": "dora", "target_modules": ALL}),
    "adalora all-linear": (3e-3, {"method": "adalora", "target_modules": ALL}),
    "lokr all-linear": (1e-3, {"method": "lokr", "target_modules": ALL}),
    "head": (6e-3, {"method": "head"}),
    "full": (3e-5, {"method": "full"}),
}
MATTER = (
    "lora",
    "full",
    "lora all-linear",
    "dora all-linear",
    "adalora all-linear",
    "adalora",
    "shira",
)  # get --more-seeds
IN_BF16 = ("delora",)  # whose norms underflow in PEFT's fp16
STEPS, WARM_UP = 20, 5


def main() -> None:
    """Train all rows, measure their speed, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the data set's name in the table")
    parser.add_argument("--prepared", type=Path, required=True, help="train, val, test and labels.json of preprocess")
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path(".work/methods"))
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ROWS), help=", ".join(ROWS))
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--more-seeds", type=int, default=0, help="so many more for the rows that matter most")
    parser.add_argument("--factors", type=lambda text: [float(part) for part in text.split(",")], default=[1, 1 / 3])
    parser.add_argument("--epochs", type=int, help="else those of --params")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) * 3 // 4))
    parser.add_argument("--seconds", type=float, default=1e9, help="start no run after so long")
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--plot", type=Path, help="PNG: accuracy against trained parameters")
    args = parser.parse_args()
    for name in ("prepared", "base", "params", "out", "work"):
        setattr(args, name, getattr(args, name).resolve())
    args.work.mkdir(parents=True, exist_ok=True)
    runs = train_all(args)
    speeds = {} if args.no_speed else measure_all(args)
    rows = [{**summary(name, runs[name], args), **speeds.get(name, {})} for name in args.only if runs[name]]
    for row in rows:
        row["beyond_lora"] = beyond(row, rows)
    before = json.loads(args.out.read_text()) if args.out.exists() else []
    merged = {(row["data"], row["method"]): row for row in [*before, *rows]}
    args.out.write_text(json.dumps(list(merged.values()), indent=1) + "\n")
    print_table(rows)
    if args.plot:
        plot([row for row in rows if row["accuracy"]], args.plot)


def train_all(args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return each row's runs; a row's other seeds start when its learning rate is known.

    Every run is kept as a line in the working folder when it ends, and a later call goes on from there.
    """
    start, kept = time.perf_counter(), args.work / "runs.jsonl"
    lines = kept.read_text().splitlines() if kept.exists() else []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in args.only}
    for result in map(json.loads, lines):
        found.setdefault(result["row"], []).append(result)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context, initializer=settle, initargs=(args.work,)) as pool:
        pending, asked = set(), set()

        def ask(name: str) -> None:
            for job in missing(args, name, found[name]):
                if (name, *job) not in asked and time.perf_counter() - start < args.seconds:
                    asked.add((name, *job))
                    pending.add(pool.submit(run, args, name, *job))

        for name in args.only:
            ask(name)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                result = future.result()
                with kept.open("a") as file:
                    file.write(json.dumps(result) + "\n")
                print(json.dumps({key: result[key] for key in list(result)[:6]}), flush=True)
                found[result["row"]].append(result)
                ask(result["row"])
    return found


def missing(args: argparse.Namespace, name: str, runs: list[dict[str, Any]]) -> list[tuple[float, int]]:
    """Return the learning rates and seeds that a row still lacks: first all rates, then all seeds of the best one."""
    done = {(result["rate"], result["seed"]) for result in runs}
    search = [(ROWS[name][0] * factor, args.seeds[0]) for factor in args.factors]
    search = [job for job in search if job not in done]
    if search:
        return search
    extra = range(max(args.seeds) + 1, max(args.seeds) + 1 + args.more_seeds) if name in MATTER else ()
    return [job for seed in [*args.seeds[1:], *extra] if (job := (best_rate(runs), seed)) not in done]


def settle(work: Path) -> None:
    """Give each process a folder of its own: checkpoints lie in the working folder."""
    folder = work / f"process-{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    torch.set_num_threads(1)


def section(args: argparse.Namespace, name: str, rate: float, seed: int) -> TrainStage:
    """Return the train stage's parameters for one run."""
    document = read_document(args.params)
    document["lora"].update(ROWS[name][1])
    document["train"].update(learning_rate=rate, seed=seed, dataloader_num_workers=int(torch.cuda.is_available()))
    if name in IN_BF16:
        document["train"].update(fp16=False, bf16=True)
    if args.epochs:
        document["train"]["num_train_epochs"] = args.epochs
    if set(ROWS[name][1]) & {"method"} or name.endswith(ALL):
        document["train"]["step"] = "eager"  # what only plain LoRA on q, k and v has a faster form of
    return load_params(TrainStage, document, args.params)


def run(args: argparse.Namespace, name: str, rate: float, seed: int) -> dict[str, Any]:
    """Train and score one run in this process; a failure is kept as its message."""
    about = {"row": name, "rate": rate, "seed": seed}
    start = time.perf_counter()
    for folder in ("adapter", ".work", "plots"):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        with open("log", "w") as log:
            sys.stdout = sys.stderr = log
            stage = section(args, name, rate, seed)
            adapter = Path("adapter")
            places = (args.prepared / part for part in ("train", "val", "labels.json"))
            train(stage.augment, stage.lora, stage.train, args.base, *places, adapter, Path("t.json"), Path("plots"))
            known = read_json(Path("t.json"))
            correct, images = tested(args, adapter)
        kept = ("val_accuracy", "val_loss", "best_epoch", "trainable_parameters", "total_parameters", "precision")
        return {
            **about,
            "val_accuracy": known["val_accuracy"],
            "test_accuracy": correct / images,
            "seconds": round(time.perf_counter() - start, 1),
            "diverged": False,
            **{key: known[key] for key in kept[1:]},
            "adapter_bytes": sum(path.stat().st_size for path in adapter.glob("*.safetensors")),
            "test_images": images,
            "host": host(),
        }
    except Exception as error:  # one run that fails must not cost the others
        text = str(error).splitlines()[0] if str(error) else traceback.format_exc().splitlines()[-1]
        return {**about, "val_accuracy": -1.0, "test_accuracy": None, "seconds": 0.0, "diverged": True, "said": text}
    finally:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def tested(args: argparse.Namespace, adapter: Path) -> tuple[int, int]:
    """Score test as evaluate does; return how many are right, and how many there are."""
    settings = load_params(EvaluateStage, read_document(args.params), args.params).evaluate
    model, _, normalisation = load_adapter(args.base, adapter)
    squares = load_split(args.prepared / "test")
    kind = device_precision(settings.precision)
    logits = score(model.to(device_of_choice()), squares, normalisation, settings.batch_size, kind)
    return int((logits.argmax(1) == squares.labels).sum()), len(squares.labels)


def best_rate(runs: list[dict[str, Any]]) -> float:
    """Return the learning rate that was best on val, and of equals the one with the lowest loss."""
    rate: float = max(runs, key=lambda r: (r["val_accuracy"], -r.get("val_loss", 0)))["rate"]
    return rate


def measure_all(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return each row's speed and memory; without a GPU each has a process of its own, whose peak is the row's."""
    if torch.cuda.is_available():
        return {name: measure(args, name) for name in args.only}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        return dict(zip(args.only, pool.map(measure, [args] * len(args.only), args.only), strict=True))


def measure(args: argparse.Namespace, name: str) -> dict[str, Any]:
    """Time training steps of one batch with nothing beside them, and take the peak of memory."""
    settle(args.work)
    gc.collect()  # a trainer and its callbacks hold each other: without this an earlier row's model counts too
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    stage = section(args, name, ROWS[name][0], args.seeds[0])
    places = (args.prepared / part for part in ("train", "val", "labels.json"))
    ready = get_ready(stage.augment, stage.lora, stage.train, args.base, *places)
    trainer, device = ready.trainer, device_of_choice()
    optimise = trainer.step_alone(1000)
    known = ready.labels
    size = stage.train.per_device_train_batch_size
    pixels = torch.randint(0, 256, (size, 3, known.image_size, known.image_size), dtype=torch.uint8, device=device)
    batch = {"pixel_values": pixels, "labels": torch.arange(size, device=device) % len(known.class_names)}
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    found = {"train_images_per_s": rate(optimise, batch), "step": trainer.way.step, "cuda_graph": optimise.capture}
    found["speed_commit"] = commit()
    if torch.cuda.is_available():
        found["peak_gpu_mb"] = round((torch.cuda.max_memory_allocated() - before) / 1e6)
    else:
        found["peak_rss_mb"] = round(peak_mb())
    if optimise.capture:
        optimise.capture = False
        found["not_captured_images_per_s"] = rate(optimise, batch)
    del ready, trainer, optimise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return found


def rate(optimise: Any, batch: dict[str, torch.Tensor]) -> float:
    """Return the images/s of steps that follow one another as in training, each a step ahead of what is read of it."""
    warm_up, steps = (WARM_UP, STEPS) if torch.cuda.is_available() else (1, 3)
    times: list[float] = []
    for number in range(warm_up + steps):
        optimise(number, [batch])
        times.extend(time.perf_counter() for _ in optimise.finished(1))
    between = [later - earlier for earlier, later in pairwise(times)]
    return round(len(batch["labels"]) / statistics.median(between[-steps + 1 :]), 1)


def summary(name: str, runs: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Return a row of the table: the runs with the learning rate that val picked."""
    rate = best_rate(runs)
    chosen = sorted((r for r in runs if r["rate"] == rate and not r["diverged"]), key=lambda r: r["seed"])
    values = [r["test_accuracy"] for r in chosen]
    row = {"data": args.data, "method": name, "learning_rate": rate, "searched": {}}
    row["searched"] = {f"{r['rate']:.2g}": r["val_accuracy"] for r in runs if r["seed"] == args.seeds[0]}
    if not values:
        return {**row, "accuracy": None, "said": runs[0].get("said")}
    low, high = interval(values, chosen[0]["test_images"])
    keys = ("trainable_parameters", "total_parameters", "adapter_bytes", "precision", "test_images", "host")
    return {
        **row,
        "accuracy": round(statistics.mean(values), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "runs": values,
        "seeds": [r["seed"] for r in chosen],
        "best_epochs": [r["best_epoch"] for r in chosen],
        "commits": [r["host"]["commit"] for r in chosen],
        **{key: chosen[0][key] for key in keys},
    }


def interval(values: list[float], images: int) -> tuple[float, float]:
    """Return the mean's 95 % interval: Student's over seeds, Wilson's over images where there is one seed."""
    if len(values) == 1:
        right = round(values[0] * images)
        found = stats.binomtest(right, images).proportion_ci(method="wilson")
        return float(found.low), float(found.high)
    reach = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values) - reach, statistics.mean(values) + reach


def beyond(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float] | None:
    """Return the difference from plain LoRA with Welch's 95 % interval, over seeds."""
    lora = next((other for other in rows if other["method"] == "lora" and other["accuracy"]), None)
    if lora is None or row["accuracy"] is None or row is lora or min(len(row["runs"]), len(lora["runs"])) < 2:
        return None
    return {name: round(value, 4) for name, value in welch(row["runs"], lora["runs"]).items()}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the rows, best first."""
    print("\n| method | accuracy | 95 % interval | learning rate | trained | MB | images/s | peak MB |\n|" + "---|" * 8)
    for row in sorted(rows, key=lambda r: -(r["accuracy"] or 0)):
        if row["accuracy"] is None:
            print(f"| {row['method']} | {row['said']} |" + " |" * 6)
            continue
        cells = [row["method"], f"{row['accuracy']:.3f}", f"{row['low']:.3f} to {row['high']:.3f}"]
        cells += [
            f"{row['learning_rate']:.1e}",
            f"{row['trainable_parameters']:,}",
            f"{row['adapter_bytes'] / 1e6:.2f}",
        ]
        cells += [str(row.get("train_images_per_s", "")), str(row.get("peak_gpu_mb", row.get("peak_rss_mb", "")))]
        print("| " + " | ".join(cells) + " |")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy with its interval against trained parameters, with names where there is room beside the point."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    colours = {"lora": "tab:red", "head": "black", "full": "black"}
    floor = statistics.median(row["accuracy"] for row in rows) - 0.15  # one that failed must not flatten the others
    shown = [row for row in rows if row["accuracy"] >= floor]
    below = ", ".join(f"{row['method']} {row['accuracy']:.3f}" for row in rows if row["accuracy"] < floor)
    for row in shown:
        sides = [[row["accuracy"] - row["low"]], [row["high"] - row["accuracy"]]]
        place = (row["trainable_parameters"], row["accuracy"])
        axes.errorbar(*place, sides, fmt="o", ms=4, color=colours.get(row["method"], "tab:blue"), lw=0.5, alpha=0.7)
    axes.set(xscale="log", xlabel="trained parameters", ylabel="test accuracy", title=rows[0]["data"])
    if below:
        axes.text(0.01, 0.01, f"below: {below}", transform=axes.transAxes, fontsize=8, color="0.2")
    axes.grid(alpha=0.3)
    figure.canvas.draw()
    taken: list[Any] = []
    for row in sorted(shown, key=lambda r: -r["accuracy"]):
        place = (row["trainable_parameters"], row["accuracy"])
        # Nearest first: right or left of the point, then further down or up.
        for down, side in ((d, s) for d in (0, -9, 9, -18, 18, -27, 27, -36, 36, -45, 45, -54, 54) for s in (7, -7)):
            align = "left" if side > 0 else "right"
            style = {"fontsize": 8, "ha": align, "va": "center", "color": colours.get(row["method"], "0.2")}
            text = axes.annotate(row["method"], place, (side, down), textcoords="offset points", **style)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
