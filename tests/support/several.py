"""Trainings and evaluations of the tiny project by several processes that share each step, or by one.

They are forked from a server that has imported everything: torch can't be used in what is forked from a process that
has trained, as tests have, and to import it takes seconds.
"""

import json
import multiprocessing
import os
import signal
import sys
import traceback
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import training

from vitlora.processes.launch import VARIABLE, Place
from vitlora.processes.peers import peers_here
from vitlora.train.optimise import OptimiserStep
from vitlora.train.trainer import ImageTrainer

WAIT_S = 120
PRELOADED = ["several", "vitlora.train.stage", "vitlora.evaluate.stage"]


def together(count, work, *args, at_most=None):
    """Let so many processes do work in this folder, in micro-batches of ``at_most``; return their exit codes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        found = multiprocessing.get_context("forkserver")
        found.set_forkserver_preload(PRELOADED)
        (meeting := Path(".work/several/meeting")).parent.mkdir(parents=True, exist_ok=True)
        meeting.unlink(missing_ok=True)
        places = [Place(number, count, os.getpid(), str(meeting.parent.absolute()), at_most) for number in range(count)]
        members = [found.Process(target=_one, args=(Path.cwd(), place, work, *args)) for place in places]
        for member in members:
            member.start()
        for member in members:
            member.join(WAIT_S)
            member.kill()
            member.join()
    return [member.exitcode for member in members]


def _one(folder, place, work, *args):
    os.chdir(folder)
    multiprocessing.set_start_method("fork", force=True)  # of its own loader processes, as in a stage
    if place.count > 1:
        os.environ |= {VARIABLE: json.dumps(asdict(place)), "GLOO_SOCKET_IFNAME": "lo"}
    with place.last_words.open("w") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
        code = 1
        try:
            work(*args)
            code = 0
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            code = 128 + error.number if hasattr(error, "number") else 1
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def bring(name):
    """Bring a commit's adapter, as processes do that share a training."""
    from vitlora.train.experts import locate

    locate(name, peers=peers_here())


def said(number=0):
    """Return what a process has printed."""
    return Path(f".work/several/process-{number}.txt").read_text()


def fit(count, **changes):
    """Train; return each step's loss, as it was computed. All processes must have ended well."""
    codes = together(count, fitted, changes)
    assert codes == [0] * count, "\n".join(said(number) for number in range(count))
    return json.loads(Path("losses.json").read_text())


def fitted(changes, stop=None, kill=None):
    """Train in one of the processes; ``stop``: which of them gets a SIGTERM at which step, ``kill``: SIGKILL."""
    number = json.loads(os.environ.get(VARIABLE, '{"number": 0}'))["number"]
    losses, original, begun = [], ImageTrainer._check, OptimiserStep.__call__

    def check(self, outcome):
        losses.append(outcome.loss)
        original(self, outcome)

    def begin(self, at, *rest):
        for what, how in ((stop, signal.SIGTERM), (kill, signal.SIGKILL)):
            if what == [number, at]:
                os.kill(os.getpid(), how)
        begun(self, at, *rest)

    ImageTrainer._check, OptimiserStep.__call__ = check, begin
    training.fit(**changes)
    if number == 0:
        Path("losses.json").write_text(json.dumps(losses))


def short_of_memory(changes):
    """Train, with too little memory in one of the processes."""
    number, begun = json.loads(os.environ[VARIABLE])["number"], OptimiserStep.__call__

    def begin(self, at, *rest):
        if (number, at) == (1, 1):
            raise torch.cuda.OutOfMemoryError
        begun(self, at, *rest)

    OptimiserStep.__call__ = begin
    training.fit(**changes)


def led_astray(changes):
    """Train, with other weights in one of the processes from the second step on."""
    number, begun = json.loads(os.environ[VARIABLE])["number"], OptimiserStep.__call__

    def begin(self, at, *rest):
        if (number, at) == (1, 1):
            with torch.no_grad():
                self.trained[0].add_(1e-3)
        begun(self, at, *rest)

    OptimiserStep.__call__ = begin
    training.fit(**changes)


def sown_apart(changes):
    """Train, from other weights in each of the processes."""
    training.fit(**changes, train__seed=json.loads(os.environ[VARIABLE])["number"])


def evaluated(tta, batch):
    training.evaluate_here(tta, batch)
