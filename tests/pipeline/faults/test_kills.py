"""Killed at any moment, asked to stop, or left alone by dvc: one plain `dvc repro` gives the same bytes."""

import random
import re
import signal
import sys
import time

import pytest
import tiny
from faults.harness import (
    NO_ORPHAN_S,
    REPRO,
    STAGES,
    VERB,
    Running,
    copy_without,
    heal_and_compare,
    processes,
    progress,
    quick_only,
    repro,
    same,
    seconds,
    start_stage,
    tries,
    wait_until_none,
    whole,
)

KILLS, ORPHANS, STOPS = 40, 50, 10
FAULTPOINTS = ("start", "worked", "manifest", "synced", "moved", "done")
CHECKPOINTS = ("checkpoint-written", "checkpoint-synced", "checkpoint-moved")


def points():
    """Every faultpoint of every stage."""
    return [(stage, name) for stage in STAGES for name in FAULTPOINTS] + [("train", name) for name in CHECKPOINTS]


def at_a_random_time(running, golden, stage, draw):
    """Wait until some moment within the stage, dvc's own recording included; return whether that was met."""
    if not running.wait_for_text(f"Running stage '{stage}'"):
        return False
    time.sleep(draw.random() * seconds(golden, stage))
    return running.process.poll() is None


def kill_within(golden, root, stage, draw, kill):
    """Start a stage in a fresh copy and kill it within; draw again where it was over before."""
    for attempt in range(5):
        here = copy_without(golden, root / str(attempt), stage)
        running = Running(here, *REPRO, stage)
        if at_a_random_time(running, golden, stage, draw):
            found = progress(here, stage)
            kill(running)
            return here, running, found
        running.ended()
    raise AssertionError(f"{stage} was over before the kill, five times")


@pytest.mark.survives("F01", "kill -9 of dvc and its stage at a random moment, 40 a stage")
@pytest.mark.parametrize("number", tries(KILLS))
@pytest.mark.parametrize("stage", quick_only(STAGES, "preprocess"))
def test_a_kill_at_any_moment_costs_one_repro(finished_run, scratch, note, stage, number):
    draw = random.Random(f"{stage} {number}")
    root, _, found = kill_within(finished_run, scratch, stage, draw, Running.kill_group)
    note(found)
    heal_and_compare(root, finished_run, stage, whole(number))


@pytest.mark.survives("F01", "kill -9 amid the steps of a longer training")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(20))
def test_a_kill_amid_training_costs_one_repro(long_run, scratch, note, number):
    root = copy_without(long_run, scratch / "project", "train")
    running = Running(root, *REPRO, "train")
    saves = random.Random(number).randrange(1, 48)
    assert running.wait_for(lambda: newest_step(root) >= saves), running.text()
    assert running.kill_group()
    note(f"step {newest_step(root) // 12 * 12 + 1:02d} to {newest_step(root) // 12 * 12 + 12:02d}")
    heal_and_compare(root, long_run, "train", whole(number))


def newest_step(root):
    return max((int(path.name) for path in (root / ".work/checkpoints").glob("*/[0-9]*")), default=0)


@pytest.mark.survives("F02", "power cut at every faultpoint of every stage and of a checkpoint")
@pytest.mark.faults
@pytest.mark.parametrize(("stage", "name"), points())
def test_a_cut_at_a_faultpoint_costs_one_repro(finished_run, scratch, stage, name):
    root = copy_without(finished_run, scratch / "project", stage)
    running = Running(root, *REPRO, stage, env={"FAULTPOINT": name})
    assert running.ended() != 0, "the faultpoint was not met"
    heal_and_compare(root, finished_run, stage, to_the_end=False)


DVCS_OWN = ("rwlock begun", "rwlock aside", "dvc.lock begun", "dvc.lock aside")


@pytest.mark.survives("F02", "power cuts in a row, each a step later, in a stage and in dvc's record of it")
def test_cuts_at_one_point_after_another_cost_one_repro(finished_run, scratch):
    """Each repro goes on from what the cuts before have left, up to its own; the last goes through."""
    root = copy_without(finished_run, scratch / "project", "preprocess")
    for name in (*DVCS_OWN[:2], *FAULTPOINTS, *DVCS_OWN[2:]):
        running = Running(root, *REPRO, "preprocess", env={"FAULTPOINT": name})
        assert running.ended() == (255 if name in FAULTPOINTS else 137), f"{name} was not met: {running.text()}"
    heal_and_compare(root, finished_run, "preprocess", to_the_end=False)


@pytest.mark.survives("F02", "power cut while dvc writes dvc.lock or its rwlock")
@pytest.mark.faults
@pytest.mark.parametrize("name", DVCS_OWN)
def test_a_cut_within_dvcs_own_files_costs_one_repro(finished_run, scratch, name):
    root = copy_without(finished_run, scratch / "project", "preprocess")
    running = Running(root, *REPRO, "preprocess", env={"FAULTPOINT": name})
    assert running.ended() == 137, running.text()
    heal_and_compare(root, finished_run, "preprocess", to_the_end=False)


