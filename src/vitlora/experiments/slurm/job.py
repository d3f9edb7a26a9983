"""What a job runs on its node: one experiment of a sweep, begun or gone on with.

    python -m vitlora.experiments.slurm.job FOLDER NUMBER

SIGUSR1 says that the time limit is near: training keeps its step, and the job goes back into the queue. SIGTERM says
that the experiment is to stop: what it has is kept. The runner on the login node need not live.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.experiments.journal import QUEUED, Journal, Member, read_journal
from vitlora.experiments.slurm.queue import requeue
from vitlora.experiments.slurm.record import Record, read_record, write_record
from vitlora.trials.child import AGAIN, DONE, FAILED, POLL_S, STOPPED, Child, Ending, kills_for_memory
from vitlora.trials.tree import CHANGES, Origin, Tree
from vitlora.trials.values import with_values

CLAIM_S = 30.0  # between a job's submission and the line in the journal that names it


def main(folder: Path, number: int) -> int:
    """Run the experiment and return the exit code."""
    asked: list[int] = []
    for each in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(each, lambda found, _: asked.append(found))
    job = os.environ["SLURM_JOB_ID"]
    journal = _awaited(folder, number, job)
    if journal is None:
        print(f"{folder.name}: experiment {number} does not wait for job {job}; nothing is run", flush=True)
        return 0
    before = read_record(folder, number)
    record = replace(before, seconds=before.seconds if before.job == job else 0.0, kind="", error="")
    record = write_record(folder, number, replace(record, job=job, began=round(time.time(), 1), device=_device()))
    try:
        child = _child(folder, journal, journal.members[number], record)
        if before.job == job and not before.warned:
            child.short = kills_for_memory()  # SLURM took its node for another, which is no fault of its own
        ending, record = _run(child, record, asked)
    except VitloraError as error:
        ending = Ending(FAILED, str(error))
    if ending.kind == FAILED and record.warned and ending.error.startswith("killed "):
        ending = Ending(FAILED, "the time limit is too short to get any further; --sbatch='--time=...' gives more")
    warned = set(asked) == {signal.SIGUSR1} and ending.kind == STOPPED
    seconds = round(record.seconds + time.time() - record.began, 1)
    ended = {"seconds": seconds, "warned": warned, "kind": ending.kind, "error": ending.error}
    write_record(folder, number, Record(**{**asdict(record), **ended}))
    if warned:
        requeue(job)
    return 0 if ending.kind == DONE or warned else 1


def _awaited(folder: Path, number: int, job: str) -> Journal | None:
    """Return the journal if it names this job: a runner that was killed after sbatch has submitted another since."""
    deadline = time.monotonic() + CLAIM_S
    while True:
        journal = read_journal(folder)
        member = journal.members.get(number)
        if member and member.state == QUEUED:
            return journal if member.job == job else None
        if time.monotonic() > deadline:
            return None
        time.sleep(POLL_S)


def _child(folder: Path, journal: Journal, member: Member, record: Record) -> Child:
    about = journal.about
    changes = (folder / CHANGES).read_bytes()
    kept = about["slurm"]
    origin = Origin(Path(kept["top"]), Path(about["below"]), about["commit"], changes, Path(kept["cache"]))
    return Child(
        Tree(folder / f"tree-{member.number}", origin),
        folder,
        f"{folder.name}-{member.number:03d}",
        member.number,
        member.values,
        with_values(about["document"], member.values),
        tries=record.tries,
        reached=record.reached,
    )


def _run(child: Child, record: Record, asked: Sequence[int]) -> tuple[Ending, Record]:
    ending = child.go_on()
    while ending.kind == AGAIN:
        record = replace(record, tries=child.tries, reached=child.reached)
        write_record(child.folder, child.number, record)
        while not child.is_over():
            if asked:
                child.stop()
            time.sleep(POLL_S)
        ending = child.settle(bool(asked))
    return ending, record


def _device() -> str:
    node = os.environ.get("SLURMD_NODENAME", "")
    devices = os.environ.get("SLURM_JOB_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return f"{node} GPU {devices}" if devices else node


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
    except VitloraError as error:
        sys.exit(f"error: {error}")
