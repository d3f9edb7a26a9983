"""The experiments of a sweep: begun, watched, begun again after a kill, and brought home."""

import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from vitlora.compare.leaderboard import INTERVALS, read_scores
from vitlora.compare.revisions import read_commit
from vitlora.compare.runs import PARAMS, SCORES, TRAINED, parse_yaml
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import shown_seconds
from vitlora.experiments.begin import Plan
from vitlora.experiments.board import Board
from vitlora.experiments.grid import identity
from vitlora.experiments.journal import DONE, FAILED, RUNNING, STOPPED, WAITING, Member
from vitlora.trials import child
from vitlora.trials.child import POLL_S, Child
from vitlora.trials.devices import Slot
from vitlora.trials.signals import stop_signals
from vitlora.trials.tree import Tree
from vitlora.trials.values import shown_values, with_values

GO_ON = "the same command goes on"
STOPPING = "stopping: a training finishes its step and keeps it"


@dataclass
class Job:
    """An experiment at work."""

    child: Child
    slot: int
    before: float  # seconds spent on it until its try at work began

    @property
    def seconds(self) -> float:
        """Spent on it in all."""
        return round(self.before + self.child.seconds, 1)


class Sweep:
    """Runs a plan's experiments to their end.

    Args:
        plan: The sweep.
        slots: What each of the experiments that run at once has.
        lock: Handle of the sweep's lock, which children hold too.
        board: Shows them.
    """

    def __init__(self, plan: Plan, slots: Sequence[Slot], lock: int, board: Board) -> None:
        self.plan, self.slots, self.lock, self.board = plan, slots, lock, board
        self.jobs: list[Job] = []
        self.full = ""  # what an experiment said of a full disk

    def run(self) -> None:
        """Run what is left: what was at work or was stopped before what has not begun.

        Raises:
            StoppedError: A signal asked to stop.
            VitloraError: The disk is full.
        """
        left = deque([*self._in(RUNNING, STOPPED), *self._in(WAITING)])
        with stop_signals() as stop:
            while True:
                halted = bool(stop or self.full)
                while not halted and len(self.jobs) < len(self.slots) and left:
                    self._begin(left.popleft())
                if not self.jobs:
                    break
                for job in list(self.jobs):
                    self._look_after(job, halted)
                self.board.refresh(STOPPING if halted else "")
                time.sleep(POLL_S)
        if self.full:
            raise VitloraError(f"stopped: {self.full}\nnothing is lost; {GO_ON}")
        if stop and self._in(STOPPED, WAITING):
            done, count = len(self._in(DONE)), len(self.plan.journal.members)
            raise StoppedError(stop[0], f"stopped after {done} of {count} experiments, which are kept; {GO_ON}")

    def _in(self, *states: str) -> list[Member]:
        return [member for member in self.plan.journal.members.values() if member.state in states]

    def _begin(self, member: Member) -> None:
        plan, number = self.plan, member.number
        slot = min(set(range(len(self.slots))) - {job.slot for job in self.jobs})
        job = Job(
            Child(
                Tree(plan.folder / f"tree-{slot}", plan.origin),
                plan.folder,
                plan.name(number),
                number,
                member.values,
                with_values(plan.document, member.values),
                env=self.slots[slot].env,
                handles=(self.lock, *self.slots[slot].handles),
            ),
            slot,
            member.seconds,
        )
        self.board.say(job.child.name, f"begins   {shown_values(member.values)}")
        self.jobs.append(job)
        job.child.start()
        self._note_start(job)

    def _note_start(self, job: Job) -> None:
        number = job.child.number
        self.plan.journal.note(
            number,
            state=RUNNING,
            tries=self.plan.journal.members[number].tries + 1,
            seconds=job.before,
            began=round(time.time(), 1),
            slot=job.slot,
            device=self.slots[job.slot].device,
        )

    def _look_after(self, job: Job, halted: bool) -> None:
        if job.child.is_over():
            self._settle(job, halted)
        elif halted:
            job.child.stop()

    def _settle(self, job: Job, halted: bool) -> None:
        number, name, seconds = job.child.number, job.child.name, job.seconds
        ending = job.child.settle(halted)
        if ending.kind == child.AGAIN:
            self.board.say(name, "killed; begins again")
            job.before = seconds
            self._note_start(job)
            return
        if ending.kind == child.DONE:
            self._bring_home(job, seconds)
        elif ending.kind == child.FAILED:
            self.plan.journal.note(number, state=FAILED, error=ending.error, seconds=seconds)
            self.board.say(name, f"failed: {ending.error}, {shown_seconds(seconds)}")
        else:
            self.plan.journal.note(number, state=STOPPED, seconds=seconds)
            self.full = ending.error or self.full
        self.jobs.remove(job)

    def _bring_home(self, job: Job, seconds: float) -> None:
        name = job.child.name
        commit = job.child.tree.fetch(name)
        content = read_commit(commit, (TRAINED, SCORES, INTERVALS, PARAMS))
        ran = parse_yaml(content, PARAMS, name)
        assert identity(ran, {}) == identity(job.child.document, {}), f"{name} is not what was asked for"
        (value, low, high), pictures = read_scores(content, name)["accuracy"]
        val = float(json.loads(content[TRAINED])["val_accuracy"])
        figures = {"val": val, "test": (value, low, high), "pictures": pictures}
        self.plan.journal.note(job.child.number, state=DONE, commit=commit, seconds=seconds, error="", **figures)
        job.child.forget_checkpoints()
        self.board.say(name, f"val {val:.4f}, test {value:.4f}, {shown_seconds(seconds)}")