def left_alone(golden, scratch, number, signum):
    """Kill dvc alone within some stage; nothing may be at work two seconds later."""
    stage, draw = STAGES[number % 5], random.Random(f"{signum} {number}")
    root, running, found = kill_within(golden, scratch, stage, draw, lambda running: running.send(signum))
    running.process.wait()
    left = wait_until_none(root)
    assert not left, f"{stage} {found}: after {NO_ORPHAN_S} s still at work: {left}"
    return root, stage, found


@pytest.mark.survives("F03", "kill -9 of dvc alone: no process left after 2 s; a fifth of the tries also repro")
@pytest.mark.parametrize("number", tries(ORPHANS))
def test_a_stage_ends_soon_after_its_dvc(finished_run, scratch, note, number):
    root, stage, found = left_alone(finished_run, scratch, number, signal.SIGKILL)
    note(found)
    if number % 6 == 5:
        heal_and_compare(root, finished_run, stage, to_the_end=False)


@pytest.mark.survives("F04", "SIGTERM to dvc alone: no process left after 2 s, then repro")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(STOPS))
def test_a_stage_ends_soon_after_its_dvc_was_asked_to(finished_run, scratch, note, number):
    root, stage, found = left_alone(finished_run, scratch, number, signal.SIGTERM)
    note(found)
    heal_and_compare(root, finished_run, stage, to_the_end=False)


@pytest.mark.survives("F05", "Ctrl-C (SIGINT to the whole group) at a random moment")
@pytest.mark.parametrize("number", tries(20))
def test_control_c_is_safe(finished_run, scratch, note, number):
    stage, draw = STAGES[number % 5], random.Random(f"int {number}")
    root, running, found = kill_within(
        finished_run, scratch, stage, draw, lambda running: running.send_group(signal.SIGINT)
    )
    code, text = running.ended(), running.text()
    note(f"{found}, exit {code}")
    # 252 is how dvc says that it was interrupted. While it still imports, or leaves, nobody catches the signal, and
    # Python shows where it was and dies of it, which a shell calls 130; our stage's own frames may not be among that.
    # Nor any library's, if dvc lived to report it: then only a stage's Python can have been starting.
    assert code in (0, 130, 252, 255, -signal.SIGINT)
    assert "Traceback" not in text or code in (0, -signal.SIGINT) or not re.search(r'File ".*/site-packages/', text), (
        text
    )
    assert code == 0 or not re.search(r'File ".*/(src/vitlora|stages)/', text), text
    assert not wait_until_none(root)
    heal_and_compare(root, finished_run, stage, to_the_end=False)


def interrupted_within(root, seam, *args):
    """Run the wrapper with Ctrl-C in the middle of something: code that puts ``interrupt`` there."""
    code = """if True:
        import runpy, signal, sys
        def interrupt(*_, **__):
            signal.raise_signal(signal.SIGINT)
        %s
        sys.argv = ["dvc", *sys.argv[1:]]
        runpy.run_module("vitlora.safety.dvc_command", run_name="__main__")
    """
    return tiny.run(root, sys.executable, "-c", code % seam, *args, env={"PYTHONPATH": "src"})


@pytest.mark.survives("F05", "Ctrl-C while dvc makes a progress bar: a line, no traceback")
def test_control_c_within_a_progress_bar_is_a_line(finished_run):
    done = interrupted_within(finished_run, "import tqdm; tqdm.tqdm.__init__ = interrupt", "status")
    assert (done.returncode, done.stderr) == (252, "ERROR: interrupted by the user\n")


@pytest.mark.survives("F05", "Ctrl-C while dvc writes its run cache, no entry yet, or one cut at each tenth")
@pytest.mark.parametrize("number", tries(10))
def test_control_c_within_the_run_cache_costs_one_repro(finished_run, scratch, number):
    root, tenths = copy_without(finished_run, scratch / "project", "preprocess"), 7 * number % 10
    seam = f"""
        import pathlib, dvc.utils.serialize as serialize
        def cut(path, data):
            text = serialize.dumps_yaml(data)
            {tenths} and pathlib.Path(path).write_text(text[: len(text) * {tenths} // 10])
            interrupt()
        serialize.dump_yaml = cut
    """
    done = interrupted_within(root, seam, "repro", "preprocess")
    assert done.returncode == 252, done.stderr
    heal_and_compare(root, finished_run, "preprocess", to_the_end=False)


@pytest.mark.survives("F05", "SIGINT to dvc alone")
@pytest.mark.faults
@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_to_dvc_alone_is_safe(finished_run, scratch, stage):
    draw = random.Random(f"int alone {stage}")
    root, running, _ = kill_within(finished_run, scratch, stage, draw, lambda running: running.send(signal.SIGINT))
    assert running.ended() in (0, 130, 252, 255, -signal.SIGINT)  # the last: while Python starts
    assert not wait_until_none(root)
    heal_and_compare(root, finished_run, stage, to_the_end=False)


