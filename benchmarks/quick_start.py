"""How long the built-in run takes, stage by stage: the commands of dvc.yaml, in a copy, on digits and a ViT-S.

    PYTHONPATH=src python benchmarks/quick_start.py --runs 5 --out quick_start.json
    PYTHONPATH=src python benchmarks/quick_start.py --commits HEAD~10 HEAD --runs 5 --out before_after.json

Commits take turns, so that a machine that slows down slows them all. The wheel of the base model is fetched before, and
no network is measured. ``--whole`` times `vitlora run` too, which adds dvc itself. Seconds of the user and the system
are those of a stage and of all processes that it waits for. A hash over all that the stages made tells whether two
commits make the same.
"""

import argparse
import hashlib
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import host

from vitlora.core.files import sha256_file, write_json
from vitlora.core.params import read_document

ROOT = Path(__file__).parents[1]
WHEELS = ".work/wheels"
WHOLE = "vitlora run"
MADE = ("data", "models", "metrics")
SECONDS = "metrics/ran"  # which differ from run to run
FORGOTTEN = ("data/raw", "data/prepared", "data/evaluated", "models", ".dvc/cache", ".dvc/tmp")
Times = dict[str, float]


def main() -> None:
    """Run, print a line a stage, write all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", nargs="+", default=["HEAD"], help="what is measured: commits, not open files")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--whole", action="store_true", help="`vitlora run` too")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        copies = {commit: clone(commit, Path(scratch, str(number))) for number, commit in enumerate(args.commits)}
        taken: dict[str, dict[str, list[Times]]] = {commit: {} for commit in copies}
        made: dict[str, set[str]] = {commit: set() for commit in copies}
        for run in range(args.runs):
            for commit, folder in copies.items():
                print(f"run {run + 1} of {args.runs}, {commit}", flush=True)
                for stage, times in one_run(folder, args.whole).items():
                    taken[commit].setdefault(stage, []).append(times)
                made[commit].add(outputs(folder))
        found = [figures(copies[commit], stages, made[commit]) for commit, stages in taken.items()]
    for each in found:
        show(each)
    write_json(args.out, {"runs": args.runs, "commits": found, "host": host()})


def clone(commit: str, folder: Path) -> Path:
    """Copy the project as it is at a commit, and give it the wheel."""
    git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder))
    git("-C", str(folder), "checkout", "--quiet", git("-C", str(ROOT), "rev-parse", commit))
    if not (ROOT / WHEELS).is_dir():
        subprocess.run(command(folder, "download"), shell=True, cwd=folder, env=environment(), check=True)
        shutil.copytree(folder / WHEELS, ROOT / WHEELS)
    shutil.copytree(ROOT / WHEELS, folder / WHEELS, dirs_exist_ok=True)
    return folder


def git(*arguments: str) -> str:
    """Return what git says; it must succeed."""
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def command(folder: Path, stage: str) -> str:
    """Return a stage's command as dvc.yaml has it."""
    return str(read_document(folder / "dvc.yaml")["stages"][stage]["cmd"])


def environment() -> dict[str, str]:
    """Return this process's environment in which `python` is this one."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def one_run(folder: Path, whole: bool) -> dict[str, Times]:
    """Run the stages one by one with nothing made before, then perhaps all of it by `vitlora run`."""
    forget(folder)
    stages = read_document(folder / "dvc.yaml")["stages"]
    taken = {stage: timed(command(folder, stage), folder) for stage in stages}
    if whole:
        forget(folder)
        taken[WHOLE] = timed(f"exec env PYTHONPATH=src {shlex.quote(sys.executable)} -m vitlora run", folder)
    return taken


def forget(folder: Path) -> None:
    """Take away what runs have made, but for the wheel."""
    for name in FORGOTTEN:
        shutil.rmtree(folder / name, ignore_errors=True)
    git("-C", str(folder), "checkout", "--quiet", "--", ".")


def timed(line: str, folder: Path) -> Times:
    """Run a shell command; return its seconds. What it prints is shown where it fails."""
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        process = subprocess.Popen(
            line, shell=True, cwd=folder, env=environment(), stdout=said, stderr=subprocess.STDOUT
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(said.read().decode(errors="replace") + f"\n{line}\nended with {process.returncode}")
    return {"wall_s": round(wall, 2), "user_s": round(used.ru_utime, 2), "system_s": round(used.ru_stime, 2)}


def outputs(folder: Path) -> str:
    """Return a hash over the names and bytes of all that the stages made."""
    files = sorted(path for name in MADE for path in (folder / name).rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder)} {sha256_file(path)}\n" for path in files]
    return hashlib.sha256("".join(line for line in lines if not line.startswith(SECONDS)).encode()).hexdigest()[:16]


def figures(folder: Path, stages: dict[str, list[Times]], made: set[str]) -> dict:
    """Return of a commit, for each stage and for the five together, the runs and their medians."""
    five = [runs for stage, runs in stages.items() if stage != WHOLE]
    together = [{key: round(sum(run[key] for run in each), 2) for key in each[0]} for each in zip(*five, strict=True)]
    named = {**stages, "five stages": together}
    return {
        "commit": git("-C", str(folder), "rev-parse", "--short", "HEAD"),
        "outputs": sorted(made),
        "stages": {
            stage: {**{key: round(statistics.median(run[key] for run in runs), 2) for key in runs[0]}, "runs": runs}
            for stage, runs in named.items()
        },
    }


def show(found: dict) -> None:
    """Print a line a stage: medians."""
    print(f"{found['commit']}, outputs {', '.join(found['outputs'])}; seconds, median:")
    print(f"{'':12} {'wall':>7} {'user':>7} {'system':>7}")
    for stage, row in found["stages"].items():
        print(f"{stage:12} {row['wall_s']:7.1f} {row['user_s']:7.1f} {row['system_s']:7.1f}")


if __name__ == "__main__":
    main()
