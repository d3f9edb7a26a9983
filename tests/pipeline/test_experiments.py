"""`vitlora experiments` in a real project: run, looked at, stopped, gone on with, and killed twenty times."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal

import pytest
import tiny
from faults.harness import VERB, Running, make_digits, once, processes, vitlora, wait_until_none
from sweeps import SMALL, experiments, results

ENV = {"PYTHONPATH": "src"}


def lines_of(text):
    """Return the commands that a sweep ends with."""
    return [shlex.split(line) for line in re.findall(r"^\w.*[:?] +((?:vitlora|dvc) .*)$", text, re.MULTILINE)]


# --- a finished project of three colours ---


def test_a_sweep_is_made_of_experiments_and_the_project_is_left_alone(project):
    before = tiny.git(project, "status", "--porcelain"), tiny.git(project, "rev-parse", "HEAD")
    words = ("experiments", "run", "-S", "lora.r=2", "-S", "train.save_steps=1")  # as committed: all from the cache
    done = vitlora(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tiny.git(project, "status", "--porcelain"), tiny.git(project, "rev-parse", "HEAD")) == before
    assert [*experiments(project)] == ["sweep-000"]
    assert "sweep: 1 done" in done.stdout
    assert not list((project / ".work/experiments/sweep").glob("tree-*"))
    looked = vitlora(project, "experiments", "status")
    assert "sweep: 1 done; no runner is at work" in looked.stdout


@pytest.mark.faults
def test_values_are_added_later_and_every_line_at_the_end_works(project):
    fixed = ("-S", "split.test_fraction=0.7")  # compare wants twenty pictures
    first = vitlora(project, "experiments", "run", "-S", "lora.r=1", "-S", "train.seed=0,1", *fixed, "--jobs", "2")
    assert first.returncode == 0, first.stdout + first.stderr
    commits = experiments(project)
    done = vitlora(project, "experiments", "run", "-S", "lora.r=1,2", "-S", "train.seed=0,1", *fixed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sweep: 2 experiments more; those that are there stay" in done.stdout
    assert {name: commit for name, commit in experiments(project).items() if name in commits} == commits
    assert len(experiments(project)) == 4
    assert [row[:2] for row in results(project).values()] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    commands = lines_of(done.stdout)
    assert [words[:3] for words in commands] == [
        ["vitlora", "compare", "sweep-002,sweep-003"],
        ["vitlora", "compare", "--all"],
        ["dvc", "exp", "apply"],
    ]
    for program, *words in commands:
        ran = vitlora(project, *words) if program == "vitlora" else tiny.run(project, tiny.DVC, *words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    refused = vitlora(project, "experiments", "run", "-S", "lora.r=2,4", "-S", "train.seed=0,1", *fixed)
    assert refused.returncode == 1
    assert (
        "such as sweep-000: lora.r=1 train.seed=0 split.test_fraction=0.7; the rule: values may be added"
        in refused.stderr
    )


@pytest.mark.faults
def test_what_fails_is_told_and_retry_runs_it_once_more(project):
    done = vitlora(project, "experiments", "run", "-S", "lora.layers_to_transform=[5],[1]")
    assert done.returncode == 1
    assert re.search(r"^sweep-000  failed: lora.layers_to_transform: got 5", done.stdout, re.MULTILINE)
    assert done.stderr == "error: 1 of 2 experiments failed; why, stands above\n"
    assert [*experiments(project)] == ["sweep-001"]
    (retry,) = [words for words in lines_of(done.stdout) if "retry" in words]
    again = vitlora(project, *retry[1:])
    assert again.returncode == 1
    assert again.stdout.count("begins   ") == 1
    assert "; 1 done, 1 waiting" in again.stdout


@pytest.mark.faults
def test_stop_keeps_the_training_at_work_and_the_same_command_goes_on(project):
    words = ("experiments", "run", "-S", "lora.r=1,4", "-S", "train.num_train_epochs=30")
    running = Running(project, *VERB, *words, env=ENV)
    assert running.wait_for(lambda: list((project / ".work/experiments/sweep/checkpoints/000").glob("*/0*")))
    looked = vitlora(project, "experiments", "status", "sweep")
    assert re.search(rf"1 running, 1 waiting; process {running.process.pid} is at work", looked.stdout), looked.stdout
    assert re.search(r"sweep-000 +train, step \d+ of \d+", looked.stdout), looked.stdout
    stopped = vitlora(project, "experiments", "stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "sweep: stopped; 1 stopped, 1 waiting; the same command goes on" in stopped.stdout
    assert running.ended() == 128 + signal.SIGTERM
    assert not processes(project)
    assert "stopped after 0 of 2 experiments, which are kept; the same command goes on" in running.text()
    done = vitlora(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in (project / ".work/experiments/sweep/000.log").read_text()
    assert len(experiments(project)) == 2


@pytest.mark.faults
def test_two_sweeps_at_once_have_a_gpu_each(project):
    """Names of GPUs are enough for it; where there are none, training takes the CPU."""
    env = ENV | {"CUDA_VISIBLE_DEVICES": "0,1"}
    run = ("experiments", "run", "--jobs")
    words = (*run, "1", "--name", "one", "-S", "train.num_train_epochs=500")
    first = Running(project, *VERB, *words, env=env)
    assert first.wait_for_text("one-000  begins")
    again = vitlora(project, *words, env=env)
    assert f"one: this sweep is already running here (process {first.process.pid})" in again.stderr
    refused = vitlora(project, *run, "2", "--name", "two", "-S", "lora.r=2", env=env)
    assert f"1 of 2 GPUs are free, and 2 is asked for; taken: 0 by one (process {first.process.pid})" in refused.stderr
    second = vitlora(project, *run, "1", "--name", "two", "-S", "lora.r=2", env=env)
    assert second.returncode == 0, second.stderr
    assert re.search(r"two-000 .* GPU 1", second.stdout)
    assert "GPU 0" in vitlora(project, "experiments", "status", "one").stdout
    assert vitlora(project, "experiments", "stop", "one").returncode == 0
    assert first.ended() == 128 + signal.SIGTERM


# --- digits: twelve experiments, twenty kills ---

KILLS, SWEEPS = 20, 3
GRID = ("-S", "lora.r=4,8,16", "-S", "train.seed=0,1,2,3")
COMMAND = (*VERB, "experiments", "run", *GRID, "--jobs", "2")


def make_quiet(root):
    """Run the sweep undisturbed, beside a copy of the project as it was before."""
    make_digits(root, SMALL)
    shutil.copytree(root, root.parent / "before", symlinks=True)
    done = tiny.run(root, *COMMAND, env=ENV, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.fixture(scope="session")
def quiet(tmp_path_factory):
    return once(tmp_path_factory, "sweep", make_quiet)


def done(root):
    """Return how many experiments the journal calls done."""
    journal = root / ".work/experiments/sweep/journal.jsonl"
    return journal.read_text().count('"state": "done"') if journal.exists() else 0


def kill_one(root, running, draw):
    """Kill the runner and see that nobody stays, or any process below it; return who, and the runner at work now."""
    below = sorted(processes(root / ".work/experiments").items())
    if below and draw.random() < 0.6:
        pid, line = draw.choice(below)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            return next((word for word in ("stages.", "dvc_command", "git") if word in line), line), running
        return None, running
    running.send(signal.SIGKILL)
    running.process.wait()
    assert not wait_until_none(root, 4.0), "an orphan works on"
    return "runner", Running(root, *COMMAND, env=ENV)


@pytest.mark.faults
@pytest.mark.parametrize("number", range(SWEEPS))
@pytest.mark.survives("E01", "vitlora experiments run of 12 on digits: kill -9 of the runner or any child, 20 in all")
def test_twelve_experiments_survive_twenty_kills_with_twelve_right_results(quiet, tmp_path, number):
    root, draw, killed = tmp_path / "killed", random.Random(number), []
    shutil.copytree(quiet.parent / "before", root, symlinks=True)
    running = Running(root, *COMMAND, env=ENV)
    while len(killed) < KILLS:
        due = len(killed) * 11 // KILLS  # spread over all twelve
        running.wait_for(lambda due=due: done(root) >= due, 600)
        running.wait_for(lambda: False, draw.uniform(1, 25))
        assert running.process.poll() is None, running.text()
        who, running = kill_one(root, running, draw)
        killed += [who] if who else []
    assert running.ended(1800) == 0, running.text()
    print(killed, running.text())
    assert results(root) == results(quiet)
    assert len(results(root)) == 12
    assert tiny.git(root, "status", "--porcelain") == ""
    assert not [*(root / ".work/experiments/sweep").glob("tree-*"), *root.glob(".work/experiments/sweep/checkpoints/*")]


@pytest.mark.faults
def test_an_experiment_is_what_dvc_repro_gives(quiet, tmp_path):
    root = shutil.copytree(quiet.parent / "before", tmp_path / "plain", symlinks=True)
    for rank, seed, lock, *_ in list(results(quiet).values())[1:12:5]:
        tiny.set_params(root / "params.yaml", {"lora.r": rank, "train.seed": seed})
        tiny.dvc(root, "repro")
        assert (root / "dvc.lock").read_text() == lock
        assert json.loads((root / "metrics/evaluate/scores.json").read_text())["accuracy"] > 0.3
