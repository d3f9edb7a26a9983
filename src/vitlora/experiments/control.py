"""A sweep seen and stopped from another terminal."""

import os
import signal
import time
from pathlib import Path

from rich.console import Console

from vitlora.compare.screen import say
from vitlora.core.errors import VitloraError
from vitlora.experiments.begin import Plan
from vitlora.experiments.board import counts
from vitlora.experiments.journal import read_journal
from vitlora.experiments.results import table
from vitlora.trials.lock import is_free, runner
from vitlora.trials.names import JOURNAL
from vitlora.trials.tree import Origin

POLL_S = 0.2


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
    journal, process = read_journal(folder), runner(folder)
    about = journal.about or {"below": ".", "document": {}, "commit": ""}
    plan = Plan(folder, about["document"], Origin(Path(), Path(about["below"]), about["commit"], b"", Path()), journal)
    unfinished = "the same command goes on, or `vitlora experiments retry`"
    if process:
        said = f"process {process} is at work"
    elif not is_free(folder):
        said = f"its runner is gone, and its children leave now; {unfinished}"
    else:
        said = "no runner is at work"
        if any(member.state != "done" for member in journal.members.values()):
            said += f"; {unfinished}"
    say(console, f"{folder.name}: {counts(journal, process is not None)}; {said}")
    table(plan, console, process is not None)


def stop(folder: Path) -> None:
    """Ask a sweep's runner to stop, and wait until it and its children have left."""
    process = runner(folder)
    if process is None:
        print(f"{folder.name}: no runner is at work; {counts(read_journal(folder), False)}")
        return
    print(f"{folder.name}: process {process} is asked to stop; a training finishes its step and keeps it", flush=True)
    os.kill(process, signal.SIGTERM)
    while not is_free(folder):
        time.sleep(POLL_S)
    print(f"{folder.name}: stopped; {counts(read_journal(folder), False)}; the same command goes on")
