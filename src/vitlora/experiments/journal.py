"""A sweep's memory on the disk: lines of JSON, each synced, that say what it is about and how each experiment fares."""

import dataclasses
import errno
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitlora.core.durable import sync_one
from vitlora.core.errors import VitloraError
from vitlora.trials.names import JOURNAL

WAITING, QUEUED, RUNNING = "waiting", "queued", "running"  # queued: with SLURM, wherever that has it
STOPPED, DONE, FAILED = "stopped", "done", "failed"
CURE = "forgets this sweep, or --name another"


@dataclass(frozen=True)
class Member:
    """An experiment of a sweep.

    Args:
        number: In the sweep.
        values: What ``-S`` sets, by dotted key.
        state: One of the words above.
        tries: How often it was begun.
        seconds: Spent on it, without what a killed runner could not note.
        began: Of the try at work, seconds since 1970.
        slot: Of the runs at once, which one it has or had.
        device: Of that slot; of one in SLURM, its node and GPUs.
        job: Its id in SLURM; empty where it ran on this machine.
        commit: Of the experiment.
        val: Accuracy.
        test: Accuracy, and the ends of its 95 % interval.
        pictures: Of test.
        error: Why it failed.
    """

    number: int
    values: dict[str, Any]
    state: str = WAITING
    tries: int = 0
    seconds: float = 0.0
    began: float = 0.0
    slot: int = 0
    device: str = ""
    job: str = ""
    commit: str = ""
    val: float | None = None
    test: list[float] | None = None
    pictures: int = 0
    error: str = ""


@dataclass
class Journal:
    """What the lines say.

    Args:
        path: The file.
        about: Where the sweep started from; empty before its first line.
        members: By number.
    """

    path: Path
    about: dict[str, Any] = field(default_factory=dict)
    members: dict[int, Member] = field(default_factory=dict)

    def begin(self, about: Mapping[str, Any]) -> None:
        """Write the first line, or what has changed in it."""
        self._append({"about": dict(about)})

    def note(self, number: int, **changes: Any) -> None:
        """Write what has changed with an experiment, or what a new one is."""
        self._append({"number": number, **changes})

    def _append(self, record: dict[str, Any]) -> None:
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                if file.write(line) < len(line):  # a full disk takes a part of it
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
                os.fsync(file.fileno())
            except OSError:
                file.truncate(before)
                raise
        if not before:
            sync_one(self.path.parent)
        self.take(json.loads(line))

    def take(self, record: dict[str, Any]) -> None:
        """Take in what a line says."""
        if "about" in record:
            self.about = record["about"]
            return
        number = record["number"]
        if number in self.members:
            self.members[number] = dataclasses.replace(self.members[number], **record)
        else:
            self.members[number] = Member(**record)


def mend(path: Path) -> None:
    """Take away what a kill has left of a line; for the holder of the sweep's lock."""
    if path.is_file() and (text := path.read_bytes()) and not text.endswith(b"\n"):
        os.truncate(path, text.rfind(b"\n") + 1)


def read_journal(folder: Path) -> Journal:
    """Read a sweep's journal, which another process may be writing: a last line that is not whole yet is none.

    Raises:
        VitloraError: It is damaged.
    """
    journal = Journal(folder / JOURNAL)
    if not journal.path.is_file():
        return journal
    lines = journal.path.read_bytes().split(b"\n")[:-1]
    for place, line in enumerate(lines, 1):
        try:
            journal.take(json.loads(line))
        except (ValueError, TypeError, KeyError):
            raise VitloraError(f"{journal.path} is damaged in line {place}; `rm -r {folder}` {CURE}") from None
    if lines and not (journal.about and sorted(journal.members) == list(range(len(journal.members)))):
        raise VitloraError(f"{journal.path} is damaged: lines are missing; `rm -r {folder}` {CURE}")
    return journal
