"""The experiments of a sweep: begun, watched, begun again after a kill, and brought home."""

import json
import time
from collections import deque
from dataclasses import dataclass
from shutil import rmtree
from typing import Any

from vitlora.compare.leaderboard import INTERVALS, read_scores
from vitlora.compare.revisions import read_commit
from vitlora.compare.runs import PARAMS, SCORES, TRAINED, parse_yaml
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import shown_seconds
from vitlora.experiments.begin import Plan
from vitlora.experiments.board import Board
from vitlora.experiments.grid import identity
from vitlora.experiments.journal import DONE, FAILED, QUEUED, RUNNING, STOPPED, WAITING, Member
from vitlora.experiments.work import LOST, Engine, Work
from vitlora.trials import child
from vitlora.trials.child import POLL_S
from vitlora.trials.signals import stop_signals
from vitlora.trials.values import shown_values

GO_ON = "the same command goes on"
STOPPING = "stopping: a training finishes its step and keeps it"


@dataclass
class Job:
    """An experiment at work."""

    work: Work
    before: float  # seconds spent on it until its try at work began

    @property
    def seconds(self) -> float:
        """Spent on it in all."""
        return round(self.before + self.work.seconds, 1)


class Sweep:
    """Runs a plan's experiments to their end.

    Args:
        plan: The sweep.
        engine: Begins them.
        board: Shows them.
        halt: Only stop what an earlier runner has left at work.
    """

    def __init__(self, plan: Plan, engine: Engine, board: Board, halt: bool = False) -> None:
        self.plan, self.engine, self.board, self.halt = plan, engine, board, halt
        self.jobs = [Job(work, plan.journal.members[work.number].seconds) for work in engine.at_work(plan)]
        self.left: deque[Member] = deque()
        self.full = ""  # what an experiment said of a full disk
        self.trouble = ""  # what the engine could not do

    def run(self) -> None:
        """Run what is left: what was at work or was stopped before what has not begun.

        Raises:
            StoppedError: A signal asked to stop.
            VitloraError: The disk is full.
        """
        self.left.extend([*self._in(RUNNING, STOPPED), *self._in(WAITING)])
        with stop_signals() as stop:
            while True:
                self._hear(self.engine.look())
                halted = self.halt or bool(self.full or (stop and not self.engine.outlives))
                while self.left and not (halted or stop) and len(self.jobs) < self.engine.most and self._begin():
                    self.board.refresh()
                if not self.jobs or (stop and self.engine.outlives):
                    break
                for job in list(self.jobs):
                    self._look_after(job, halted)
                self.board.refresh(STOPPING if halted else self.trouble)
                time.sleep(POLL_S)
        if self.full:
            raise VitloraError(f"stopped: {self.full}\nnothing is lost; {GO_ON}")
        if stop and (self.jobs or self._in(STOPPED, WAITING)):
            done = f"{len(self._in(DONE))} of {len(self.plan.journal.members)}"
            raise StoppedError(stop[0], self.engine.parting.format(done))

    def _in(self, *states: str) -> list[Member]:
        return [member for member in self.plan.journal.members.values() if member.state in states]

    def _hear(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            self.board.say(self.plan.folder.name, trouble)
        self.trouble = trouble

    def _begin(self) -> bool:
        """Begin the next experiment; return whether that could be."""
        member = self.left.popleft()
        work = self.engine.begin(self.plan, member, [job.work.place["slot"] for job in self.jobs])
        if work is None:
            self.left.appendleft(member)
            return False
        self.jobs.append(Job(work, member.seconds))
        self._note_start(self.jobs[-1])
        how = f"job {work.place['job']}" if work.place["job"] else "begins"
        self.board.say(work.name, f"{how}   {shown_values(member.values)}")
        return True

    def _note_start(self, job: Job) -> None:
        number, place = job.work.number, job.work.place
        self.plan.journal.note(
            number,
            state=QUEUED if place["job"] else RUNNING,
            tries=self.plan.journal.members[number].tries + 1,
            seconds=job.before,
            **{"began": round(time.time(), 1), **place},
        )

    def _look_after(self, job: Job, halted: bool) -> None:
        if job.work.is_over():
            self._settle(job, halted)
        elif halted:
            job.work.stop()

    def _settle(self, job: Job, halted: bool) -> None:
        name, seconds = job.work.name, job.seconds
        ending = job.work.settle(halted)
        if ending.kind == child.AGAIN:
            self.board.say(name, "killed; begins again")
            job.before = seconds
            self._note_start(job)
            return
        if ending.kind == child.DONE:
            self._bring_home(job, seconds)
        elif ending.kind == child.FAILED:
            self._note_end(job, FAILED, error=ending.error)
            self.board.say(name, f"failed: {ending.error}, {shown_seconds(seconds)}")
        elif ending.kind == LOST:
            self._note_end(job, WAITING)
            self.left.appendleft(self.plan.journal.members[job.work.number])
            self.board.say(name, "lost; begins again")
        else:
            self._note_end(job, STOPPED)
            self.full = ending.error or self.full
        self.jobs.remove(job)

    def _note_end(self, job: Job, state: str, **more: Any) -> None:
        self.plan.journal.note(job.work.number, state=state, seconds=job.seconds, **job.work.place, **more)

    def _bring_home(self, job: Job, seconds: float) -> None:
        name = job.work.name
        commit = job.work.tree.fetch(name)
        content = read_commit(commit, (TRAINED, SCORES, INTERVALS, PARAMS))
        ran = parse_yaml(content, PARAMS, name)
        assert identity(ran, {}) == identity(job.work.document, {}), f"{name} is not what was asked for"
        (value, low, high), pictures = read_scores(content, name)["accuracy"]
        val = float(json.loads(content[TRAINED])["val_accuracy"])
        figures = {"val": val, "test": (value, low, high), "pictures": pictures}
        self._note_end(job, DONE, commit=commit, error="", **figures)
        job.work.forget()
        self.board.say(name, f"val {val:.4f}, test {value:.4f}, {shown_seconds(seconds)}")


def clear(plan: Plan) -> None:
    """Remove clones, those of a runner that was killed too, but not those of jobs."""
    kept = {member.slot for member in plan.journal.members.values() if member.state in (QUEUED, RUNNING) and member.job}
    for tree in plan.folder.glob("tree-*"):
        if tree.name not in {f"tree-{slot}" for slot in kept}:
            rmtree(tree, ignore_errors=True)
