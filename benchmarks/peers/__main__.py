"""Run one contestant in this process: ``python -m peers NAME JOB.json``; its row goes to the file the job names."""

import importlib
import json
import os
import sys
from pathlib import Path

from peers import ceilings
from peers.contestants import CONTESTANTS
from peers.job import Job, NotHereError


def main() -> None:
    """Measure and write the row."""
    name, path = sys.argv[1:]
    job = Job.read(Path(path))
    Path(job.out).write_text(json.dumps(_row(name, job)), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # torch's loader processes, cut off within an epoch, can keep a process from leaving


def _row(name: str, job: Job) -> dict:
    if name == "ceilings":
        return ceilings.measure(job.tiny)
    # Imported here, as a contestant's first step counts from the start of the process and the ceilings need none of it.
    from peers.meter import FinishedError, Meter

    meter = Meter(job)
    meter.watch_loaders()
    contestant = CONTESTANTS[name]
    try:
        importlib.import_module(f"peers.{contestant.module}").run(job, meter, **contestant.options)
    except FinishedError:
        pass
    except NotHereError as error:
        return {"skipped": str(error)}
    return meter.row()


if __name__ == "__main__":
    main()
