"""SLURM's own commands, and what they say: the one place that knows them."""

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable

POLL_S = 3.0  # between two questions, each for all jobs
PATIENCE_S = 30  # for an answer, where SLURM's controller is away
WARNED_S = 120  # before the time limit: for a training to finish its step and keep it
DEVICE = "--gres=gpu:1"  # of a job, where nothing else is asked for
DEVICES = ("--gres", "--gpus", "--gpus-per-node", "--gpus-per-task", "--gpus-per-socket")
OURS = (
    *("--array", "--chdir", "--clusters", "--error", "--export", "--export-file", "--help", "--input", "--job-name"),
    *("--no-requeue", "--open-mode", "--output", "--parsable", "--quiet", "--requeue", "--signal", "--test-only"),
    *("--usage", "--version", "--wait", "--wrap"),
)
# Of the environment: a job would not be seen, or not be one. What else is set for sbatch counts: account, partition.
UNSET = re.compile("SQUEUE_|SBATCH_(ARRAY_INX|CLUSTERS|WAIT)$")
NOT_HERE = "there is no {} on the PATH; the rule: a login node of a SLURM cluster; `module load slurm` may bring it"
RUNNING, COMPLETING, CANCELLED = "RUNNING", "COMPLETING", "CANCELLED"
# Not one of these: it was lost to the cluster, not to itself, and may be submitted again.
BLAMELESS = ("COMPLETED", "NODE_FAIL", "BOOT_FAIL", "PREEMPTED", "REVOKED")
OVER = (*BLAMELESS, CANCELLED, "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT")


class Line(NamedTuple):
    """What SLURM says of a job: its state, why it waits or has failed, and its node."""

    state: str
    reason: str
    node: str


def options(partition: str | None, text: str) -> list[str]:
    """Return the options of sbatch that a user has asked for, and a GPU unless these say something of it.

    Args:
        partition: Of ``--partition``.
        text: Of ``--sbatch``, as a shell reads it.

    Raises:
        VitloraError: There is no sbatch here, or one of them is no option or not the user's to set.
    """
    if shutil.which("sbatch") is None:
        raise VitloraError(f"--engine slurm: {NOT_HERE.format('sbatch')}")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise VitloraError(f"--sbatch: got {printable(text)}: {error}") from None
    names = [word.partition("=")[0] for word in words]
    for word, name in zip(words, names, strict=True):
        if not word.startswith("--") or len(name) < 3:
            raise VitloraError(
                f"--sbatch: got {printable(word)}; the rule: sbatch's long options, each in one word, such as "
                "--sbatch='--account=x --time=02:00:00'"
            )
        if any(own.startswith(name) for own in OURS):  # sbatch takes any beginning that is unique
            raise VitloraError(f"--sbatch: got {printable(word)}, which is set here for every job; leave it out")
    if not partition and partition is not None:
        raise VitloraError("--partition: got nothing; the rule: a partition's name, as sinfo shows it")
    device = [] if any(name in DEVICES for name in names) else [DEVICE]
    return [*([f"--partition={partition}"] if partition else []), *device, *words]


def submit(words: Sequence[str], script: str) -> str:
    """Submit a job and return its id.

    Args:
        words: Options of sbatch.
        script: Of the job.

    Raises:
        VitloraError: SLURM refuses it.
    """
    signal = f"--signal=B:USR1@{WARNED_S}"
    said = _call(["sbatch", "--parsable", "--requeue", signal, "--open-mode=append", *words], script)
    return said.strip().splitlines()[-1].partition(";")[0]


def requeue(job: str) -> None:
    """Put a job that is at work back into the queue, which ends it.

    Raises:
        VitloraError: SLURM does not.
    """
    _call(["scontrol", "requeue", job])


def parsed(text: str) -> dict[str, Line]:
    """Return what squeue prints, by job."""
    lines = (line.strip().split("|") for line in text.splitlines())
    return {parts[0]: Line(*parts[1:]) for parts in lines if len(parts) == 4}


def _call(command: Sequence[str], given: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=given,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
            env={name: value for name, value in os.environ.items() if not UNSET.match(name)},
            start_new_session=True,  # a Ctrl-C is for the runner alone
        )
    except FileNotFoundError:
        raise VitloraError(NOT_HERE.format(command[0])) from None
    except subprocess.TimeoutExpired:
        raise VitloraError(f"{command[0]} has not answered for {PATIENCE_S} s") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(dict.fromkeys(line.removeprefix(f"{command[0]}: ") for line in lines))
        raise VitloraError(printable(f"{command[0]}: {said or f'exit code {done.returncode}'}"))
    return done.stdout


class Queue:
    """This user's jobs as SLURM told them last.

    SLURM forgets a job some minutes after its end, and may not answer for a while: then ``error`` says so.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Line] = {}
        self.unwanted: set[str] = set()
        self.asked = self.answered = float("-inf")  # when, by the monotonic clock; answered: of the question
        self.error = ""

    def look(self) -> None:
        """Ask for all jobs, unless that was just done, and stop those that are unwanted."""
        if time.monotonic() < self.asked + POLL_S:
            return
        self.asked = time.monotonic()
        try:
            text = _call(["squeue", "--me", "--noheader", "--states=all", "--format=%i|%T|%r|%N"])
            self.jobs, self.answered, self.error = parsed(text), self.asked, ""
            self._stop()
        except VitloraError as error:
            self.error = str(error)

    def _stop(self) -> None:
        """Ask jobs at work to keep what they have, by SIGTERM to the script alone; take the others away."""
        states = {job: self.jobs[job].state for job in self.unwanted if job in self.jobs}
        working = [job for job, state in states.items() if state == RUNNING]
        others = [job for job, state in states.items() if state not in (RUNNING, COMPLETING, *OVER)]
        if working:
            _call(["scancel", "--batch", "--signal=TERM", *working])
        if others:
            _call(["scancel", *others])
