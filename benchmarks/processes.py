"""Whether several processes train as good a model as one: the same pictures and seeds, val and test of both.

Every run is the train stage's own command, in a folder of its own; its adapter is then scored by one process. What
several processes gain or lose is taken seed by seed, with Student's 95 % interval.

    PYTHONPATH=src python benchmarks/processes.py --params benchmarks/food101_10.yaml --prepared data/prepared \
        --base models/base --processes 4 --jobs 6 --out processes.json
"""

import argparse
import statistics
import subprocess
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from common import cores, host
from scipy.stats import ttest_1samp
from stage_run import ready

from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.params import load_params, read_document
from vitlora.evaluate.params import EvaluateStage
from vitlora.evaluate.stage import evaluate

LAST = 5  # epochs, whose mean on val depends less on chance than the best one


def main() -> None:
    """Train and score each seed with one process and with several; save after each, so that nothing is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("params", "prepared", "base", "out"):
        parser.add_argument(f"--{name}", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(word) for word in text.split(",")], default=list(range(12)))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--epochs", type=int, help="in place of those of the params")
    parser.add_argument("--work", type=Path, default=Path(".work/processes_benchmark"))
    args = parser.parse_args()
    args.work = args.work.resolve()
    result: dict[str, Any] = {"host": host(), "params": args.params.name, "rows": [], "differences": {}}
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {pool.submit(train, seed, n, args): (seed, n) for seed in args.seeds for n in (args.processes, 1)}
        for done in as_completed(runs):
            if folder := done.result():
                seed, count = runs[done]
                result["rows"].append({"seed": seed, "processes": count, **score(folder, args)})
                result["rows"].sort(key=lambda row: (row["seed"], row["processes"]))
                result["differences"] = differences(result["rows"])
                write_json(args.out, result)
    for name, found in result["differences"].items():
        print(name, found)


def train(seed: int, count: int, args: argparse.Namespace) -> Path | None:
    """Run the stage in a new folder, which is returned; None, and the log's end, where it failed."""
    folder = args.work / f"{seed}-{count}"
    document = read_document(args.params)
    document["train"].update(seed=seed, num_processes=count, dataloader_num_workers=2)
    if args.epochs:
        document["train"]["num_train_epochs"] = args.epochs
    inputs = {"train-images": "train", "val": "val", "labels": "labels.json"}
    inputs = {option: args.prepared / name for option, name in inputs.items()} | {"base": args.base}
    command, env = ready(folder, document, inputs)
    env.setdefault("OMP_NUM_THREADS", str(max(1, cores() // args.jobs)))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    print(f"seed {seed}, {count} at once: exit {done.returncode} {done.stderr[-600:]}", flush=True)
    return None if done.returncode else folder


def score(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return what val said while it trained, and what test says of the adapter that was kept."""
    scoring = load_params(EvaluateStage, read_document(folder / "params.yaml"), folder / "params.yaml").evaluate
    splits = (args.prepared / name for name in ("val", "test", "labels.json"))
    evaluate(scoring, args.base, folder / "adapter", *splits, folder / "evaluated", folder / "scores")
    trained, scores = read_json(folder / "metrics.json"), read_json(folder / "scores" / "scores.json")
    last = [float(row["val_accuracy"]) for row in read_csv(folder / "plots" / "epochs.csv")][-LAST:]
    return {
        "test": scores["accuracy"],
        "test_log_loss": scores["log_loss"],
        "val_best": trained["val_accuracy"],
        "val_last_epochs": round(statistics.mean(last), 6),
    }


def differences(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what several processes have more than one, of each score: mean, and its interval over the seeds."""
    alone = {row["seed"]: row for row in rows if row["processes"] == 1}
    pairs = [(row, alone[row["seed"]]) for row in rows if row["processes"] > 1 and row["seed"] in alone]
    found = {}
    for name in [name for name in rows[0] if name not in ("seed", "processes")] if pairs else []:
        apart = [several[name] - one[name] for several, one in pairs]
        found[name] = {"mean": round(statistics.mean(apart), 4)}
        if len(apart) > 1:
            low, high = ttest_1samp(apart, 0).confidence_interval(0.95)
            found[name] |= {"low": round(float(low), 4), "high": round(float(high), 4)}
    return found


if __name__ == "__main__":
    main()
