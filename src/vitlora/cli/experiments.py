"""Run every combination of some values, each a DVC experiment; go on after a kill.

    vitlora experiments run -S lora.r=4,8,16 -S train.seed=0,1,2
    vitlora experiments run -S ... --jobs 2 --name ranks
    vitlora experiments status      how far it is, from any terminal
    vitlora experiments stop        a training at work is kept
    vitlora experiments retry       what failed once more, and what is left

The same `run` goes on with a sweep that was stopped or killed; with more values it adds theirs.
docs/experiments.md says what it survives.
"""

import argparse
from pathlib import Path
from shutil import rmtree
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted

NAME = "sweep"
FOLDER = Path(".work/experiments")
DEEDS = {
    "run": "begin a sweep, or go on with it",
    "status": "show how the sweeps fare",
    "stop": "ask a sweep's runner to stop",
    "retry": "run once more what failed, and what is left",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    deeds = parser.add_subparsers(dest="deed", metavar="|".join(DEEDS), required=True)
    parsers = {deed: deeds.add_parser(deed, help=text, description=text) for deed, text in DEEDS.items()}
    parsers["run"].add_argument(
        "-S", "--set-param", action="append", required=True, metavar="KEY=A,B,C", help="values of a key of params.yaml"
    )
    parsers["run"].add_argument(
        "--name", default=NAME, help=f"of the sweep, and the start of its experiments' names ({NAME})"
    )
    for deed in ("status", "stop", "retry"):
        parsers[deed].add_argument("name", nargs="?", help="of the sweep, where there are several")
    for deed in ("run", "retry"):
        parsers[deed].add_argument(
            "--jobs", type=int, metavar="N", help="at once: one GPU each (all that are free), or on the CPU (1)"
        )


def act(args: argparse.Namespace) -> None:
    """Run, show, stop or retry.

    Raises:
        VitloraError: What was typed is wrong, the sweep is running already, or an experiment has failed.
    """
    from vitlora.safety.workspace import require_project

    require_project()
    {"run": _run, "status": _status, "stop": _stop, "retry": _retry}[args.deed](args)


def _run(args: argparse.Namespace) -> None:
    from vitlora.experiments.begin import prepare
    from vitlora.trials.devices import taken
    from vitlora.trials.lock import only_runner
    from vitlora.trials.names import refuse_name

    refuse_name(args.name)
    folder = FOLDER / args.name
    with only_runner(folder, "sweep") as lock, taken(args.jobs, args.name) as slots:
        _go(prepare(args.set_param, folder), slots, lock)


def _retry(args: argparse.Namespace) -> None:
    from vitlora.experiments.begin import prepare_again
    from vitlora.experiments.control import find
    from vitlora.experiments.journal import FAILED, WAITING
    from vitlora.trials.devices import taken
    from vitlora.trials.lock import only_runner

    folder = find(FOLDER, args.name)
    with only_runner(folder, "sweep") as lock, taken(args.jobs, folder.name) as slots:
        plan = prepare_again(folder)
        for member in list(plan.journal.members.values()):
            if member.state == FAILED:
                plan.journal.note(member.number, state=WAITING, error="")
        _go(plan, slots, lock)


def _go(plan: Any, slots: Any, lock: int) -> None:
    from vitlora.compare.screen import make_console
    from vitlora.experiments import results
    from vitlora.experiments.board import Board, counts
    from vitlora.experiments.journal import FAILED
    from vitlora.experiments.runner import Sweep

    console, members = make_console(), plan.journal.members
    at_once = f", {len(slots)} at once" if len(slots) > 1 else ""
    said = f"{plan.folder.name}: {counted(len(members), 'experiment')}{at_once} from commit {plan.origin.fingerprint}"
    print(f"{said}; {counts(plan.journal)}", flush=True)
    _clear(plan.folder)
    try:
        with Board(plan, console) as board:
            Sweep(plan, slots, lock, board).run()
    finally:
        _clear(plan.folder)
    results.show(plan, console)
    failed = sum(member.state == FAILED for member in members.values())
    if failed:
        raise VitloraError(f"{failed} of {counted(len(members), 'experiment')} failed; why, stands above")


def _clear(folder: Path) -> None:
    """Remove clones, those of a runner that was killed too."""
    for tree in folder.glob("tree-*"):
        rmtree(tree, ignore_errors=True)


def _status(args: argparse.Namespace) -> None:
    from vitlora.compare.screen import make_console
    from vitlora.experiments.control import find, status, sweeps

    found = [find(FOLDER, args.name)] if args.name else sweeps(FOLDER) or [find(FOLDER, None)]
    for folder in found:
        status(folder, make_console())


def _stop(args: argparse.Namespace) -> None:
    from vitlora.experiments.control import find, stop

    stop(find(FOLDER, args.name))
