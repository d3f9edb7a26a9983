"""Run the pipeline as `dvc repro` does, and make sure that its results are really there."""

import argparse
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from vitlora.core.entry import BASE
from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.core.text import printable
from vitlora.safety.check import check_document
from vitlora.safety.workspace import (
    PARAMS,
    cache_folder,
    changed_params,
    check_present,
    environment,
    outputs,
    read_lock,
    require_project,
)
from vitlora.storage.manifest import problems

MODELS = Path("models")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="up to these stages only; all")


def act(args: argparse.Namespace) -> None:
    """Check parameters and dvc.lock, run `dvc repro`, and look at what it left.

    Raises:
        VitloraError: A parameter is wrong, dvc.lock is damaged, or an output is missing or damaged although dvc
            reported success, as it does when its cache ran out of space.
    """
    require_project()
    check_document(read_document(PARAMS), PARAMS, BASE)
    read_lock()
    for line in changed_params():
        print(f"note: not as in the last commit: {line}", flush=True)
    if code := _repro(args.stages):
        sys.exit(code if code > 0 else 128 - code)
    found = [] if args.stages else list(_missing())
    for each in found:
        print(printable(each))
    if found:
        raise VitloraError(
            f"dvc reported success, yet {len(found)} thing{'s are' if len(found) > 1 else ' is'} missing or damaged, "
            "named above; check the disk's free space, then `vitlora recover && dvc repro`"
        )


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


def _missing() -> Iterator[str]:
    yield from map(str, check_present(cache_folder()))
    for output in outputs():
        if output.path.is_dir() and MODELS in output.path.parents:  # data is checked by whoever reads it
            yield from problems(output.path)
