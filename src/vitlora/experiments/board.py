"""How a sweep fares, as a table: live on a terminal, lines where there is none."""

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from vitlora.compare.screen import Column, make_table
from vitlora.core.text import printable, shown_seconds
from vitlora.experiments.begin import Plan
from vitlora.experiments.grid import value_of, varied
from vitlora.experiments.journal import DONE, FAILED, QUEUED, RUNNING, STOPPED, WAITING, Journal, Member
from vitlora.trials.child import LIVE, STAGE, live
from vitlora.trials.values import shown_values

COLUMNS: list[Column] = [
    ("experiment", "left"),
    ("state", "left"),
    ("val", "left"),
    ("test", "left"),
    ("time", "right"),
    ("device", "left"),
    ("parameters", "left"),
]
REFRESH_S = 1.0
BESIDE = 4  # lines of a terminal that are not experiments
INTERRUPTED = "interrupted"
FIRST = (RUNNING, FAILED, STOPPED, DONE, QUEUED, WAITING)  # where not all have room


def counts(journal: Journal, alive: bool = True) -> str:
    """Return how many experiments are done, are at work and so on."""
    found = Counter(_state(member, alive) for member in journal.members.values())
    order = (DONE, RUNNING, INTERRUPTED, QUEUED, STOPPED, FAILED, WAITING)
    return ", ".join(f"{found[state]} {state}" for state in order if found[state]) or "nothing begun"


def _state(member: Member, alive: bool) -> str:
    """Return a state in a word: what runs here is interrupted once its runner is gone; what has a job is not."""
    return INTERRUPTED if member.state == RUNNING and not (alive or member.job) else member.state


def rows(plan: Plan, members: Sequence[Member], alive: bool = True, wide: bool = False) -> list[tuple[str, ...]]:
    """Return the table's lines.

    Args:
        plan: The sweep.
        members: Some of its experiments.
        alive: Whether a runner is at work.
        wide: Whether there is room for intervals.
    """
    keys = varied([member.values for member in plan.journal.members.values()], plan.document)
    return [_row(plan, member, keys, wide, alive) for member in members]


def _row(plan: Plan, member: Member, keys: Sequence[str], wide: bool, alive: bool) -> tuple[str, ...]:
    state, val = _state(member, alive), member.val
    running = state == RUNNING
    if running:
        state, val = progress(plan, member)
    seconds = member.seconds + (time.time() - member.began if running and member.began else 0.0)
    test = ""
    if member.test:
        value, low, high = member.test
        test = f"{value:.4f} ({low:.4f} to {high:.4f})" if wide else f"{value:.4f}"
    values = {key: value_of(plan.document, member.values, key) for key in keys}
    return (
        plan.name(member.number),
        state,
        "" if val is None else f"{val:.4f}",
        test,
        shown_seconds(seconds) if seconds else "",
        member.device,
        shown_values(values),
    )


def progress(plan: Plan, member: Member) -> tuple[str, float | None]:
    """Return what an experiment is at, and val's accuracy so far."""
    log = plan.folder / f"{member.number:03d}.log"
    stages = STAGE.findall(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else []
    stage = stages[-1] if stages else "begins"
    entries = live(plan.folder / f"tree-{member.slot}" / plan.origin.below / LIVE)
    scores = [entry["eval_accuracy"] for entry in entries if "eval_accuracy" in entry]
    if stage == "train" and entries:
        stage = f"train, step {entries[-1]['step']} of {entries[-1]['steps']}"
    tries = f", try {member.tries}" if member.tries > 1 else ""
    return f"{stage}{tries}", scores[-1] if scores else None


def fitting(members: Sequence[Member], room: int) -> list[Member]:
    """Return as many experiments as have room, those at work before others, in their order."""
    waits = (QUEUED, WAITING)
    urgent = sorted(members, key=lambda one: (FIRST.index(one.state), one.number * (1 if one.state in waits else -1)))
    return sorted(urgent[: max(room, 1)], key=lambda member: member.number)


class Board:
    """Shows a sweep at work.

    Args:
        plan: The sweep.
        console: Where.
    """

    def __init__(self, plan: Plan, console: Console) -> None:
        self.plan, self.console, self.shown = plan, console, 0.0
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.live:
            self.live.update(Text(""), refresh=True)  # the table of results stands below
            self.live.stop()

    def say(self, name: str, text: str) -> None:
        """Tell what has happened to an experiment; a live table shows it by itself."""
        if not self.live:
            print(printable(f"{name}  {text}"), flush=True)

    def refresh(self, note: str = "") -> None:
        """Bring a live table up to date, once a second."""
        if not self.live or time.monotonic() < self.shown + REFRESH_S:
            return
        self.shown = time.monotonic()
        members = list(self.plan.journal.members.values())
        found = fitting(members, self.console.height - BESIDE)
        above = Text(f"{counts(self.plan.journal)}{f'; {note}' if note else ''}", style="bold")
        table = make_table(COLUMNS, rows(self.plan, found))
        for column in table.columns:  # a line each, or the last would not have room
            column.no_wrap, column.overflow = True, "ellipsis"
        self.live.update(Group(above, table), refresh=True)
