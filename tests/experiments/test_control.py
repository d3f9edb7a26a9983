"""A sweep looked at and stopped from another terminal."""

import os
import signal
import subprocess
import sys
import time

import pytest
import tiny

from vitlora.compare.screen import make_console
from vitlora.core.errors import VitloraError
from vitlora.experiments.control import find, status, stop

RUNNER = """
import signal, sys, time
from pathlib import Path
from vitlora.trials.lock import only_runner
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
with only_runner(Path(sys.argv[1]), "sweep"):
    print("at work", flush=True)
    signal.pause()
"""


@pytest.fixture
def runner(sweep):
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT / "src")}
    command = [sys.executable, "-c", RUNNER, str(sweep.folder)]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        yield process
        process.kill()


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_a_sweep_is_found_by_its_name_or_as_the_only_one(tmp_path, name):
    with pytest.raises(VitloraError, match=r"no sweep has begun here; `vitlora experiments run -S lora\.r=4,8`"):
        find(tmp_path, None)
    (tmp_path / "nothing").mkdir()  # of a mistake
    (tmp_path / name).mkdir()
    (tmp_path / name / "journal.jsonl").touch()
    assert find(tmp_path, None) == find(tmp_path, name) == tmp_path / name
    with pytest.raises(VitloraError, match=f"four: no sweep has this name; the rule: one of {name}"):
        find(tmp_path, "four")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero/journal.jsonl").touch()
    with pytest.raises(VitloraError, match=f"2 sweeps are here; name one of {name}, zero"):
        find(tmp_path, None)


def test_status_says_whether_the_runner_lives(sweep, runner, capsys):
    sweep.journal.note(0, state="running", tries=1, began=time.time(), device="CPU")
    status(sweep.folder, make_console())
    said = capsys.readouterr().out
    assert said.startswith(f"sweep: 1 running, 5 waiting; process {runner.pid} is at work\n")
    assert "sweep-000   begins" in said
    runner.kill()
    runner.wait()
    status(sweep.folder, make_console())
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("sweep: 1 interrupted, 5 waiting; no runner is at work; the same command goes on, or")
    assert "sweep-000 interrupted" in said


def test_of_a_finished_sweep_nothing_is_to_go_on(finished, capsys):
    finished.journal.note(5, state="done", val=0.9, test=(0.9, 0.8, 0.95), pictures=368, error="")
    status(finished.folder, make_console())
    said = capsys.readouterr().out
    assert said.startswith("sweep: 6 done; no runner is at work\n")
    assert max(map(len, said.splitlines())) <= 100


def test_stop_asks_the_runner_and_waits_for_it(sweep, runner, capsys):
    sweep.journal.note(0, state="stopped", seconds=5.0)
    stop(sweep.folder)
    assert runner.wait() == 7
    said = capsys.readouterr().out
    assert f"sweep: process {runner.pid} is asked to stop" in said
    assert said.endswith("sweep: stopped; 1 stopped, 5 waiting; the same command goes on\n")


@pytest.mark.parametrize("pid", ["", "x", str(2**22 + 1), "own"])
def test_stop_ends_nobody_else(sweep, capsys, pid):
    """The lock's file names a process that is gone, or another that has the same number now."""
    asked = []
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    (sweep.folder / "lock").write_text(str(os.getpid()) if pid == "own" else pid)
    stop(sweep.folder)
    signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().out == "sweep: no runner is at work; 6 waiting\n"
    assert not asked