@pytest.mark.survives("F06", "SIGTERM to the train stage: exit 143, one line, goes on where it stopped")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(STOPS))
def test_train_stops_politely_and_goes_on(long_training, scratch, note, number):
    root = copy_without(long_training, scratch / "project", "train")
    running = start_stage(root, "train")
    saves = 1 + 4 * number
    assert running.wait_for(lambda: newest_step(root) >= saves), running.text()
    running.send(signal.SIGTERM)
    assert running.ended(limit=30) == 128 + signal.SIGTERM
    (step,) = map(int, re.findall(r"stopped after step (\d+), which is kept; `dvc repro` goes on\n", running.text()))
    note(f"step {step}")
    resumed = Running(root, *REPRO, "train")
    assert resumed.ended() == 0
    assert f"resuming after step {step}" in resumed.text()
    same(root, long_training, "train")


RUNNERS = {"dvc repro": REPRO, "vitlora run": (*VERB, "run")}
ENDS = [  # the first two are quick: what a container does, and a batch system
    ("dvc repro", signal.SIGTERM, False),
    ("vitlora run", signal.SIGTERM, True),
    ("dvc repro", signal.SIGTERM, True),
    ("vitlora run", signal.SIGTERM, False),
    ("dvc repro", signal.SIGINT, True),
    ("vitlora run", signal.SIGINT, True),
]
# dvc runs a stage in $SHELL, which containers and CI leave unset; sh, unlike bash, would stay and end of the signal
STOPPED = [(shell, *end) for shell in ("/bin/sh", "/bin/bash") for end in ENDS]


@pytest.mark.survives("F06", "SIGTERM or Ctrl-C to dvc, vitlora run or all while training: kept, goes on, same bytes")
@pytest.mark.parametrize("case", tries(len(STOPPED)))
def test_a_stop_keeps_what_is_trained(long_training, scratch, case):
    shell, runner, number, everyone = STOPPED[case]
    root = copy_without(long_training, scratch / "project", "train")
    running = Running(root, *RUNNERS[runner], "train", env={"PYTHONPATH": "src", "SHELL": shell})
    assert running.wait_for(lambda: newest_step(root) >= 5), running.text()
    (running.send_group if everyone else running.send)(number)
    assert running.ended(limit=30) == 255, running.text()
    (step,) = map(int, re.findall(r"stopped after step (\d+), which is kept; `dvc repro` goes on\n", running.text()))
    assert "Traceback" not in running.text()
    resumed = Running(root, *REPRO, "train")
    assert resumed.ended() == 0, resumed.text()
    assert f"resuming after step {step}" in resumed.text()
    same(root, long_training, "train")


@pytest.mark.survives("F06", "SIGTERM to any stage at a random moment: ends within 30 s, non-zero")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(STOPS))
def test_a_stage_that_is_asked_to_stop_ends(finished_run, scratch, number):
    stage = STAGES[number % 5]
    root = copy_without(finished_run, scratch / "project", stage)
    running = start_stage(root, stage)
    time.sleep(random.Random(f"term {number}").random() * seconds(finished_run, stage) * 0.6)
    running.send(signal.SIGTERM)
    assert running.ended(limit=30) != 0
    assert not wait_until_none(root)
    heal_and_compare(root, finished_run, stage, to_the_end=False)


@pytest.mark.survives("F07", "train killed again and again: goes on from the newest checkpoint, loses at most a step")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(3))
def test_train_killed_again_and_again_loses_at_most_an_interval(long_training, scratch, number):
    root = copy_without(long_training, scratch / "project", "train")
    draw, reached = random.Random(f"again {number}"), 0
    for _ in range(4):
        running, goal = Running(root, *REPRO, "train"), reached + draw.randrange(2, 9)
        assert running.wait_for(lambda goal=goal: newest_step(root) >= goal), running.text()
        assert running.kill_group()
        resumed = re.findall(r"resuming after step (\d+)", running.text())
        assert resumed == ([str(reached)] if reached else [])
        reached = newest_step(root)
    repro(root, "train")
    same(root, long_training, "train")


@pytest.mark.survives("F03", "kill -9 of dvc before its stage could look who its parent is")
@pytest.mark.parametrize("number", tries(10))
def test_a_stage_whose_dvc_was_gone_before_it_looked_ends_too(finished_run, scratch, number):
    stage = STAGES[number % 5]
    root = copy_without(finished_run, scratch / "project", stage)
    running = Running(root, *REPRO, stage)
    assert running.wait_for(lambda: any(f"-m stages.{stage}" in line for line in processes(root).values()))
    time.sleep(0.02 * number)
    running.send(signal.SIGKILL)
    running.process.wait()
    assert not wait_until_none(root)
    assert not (root / ".work" / stage / "out").exists()
