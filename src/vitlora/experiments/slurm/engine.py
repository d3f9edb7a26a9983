"""Experiments as jobs: submitted, followed by what SLURM says and by what each job writes, and told from lost ones."""

import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree
from typing import Any

import vitlora
from vitlora.core.durable import faultpoint
from vitlora.core.errors import VitloraError
from vitlora.experiments.begin import Plan
from vitlora.experiments.grid import MOST
from vitlora.experiments.journal import QUEUED, RUNNING, Member
from vitlora.experiments.slurm import queue
from vitlora.experiments.slurm.queue import BLAMELESS, CANCELLED, COMPLETING, OVER, Line, Queue
from vitlora.experiments.slurm.record import Record, path_of, read_record, write_record
from vitlora.experiments.work import LOST
from vitlora.trials.child import DONE, FAILED, FULL, STOPPED, Ending, checkpoints_of, log_of
from vitlora.trials.tree import Tree
from vitlora.trials.values import with_values

GRACE_S = 15.0  # until a file that a node has written is seen here
AGAIN_S = 60.0  # until a submission that was refused is tried again
REASON = 24  # characters of why a job waits
SCRIPT = """#!/bin/sh
# An early signal is lost, not deadly.
trap '' USR1 TERM
echo "job $SLURM_JOB_ID"
PYTHONPATH={source} exec {python} -m vitlora.experiments.slurm.job {folder} {number}
"""


class Job:
    """An experiment with SLURM.

    Args:
        plan: The sweep.
        member: The experiment, as the journal has it.
        jobs: All of them.
        job: Its id.
    """

    def __init__(self, plan: Plan, member: Member, jobs: Queue, job: str) -> None:
        self.plan, self.jobs, self.job, self.number = plan, jobs, job, member.number
        self.name, self.before = plan.name(member.number), member.seconds
        self.document = with_values(plan.document, member.values)
        self.tree = Tree(plan.folder / f"tree-{member.number}", plan.origin)
        self.record, self.line, self.gone = Record(), Line("", "", ""), 0.0
        self.looked = time.monotonic()  # an answer from before says nothing of it

    @property
    def place(self) -> Mapping[str, Any]:
        """What the journal keeps of where it runs."""
        return {"slot": self.number, "job": self.job, "began": self.record.began, "device": self.record.device}

    @property
    def seconds(self) -> float:
        """Spent by this job, as far as it could note it."""
        return self.record.seconds

    def stop(self) -> None:
        """Have it stopped with the others, when SLURM is asked next; a training finishes its step and keeps it."""
        self.jobs.unwanted.add(self.job)

    def is_over(self) -> bool:
        """Whether it has ended, however that may be: as its record says, or SLURM, a while ago."""
        if self.jobs.asked > self.looked:
            self._look()
        if self.record.kind in (DONE, FAILED, FULL):
            return True
        said_all = self.record.kind != "" or (self.line.state != "" and not self.line.node)  # it never had a node
        return bool(self.gone) and (said_all or time.monotonic() > self.gone + GRACE_S)

    def _look(self) -> None:
        self.looked = self.jobs.asked
        record = read_record(self.plan.folder, self.number)
        self.record = record if record.job == self.job else Record()
        if self.jobs.answered < self.jobs.asked:
            return  # what the job has written counts, and what SLURM said last
        self.line = self.jobs.jobs.get(self.job, Line("", "", ""))
        over = self.line.state in ("", *OVER)
        self.gone = (self.gone or time.monotonic()) if over else 0.0
        working = over or self.line.state in (queue.RUNNING, COMPLETING)
        seen = {"state": RUNNING, **self.place} if working else {"state": QUEUED, "device": self._waits_for()}
        self.plan.journal.take({"number": self.number, "seconds": self.before + self.record.seconds, **seen})

    def _waits_for(self) -> str:
        reason = self.line.reason.partition(",")[0]
        return f"({reason[:REASON]})" if reason not in ("", "None") else ""

    def settle(self, halted: bool) -> Ending:
        """Return how it ended.

        Args:
            halted: Whether all were asked to stop.
        """
        kind, state = self.record.kind, self.line.state
        if kind in (DONE, FAILED, FULL):
            return Ending(kind, self.record.error)
        if halted or state == CANCELLED:
            return Ending(STOPPED)
        if state and state not in BLAMELESS and not self.record.job:
            return Ending(FAILED, self._never_began())
        return Ending(LOST)

    def _never_began(self) -> str:
        log = log_of(self.plan.folder, self.number)
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        said = text.rpartition(f"job {self.job}\n")
        last = said[2].strip().split("\n")[-1] if said[1] else ""
        unseen = f"does the node see {Path.cwd()}? All nodes must share the project, its .venv and DVC's cache"
        return f"job {self.job} never began: {self.line.state} ({self.line.reason}) {self.line.node}: {last or unseen}"

    def forget(self) -> None:
        """Remove what only a job that goes on needs, and its clone."""
        rmtree(self.tree.folder, ignore_errors=True)
        rmtree(checkpoints_of(self.plan.folder, self.number), ignore_errors=True)
        path_of(self.plan.folder, self.number).unlink(missing_ok=True)


@dataclass
class Slurm:
    """Submits experiments.

    Args:
        options: Of sbatch.
        most: Jobs with SLURM at once.
        jobs: That SLURM has.
    """

    options: Sequence[str] = ()
    most: int = MOST
    jobs: Queue = field(default_factory=Queue)
    outlives: bool = True
    parting: str = (
        "left after {} experiments; jobs carry on. The same command watches them again, `vitlora experiments stop` "
        "stops them"
    )
    refused: float = float("-inf")
    why: str = ""

    @property
    def manner(self) -> str:
        """What SLURM is asked for."""
        return f" as jobs of SLURM ({' '.join(self.options)})"

    def at_work(self, plan: Plan) -> list[Job]:
        """Return the jobs that the journal names."""
        members = plan.journal.members.values()
        return [Job(plan, member, self.jobs, member.job) for member in members if member.state == QUEUED]

    def look(self) -> str:
        """Ask SLURM, unless that was just done; return what it could not do."""
        self.jobs.look()
        return self.jobs.error or self.why

    def begin(self, plan: Plan, member: Member, busy: Collection[int]) -> Job | None:
        """Submit an experiment; None where SLURM takes no more just now.

        Raises:
            VitloraError: It refuses the only one.
        """
        if busy and time.monotonic() < self.refused + AGAIN_S:
            return None
        record = read_record(plan.folder, member.number)
        fresh = record.kind == FAILED or member.state == STOPPED
        write_record(plan.folder, member.number, Record() if fresh else record)  # there before a node writes: NFS
        output = str(log_of(plan.folder, member.number).resolve()).replace("%", "%%")  # %j would be the job's id
        words = [f"--job-name={plan.name(member.number)}", f"--chdir={Path.cwd()}", f"--output={output}"]
        source, folder = Path(vitlora.__file__).parents[1], plan.folder
        quoted = {"source": source, "python": sys.executable, "folder": folder, "number": member.number}
        script = SCRIPT.format(**{key: shlex.quote(str(value)) for key, value in quoted.items()})
        try:
            job = queue.submit([*words, *self.options], script)
        except VitloraError as error:
            if not busy:
                raise VitloraError(f"{error}\nnothing is lost; the same command goes on") from None
            self.refused, self.why = time.monotonic(), f"{error}; tried again in a minute"
            return None
        self.why = ""
        faultpoint("submitted")
        return Job(plan, member, self.jobs, job)
