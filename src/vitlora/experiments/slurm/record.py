"""What a job writes of itself, for the runner and for its own next try: one small file an experiment, always whole."""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from vitlora.core.durable import sync_one


@dataclass(frozen=True)
class Record:
    """A job's tries.

    Args:
        job: Its id; empty where none has begun.
        tries: Of the experiment, since it last got further.
        reached: How many stages, and the newest checkpoint.
        began: Of the last try, seconds since 1970.
        seconds: Of this job's tries that could note it.
        device: Node and GPUs.
        warned: Whether the last try ended for the time limit.
        kind: How the last try ended, in the words of `vitlora.trials.child`; empty while it is at work, or was killed.
        error: What it said of that.
    """

    job: str = ""
    tries: int = 0
    reached: tuple[int, str] = (0, "")
    began: float = 0.0
    seconds: float = 0.0
    device: str = ""
    warned: bool = False
    kind: str = ""
    error: str = ""


def path_of(folder: Path, number: int) -> Path:
    """Return where an experiment's record is."""
    return folder / f"{number:03d}.json"


def read_record(folder: Path, number: int) -> Record:
    """Read an experiment's record; a new one where there is none."""
    try:
        found = Record(**json.loads(path_of(folder, number).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Record()
    stages, checkpoint = found.reached
    return dataclasses.replace(found, reached=(stages, checkpoint))


def write_record(folder: Path, number: int, record: Record) -> Record:
    """Replace an experiment's record, and return it."""
    path = path_of(folder, number)
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(dataclasses.asdict(record)), encoding="utf-8")
    sync_one(draft)
    os.replace(draft, path)
    return record
