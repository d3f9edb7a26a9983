"""One run of the pipeline in a clone: begun, asked to stop, begun again after a kill, and how it ended."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vitlora.safety.shortage import DISK
from vitlora.safety.workspace import environment
from vitlora.trials.tree import Tree
from vitlora.trials.values import override

LIVE = ".work/train.jsonl"  # vitlora.train.reporting.LIVE, which would load torch
POLL_S = 0.2
# How often a run is begun that is killed, without getting further: where the system may have done it for memory, and
# where somebody did.
TRIES, PATIENCE = 4, 30
VMSTAT = Path("/proc/vmstat")
# The stage, a process of its pool, the one that decodes a picture, or a program that DVC calls.
KILLED = re.compile(
    r"failed to reproduce '\w+': (killed|stopped by a signal|interrupted)"
    r"|BrokenProcessPool|killed by signal|the system killed its decoder"
    r"|died with <Signals|exit code ?\(?-9"
)
FIRST_ERROR = re.compile(r"^(?:error: |ERROR: |(?=\w*(?:Error|Exception): ))(.+)", re.MULTILINE)
STAGE = re.compile(r"^(?:Running stage|Stage) '(\w+)'", re.MULTILINE)
DONE, STOPPED, AGAIN, FULL, FAILED = "done", "stopped", "killed, begun again", "disk full", "failed"


class Ending(NamedTuple):
    """How a run ended, one of the words above, and what it said of it."""

    kind: str
    error: str = ""


@dataclass
class Child:
    """A run of the pipeline.

    Args:
        tree: Its clone.
        folder: Of the search or sweep, where its output and its checkpoints lie.
        name: As an experiment.
        number: Of the run.
        sets: What ``-S`` sets, by dotted key.
        document: params.yaml with that.
        stages: It ends with these; none for all.
        env: Added to the environment: its device.
        handles: Of locks, which are free once it has left too.
        place: What a runner's journal keeps of where it runs.
    """

    tree: Tree
    folder: Path
    name: str
    number: int
    sets: Mapping[str, Any]
    document: Mapping[str, Any]
    stages: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    handles: Sequence[int] = ()
    place: Mapping[str, Any] = field(default_factory=dict)
    tries: int = 0  # since it last got further
    short: int | None = None  # what `kills_for_memory` said when it began
    reached: tuple[int, str] = (0, "")
    process: "subprocess.Popen[bytes] | None" = None
    began: float = 0.0
    asked: bool = False  # to stop

    @property
    def log(self) -> Path:
        """Its output, of the last try."""
        return log_of(self.folder, self.number)

    @property
    def checkpoints(self) -> Path:
        """Of its training; they outlive the clone, so that a run that was killed goes on."""
        return checkpoints_of(self.folder, self.number)

    @property
    def seconds(self) -> float:
        """Of this try."""
        return time.monotonic() - self.began

    def start(self) -> None:
        """Make the clone anew and begin.

        Raises:
            VitloraError: Git can't, as on a full disk.
        """
        self.tree.renew(self.document, self.checkpoints)
        sets = [word for item in self.sets.items() for word in ("-S", override(*item))]
        dvc = [sys.executable, "-m", "vitlora.safety.dvc_command", "exp", "run", "--name", self.name]
        self.tries, self.began, self.short = self.tries + 1, time.monotonic(), kills_for_memory()
        self.process = launch([*dvc, *sets, *self.stages], self)

    def stop(self) -> None:
        """Ask it once to stop: training finishes its step and keeps it."""
        assert self.process is not None
        if not self.asked:
            self.asked = True
            self.process.terminate()

    def is_over(self) -> bool:
        """Whether it has ended, however that may be."""
        assert self.process is not None
        return self.process.poll() is not None

    def settle(self, halted: bool) -> Ending:
        """Return how it ended; one that was killed is at work again then.

        Args:
            halted: Whether all were asked to stop.
        """
        assert self.process is not None
        code = self.process.wait()
        if code == 0:
            return Ending(DONE)
        if halted:
            return Ending(STOPPED)
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if code < 0 or KILLED.search(text):
            return self.go_on()
        full = any(reason in text for reason in DISK.values())
        return Ending(FULL if full else FAILED, first_error(text))

    def go_on(self) -> Ending:
        """Begin, or begin again after a kill, unless that was done too often without getting further."""
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.is_file() else ""
        reached = len(set(STAGE.findall(text))), newest_checkpoint(self.checkpoints)
        if reached > self.reached:
            self.reached, self.tries = reached, 1
        now = kills_for_memory()
        somebody = now is not None and now == self.short
        if self.tries >= (PATIENCE if somebody else TRIES):
            return Ending(FAILED, f"killed {self.tries} times{'' if somebody else ', as where memory runs out'}")
        self.start()
        return Ending(AGAIN)

    def forget(self) -> None:
        """Remove what only a run that goes on needs."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)


def log_of(folder: Path, number: int) -> Path:
    """Return where the output of a run of a search or sweep is."""
    return folder / f"{number:03d}.log"


def checkpoints_of(folder: Path, number: int) -> Path:
    """Return where a run of a search or sweep keeps its checkpoints."""
    return folder / "checkpoints" / f"{number:03d}"


def kills_for_memory() -> int | None:
    """Return how many processes Linux has killed for memory, of any program; None where the system does not say."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", VMSTAT.read_text(encoding="utf-8"), re.MULTILINE)
        return int(found[1]) if found else None
    return None


def launch(command: Sequence[str], child: Child) -> "subprocess.Popen[bytes]":
    """Start a child's command on this machine; it leaves when this process ends, however that ends."""
    env = {**environment(), **(child.env or {}), "VITLORA_WITH_PARENT": "1"}
    with child.log.open("ab") as file:  # SLURM may write there too
        file.truncate(0)
        return subprocess.Popen(
            command,
            cwd=child.tree.project,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            pass_fds=child.handles,
        )


def newest_checkpoint(folder: Path) -> str:
    """Return the name of a run's newest checkpoint, which sorts by step; empty where there is none."""
    return max((path.name for path in folder.glob("*/[0-9]*")), default="")


def live(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a training's live log so far; a line that is still being written is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def first_error(text: str) -> str:
    """Return what went wrong first, as a run's output has it."""
    found = FIRST_ERROR.search(text)
    lines = [line for line in text.splitlines() if line.strip()]
    return found[1] if found else (lines[-1] if lines else "it said nothing")
