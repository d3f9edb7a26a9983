"""A sweep seen and stopped from another terminal."""

import os
import signal
import time
from pathlib import Path

from rich.console import Console

from vitlora.compare.screen import make_console, say
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted
from vitlora.experiments.begin import Plan, as_begun
from vitlora.experiments.board import Board, counts
from vitlora.experiments.journal import DONE, QUEUED, RUNNING, mend, read_journal
from vitlora.experiments.results import table
from vitlora.experiments.runner import Sweep, clear
from vitlora.experiments.slurm.engine import Slurm
from vitlora.trials.lock import is_free, only_runner, runner
from vitlora.trials.names import JOURNAL

POLL_S = 0.2
KEPT = "a training finishes its step and keeps it"


def find(top: Path, name: str | None) -> Path:
    """Return the folder of the sweep of a name, or of the only one.

    Raises:
        VitloraError: There is none of this name, none at all, or several to choose from.
    """
    known = sweeps(top)
    found = [folder for folder in known if folder.name == name] if name else known
    if len(found) == 1:
        return found[0]
    names = ", ".join(folder.name for folder in known)
    if not known:
        raise VitloraError("no sweep has begun here; `vitlora experiments run -S lora.r=4,8` begins one")
    if name:
        raise VitloraError(f"{name}: no sweep has this name; the rule: one of {names}")
    raise VitloraError(f"{len(known)} sweeps are here; name one of {names}")


def sweeps(top: Path) -> list[Path]:
    """Return the folders of all sweeps, by name."""
    return sorted(path.parent for path in top.glob(f"*/{JOURNAL}"))


def status(folder: Path, console: Console) -> None:
    """Print how a sweep fares, and whether its runner lives."""
    plan, process = as_begun(folder), runner(folder)
    unfinished = "the same command goes on, or `vitlora experiments retry`"
    trouble = _look(plan)
    if process:
        said = f"process {process} is at work"
    elif not is_free(folder):
        said = f"its runner is gone, and its children leave now; {unfinished}"
    else:
        said = "no runner is at work"
        if any(member.job and member.state in (QUEUED, RUNNING) for member in plan.journal.members.values()):
            said += ", and jobs carry on without it"
        if any(member.state != DONE for member in plan.journal.members.values()):
            said += f"; {unfinished}"
    say(console, f"{folder.name}: {counts(plan.journal, process is not None)}; {said}")
    if trouble:
        say(console, f"note: {trouble}", "dim")
    table(plan, console, process is not None)


def _look(plan: Plan) -> str:
    """Ask SLURM for a sweep's jobs, if it has any; return what went wrong."""
    engine = Slurm()
    jobs = engine.at_work(plan)
    trouble = engine.look() if jobs else ""
    for job in jobs:
        job.is_over()
    return trouble


def stop(folder: Path) -> None:
    """Ask a sweep's runner to stop, and wait until it and its children have left; then the same of its jobs.

    Raises:
        VitloraError: Another runner has begun meanwhile, or SLURM does not answer.
    """
    process = runner(folder)
    if process is None and not Slurm().at_work(as_begun(folder)):
        print(f"{folder.name}: no runner is at work; {counts(read_journal(folder), False)}")
        return
    if process:
        print(f"{folder.name}: process {process} is asked to stop; {KEPT}", flush=True)
        os.kill(process, signal.SIGTERM)
        while not is_free(folder):
            time.sleep(POLL_S)
    _stop_jobs(folder)
    print(f"{folder.name}: stopped; {counts(read_journal(folder), False)}; the same command goes on")


def _stop_jobs(folder: Path) -> None:
    engine = Slurm()
    if not engine.at_work(as_begun(folder)):
        return
    with only_runner(folder, "sweep"):
        mend(folder / JOURNAL)
        plan = as_begun(folder)
        engine.look()
        if engine.jobs.error:
            raise VitloraError(f"{folder.name}: its jobs can't be stopped: {engine.jobs.error}")
        print(f"{folder.name}: {counted(len(engine.at_work(plan)), 'job')} asked to stop; {KEPT}", flush=True)
        with Board(plan, make_console()) as board:
            Sweep(plan, engine, board, halt=True).run()
        clear(plan)
