"""`vitlora experiments run --engine slurm` on a real cluster of one node with two pretend GPUs."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import time

import pytest
import tiny
from faults.harness import VERB, Running, make_digits, once, processes, vitlora
from sweeps import SMALL, experiments, results

from vitlora.experiments.journal import read_journal

pytest_plugins = ["cluster"]
RUN = ("experiments", "run", "--engine", "slurm")
FOLDER = ".work/experiments/sweep"


def members(root):
    return list(read_journal(root / FOLDER).members.values())


def log(root):
    path = root / FOLDER / "000.log"
    return path.read_text() if path.exists() else ""


# --- a finished project of three colours, so that most comes from the cache ---


def test_a_runner_killed_after_a_submission_runs_nothing_twice(project, cluster):
    project = project.rename(project.with_name("50 %j"))  # for sbatch a job's id, in a name of a file
    words = (*RUN, "-S", "ingest.on_bad=fail,skip", "--partition", "main")
    killed = vitlora(project, *words, env=cluster.env | {"FAULTPOINT": "submitted"})
    assert killed.returncode == 137, killed.stdout + killed.stderr
    done = vitlora(project, *words, env=cluster.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 experiments as jobs of SLURM (--partition=main --gres=gpu:1)" in done.stdout
    assert len(experiments(project)) == 2
    assert [(one.state, one.tries) for one in members(project)] == [("done", 1)] * 2
    assert sorted(name for name, _ in cluster.jobs()) == ["sweep-000", "sweep-000", "sweep-001"]
    left = {path.name for path in (project / FOLDER).iterdir()}
    assert left == {"000.log", "001.log", "changes.patch", "checkpoints", "journal.jsonl", "lock"}


def test_jobs_wait_without_a_runner_and_stop_takes_them_away(project, cluster):
    words = (*RUN, "-S", "lora.r=2,4")
    running = Running(project, *VERB, *words, "--sbatch=--hold --gres=none", env=cluster.env)
    assert running.wait_for_text("sweep-001  job")
    running.send(signal.SIGINT)
    assert running.ended() == 128 + signal.SIGINT
    assert "left after 0 of 2 experiments; jobs carry on" in running.text()
    looked = vitlora(project, "experiments", "status", env=cluster.env).stdout
    assert "2 queued; no runner is at work, and jobs carry on without it" in " ".join(looked.split())
    assert "(JobHeldUser)" in looked
    here = vitlora(project, "experiments", "run", "-S", "lora.r=2,4", env=cluster.env)
    assert "2 experiments of it are with SLURM; go on with --engine slurm, or first" in here.stderr
    stopped = vitlora(project, "experiments", "stop", env=cluster.env)
    assert stopped.stdout.endswith("sweep: stopped; 2 stopped; the same command goes on\n"), stopped.stdout
    assert [state for _, state in cluster.jobs()[-2:]] == ["CANCELLED"] * 2


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("--partition=nix", "error: sbatch: error: invalid partition specified: nix"),
        ("--gres=gpu:3", "Requested node configuration is not available"),
        ("--nonsense=1", "unrecognized option '--nonsense=1'"),
    ],
)
def test_what_sbatch_refuses_is_said_in_its_words(project, cluster, word, said):
    refused = vitlora(project, *RUN, "-S", "lora.r=2,4", f"--sbatch={word}", env=cluster.env)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert refused.stderr.endswith("nothing is lost; the same command goes on\n")
    assert [one.state for one in members(project)] == ["waiting"] * 2


# --- longer ---

LONG = ("-S", "lora.r=4", "-S", "train.num_train_epochs=60")


def checkpoint(root):
    return list((root / FOLDER / "checkpoints/000").glob("*/0*"))


@pytest.mark.faults
def test_a_job_put_back_into_the_queue_goes_on(project, cluster):
    running = Running(project, *VERB, *RUN, *LONG, env=cluster.env)
    assert running.wait_for(lambda: checkpoint(project))
    cluster.ask("scontrol", "requeue", members(project)[0].job)
    assert running.ended(300) == 0, running.text()
    assert "resuming after step" in log(project)
    (one,) = members(project)
    assert one.tries == 1, "it was the same job"


@pytest.mark.faults
def test_a_training_is_kept_before_the_time_limit_and_goes_on_by_itself(project, cluster):
    """Nobody watches: the signal comes two to three minutes before the limit of three."""
    words = (*RUN, "-S", "lora.r=4", "-S", "train.num_train_epochs=1500", "--sbatch=--time=3")
    running = Running(project, *VERB, *words, env=cluster.env)
    assert running.wait_for_text("sweep-000  job")
    running.send(signal.SIGKILL)
    running.process.wait()
    deadline = time.monotonic() + 300
    while "resuming after step" not in log(project):
        assert time.monotonic() < deadline, log(project)
        time.sleep(0.5)
    assert '"warned": true' in (project / FOLDER / "000.json").read_text()
    looked = vitlora(project, "experiments", "status", env=cluster.env).stdout
    assert re.search(r"sweep-000 +train, step \d+ of", looked), looked
    stopped = vitlora(project, "experiments", "stop", env=cluster.env)
    assert stopped.stdout.endswith("sweep: stopped; 1 stopped; the same command goes on\n"), stopped.stdout
    assert checkpoint(project)


@pytest.mark.faults
def test_a_job_that_is_killed_is_submitted_again_and_goes_on(project, cluster):
    running = Running(project, *VERB, *RUN, *LONG, env=cluster.env)
    assert running.wait_for(lambda: checkpoint(project))
    (script,) = [pid for pid, line in processes(project).items() if "slurm.job" in line]
    os.kill(script, signal.SIGKILL)
    assert running.wait_for_text("sweep-000  lost; begins again")
    assert running.ended(300) == 0, running.text()
    assert "resuming after step" in log(project)


@pytest.mark.faults
def test_a_job_cancelled_by_hand_stays_so_until_the_same_command(project, cluster):
    running = Running(project, *VERB, *RUN, *LONG, env=cluster.env)
    assert running.wait_for(lambda: checkpoint(project))
    cluster.ask("scancel", members(project)[0].job)
    assert running.ended() == 1
    assert "1 job cancelled with scancel" in running.text()
    done = vitlora(project, *RUN, *LONG, env=cluster.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in log(project)


@pytest.mark.faults
def test_retry_submits_what_failed_as_the_sweep_was_submitted(project, cluster):
    words = ("-S", "lora.layers_to_transform=[5],[1]", "--sbatch=--gres=gpu:2")
    done = vitlora(project, *RUN, *words, env=cluster.env)
    assert done.returncode == 1
    assert re.search(r"^sweep-000  failed: lora.layers_to_transform: got 5", done.stdout, re.MULTILINE)
    again = vitlora(project, "experiments", "retry", env=cluster.env)
    assert again.returncode == 1
    assert "2 experiments as jobs of SLURM (--gres=gpu:2) from" in again.stdout
    assert again.stdout.count("sweep-000  job ") == 1
    assert {one.device for one in members(project)} == {f"{cluster.host} GPU 0,1"}


# --- digits: eight experiments on two devices, with and without kills of the runner ---

KILLED = "--engine slurm, 8 experiments on two GPUs: kill -9 of the runner, a job or a process of one, 8 in all"
GRID = ("-S", "lora.r=4,8", "-S", "train.seed=0,1,2,3")


def make_quiet(root):
    """Run the sweep on this machine, beside a copy of the project as it was before."""
    make_digits(root, SMALL)
    shutil.copytree(root, root.parent / "before", symlinks=True)
    done = tiny.run(root, *VERB, "experiments", "run", *GRID, "--jobs", "2", env={"PYTHONPATH": "src"}, timeout=3600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def quiet(tmp_path_factory):
    return once(tmp_path_factory, "eight", make_quiet)


def kill_one(root, running, command, env, draw):
    """Kill the runner and begin another, or a job or a process of one; return the runner."""
    below = [pid for pid, line in processes(root).items() if re.search(r"slurm\.job|dvc_command|stages\.", line)]
    if below and draw.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(below), signal.SIGKILL)
        return running
    running.send(signal.SIGKILL)
    running.process.wait()
    return Running(root, *command, env=env)


@pytest.mark.faults
@pytest.mark.parametrize("kills", [0, pytest.param(8, marks=pytest.mark.survives("E02", KILLED))])
def test_eight_jobs_share_two_devices_and_give_what_this_machine_gives(quiet, tmp_path, cluster, kills):
    root, draw = shutil.copytree(quiet.parent / "before", tmp_path / "slurm", symlinks=True), random.Random(0)
    command = (*VERB, *RUN, *GRID)
    running = Running(root, *command, env=cluster.env)
    for kill in range(kills):
        running.wait_for(lambda due=kill: sum(one.state == "done" for one in members(root)) >= due - 1, 600)
        running.wait_for(lambda: False, draw.uniform(1, 20))
        assert running.process.poll() is None, running.text()
        running = kill_one(root, running, command, cluster.env, draw)
    assert running.ended(1800) == 0, running.text()
    assert results(root) == results(quiet)
    assert len(results(root)) == 8
    assert tiny.git(root, "status", "--porcelain") == ""
    assert not [*(root / FOLDER).glob("tree-*"), *(root / FOLDER).glob("*.json"), *root.glob(f"{FOLDER}/checkpoints/*")]
    if not kills:
        never_shared(root, cluster)


def never_shared(root, cluster):
    """By what the jobs wrote down: from when to when, and on which device."""
    found = sorted(members(root), key=lambda one: one.began)
    assert {one.device for one in found} == {f"{cluster.host} GPU {number}" for number in (0, 1)}
    for device in {one.device for one in found}:
        own = [one for one in found if one.device == device]
        assert all(one.began + one.seconds <= after.began for one, after in itertools.pairwise(own))
