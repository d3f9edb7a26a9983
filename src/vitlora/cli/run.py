"""Run the pipeline as `dvc repro` does, and make sure that its results are really there."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.text import printable, shown_seconds
from vitlora.safety.preflight import check_params
from vitlora.safety.workspace import differs_from_commit, environment, read_lock, recorded_md5, require_project
from vitlora.storage.manifest import problems

MODELS = Path("models")
SCORES = Path("metrics/evaluate/scores.json")
RESULTS = ("params.yaml", "source.yaml", "dvc.lock", "metrics")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="up to these stages only; all")


def act(args: argparse.Namespace) -> None:
    """Check parameters and dvc.lock, run `dvc repro`, and look at what it left.

    Raises:
        VitloraError: A parameter is wrong, dvc.lock is damaged, or a model is damaged although dvc reported success: it
            trusts a file whose size and time have not changed.
    """
    require_project()
    check_params()
    read_lock()
    begun = time.monotonic()
    if code := _repro(args.stages):
        sys.exit(code if code > 0 else 128 - code)
    found = [] if args.stages else list(_damaged())
    for each in found:
        print(printable(each))
    if found:
        raise VitloraError(
            f"dvc reported success, yet {len(found)} thing{'s are' if len(found) > 1 else ' is'} damaged, "
            "named above; `vitlora recover && dvc repro`"
        )
    if not args.stages:
        _summarise(time.monotonic() - begun)


def _summarise(seconds: float) -> None:
    """Say what came out, where to look, and what to commit."""
    scores = read_json(SCORES)
    right = round(scores["accuracy"] * scores["images"])
    print(
        f"test accuracy {scores['accuracy']:.4f} ({right:,} of {scores['images']:,} right), in {shown_seconds(seconds)}"
    )
    if differs_from_commit(RESULTS):
        print("`vitlora report` makes a page of it, `vitlora compare HEAD` compares it with the last commit")
        print(f"keep this result: git add {' '.join(RESULTS)} && git commit")


def _repro(stages: list[str]) -> int:
    """Run `dvc repro` and return its exit code. A Ctrl-C reaches it too: wait for what its stage still saves."""
    with subprocess.Popen(
        [sys.executable, "-m", "vitlora.safety.dvc_command", "repro", *stages], env=environment()
    ) as dvc:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda number, _: dvc.send_signal(number))
        code = dvc.wait()
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return code


def _damaged() -> Iterator[str]:
    for path in recorded_md5():
        if path.is_dir() and MODELS in path.parents:  # data is checked by whoever reads it
            yield from problems(path)
