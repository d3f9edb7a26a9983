"""Run every combination of some values, each a DVC experiment; go on after a kill.

    vitlora experiments run -S lora.r=4,8,16 -S train.seed=0,1,2
    vitlora experiments run -S ... --jobs 2 --name ranks
    vitlora experiments status      how far it is, from any terminal
    vitlora experiments stop        a training at work is kept
    vitlora experiments retry       what failed once more, and what is left

The same `run` goes on with a sweep that was stopped or killed; with more values it adds theirs.

On the login node of a SLURM cluster each is a job with a GPU, which carries on when this command is stopped:

    vitlora experiments run -S ... --engine slurm --partition gpu --sbatch='--time=02:00:00 --mem=16G'

docs/experiments.md says what it survives, and what a cluster needs.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted

NAME = "sweep"
FOLDER = Path(".work/experiments")
ENGINES = (LOCAL, SLURM) = ("local", "slurm")
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
            "--jobs",
            type=int,
            metavar="N",
            help="at once: one GPU each (all that are free), or on the CPU (1); with SLURM, jobs in its queue (all)",
        )
        kept = " (as the sweep was last run)" if deed == "retry" else ""
        parsers[deed].add_argument(
            "--engine", choices=ENGINES, help=f"where: on this machine, or as jobs of SLURM{kept}"
        )
        parsers[deed].add_argument("--partition", metavar="NAME", help="of SLURM, for these jobs")
        parsers[deed].add_argument(
            "--sbatch",
            metavar="OPTIONS",
            help="more of sbatch's: --sbatch='--account=x --gres=gpu:2'; --sbatch=--gres=none for no GPU",
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
    from vitlora.trials.lock import only_runner
    from vitlora.trials.names import refuse_name

    refuse_name(args.name)
    folder, options = FOLDER / args.name, _options(args)
    with only_runner(folder, "sweep") as lock, _engine(args.jobs, options, folder.name, lock) as engine:
        _go(prepare(args.set_param, folder), engine, options)


def _retry(args: argparse.Namespace) -> None:
    from vitlora.experiments.begin import as_begun, prepare_again
    from vitlora.experiments.control import find
    from vitlora.experiments.journal import FAILED, WAITING
    from vitlora.trials.lock import only_runner

    folder = find(FOLDER, args.name)
    last = as_begun(folder).journal.about.get("slurm")
    options = last["options"] if last and (args.engine, args.partition, args.sbatch) == (None,) * 3 else _options(args)
    with only_runner(folder, "sweep") as lock, _engine(args.jobs, options, folder.name, lock) as engine:
        plan = prepare_again(folder)
        for member in list(plan.journal.members.values()):
            if member.state == FAILED:
                plan.journal.note(member.number, state=WAITING, error="")
        _go(plan, engine, options)


def _options(args: argparse.Namespace) -> list[str] | None:
    """Return what jobs are submitted with; None where experiments run on this machine."""
    from vitlora.experiments.slurm.queue import options

    if args.engine == SLURM:
        return options(args.partition, args.sbatch or "")
    for option, value in (("--partition", args.partition), ("--sbatch", args.sbatch)):
        if value is not None:
            raise VitloraError(f"{option}: got {value}, which says something to SLURM only; add --engine slurm")
    return None


@contextmanager
def _engine(jobs: int | None, options: list[str] | None, name: str, lock: int) -> Iterator[Any]:
    from vitlora.experiments.grid import MOST
    from vitlora.experiments.local import Local
    from vitlora.experiments.slurm.engine import Slurm
    from vitlora.trials.devices import refuse_jobs, taken

    if options is None:
        with taken(jobs, name) as slots:
            yield Local(slots, lock)
        return
    most = MOST if jobs is None else jobs
    refuse_jobs(most)
    yield Slurm(options, most)


def _go(plan: Any, engine: Any, options: list[str] | None) -> None:
    from vitlora.compare.screen import make_console
    from vitlora.experiments import results
    from vitlora.experiments.begin import hand_over
    from vitlora.experiments.board import Board, counts
    from vitlora.experiments.journal import FAILED, STOPPED
    from vitlora.experiments.runner import Sweep, clear

    hand_over(plan, options)
    console, members = make_console(), plan.journal.members
    said = f"{plan.folder.name}: {counted(len(members), 'experiment')}{engine.manner} from commit"
    print(f"{said} {plan.origin.fingerprint}; {counts(plan.journal, alive=False)}", flush=True)
    clear(plan)
    try:
        with Board(plan, console) as board:
            Sweep(plan, engine, board).run()
    finally:
        clear(plan)
    results.show(plan, console)
    failed, stopped = (sum(member.state == state for member in members.values()) for state in (FAILED, STOPPED))
    if failed:
        raise VitloraError(f"{failed} of {counted(len(members), 'experiment')} failed; why, stands above")
    if stopped:
        raise VitloraError(f"{counted(stopped, 'job')} cancelled with scancel, not by this; the same command goes on")


def _status(args: argparse.Namespace) -> None:
    from vitlora.compare.screen import make_console
    from vitlora.experiments.control import find, status, sweeps

    found = [find(FOLDER, args.name)] if args.name else sweeps(FOLDER) or [find(FOLDER, None)]
    for folder in found:
        status(folder, make_console())


def _stop(args: argparse.Namespace) -> None:
    from vitlora.experiments.control import find, stop

    stop(find(FOLDER, args.name))
