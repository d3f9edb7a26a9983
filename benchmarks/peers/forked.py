"""Runs contestants as children of a process that has all libraries imported: each begins half a minute sooner.

For tables of many short rows on a rented card. A first step's time does not hold the imports then.
"""

import multiprocessing
import os
import sys
from pathlib import Path

LIBRARIES = ("torch", "torchvision", "accelerate", "transformers.trainer", "peft", "timm", "vitlora.train.stage")


def start(name: str, job: Path, environment: dict[str, str]) -> multiprocessing.Process:
    """Start one contestant in a session of its own; its log is written beside the job."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peers.preloaded"])
    process = context.Process(target=act, args=(name, job, environment))
    process.start()
    return process


def act(name: str, job: Path, environment: dict[str, str]) -> None:
    """Be the contestant."""
    multiprocessing.set_start_method("fork", force=True)  # of its loaders, as if it had begun by itself
    os.setsid()
    os.chdir(job.parent)
    os.environ.update(environment)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    from peers.__main__ import main

    sys.argv[1:] = [name, str(job)]
    main()
