"""Processes that share a stage's work: started on the devices, watched, and ended with one error and one exit code."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.processes import launch
from vitlora.processes.launch import LOST, launched, visible_devices

STUB = tiny.ROOT / "tests/support/stub_stage.py"
END_S = 30


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def begin(*told, count=3):
    """Start the stage, in a session of its own, as a shell does a job."""
    env = {**os.environ, "PYTHONPATH": str(tiny.ROOT / "src")}
    command = [sys.executable, str(STUB), str(count), *told]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, process_group=0)


def end(stage):
    """Wait until it has ended by itself; return its exit code, what it has printed, and that no process is left."""
    out, err = stage.communicate(timeout=END_S)
    assert not alive()
    assert not list(Path(".work/processes").iterdir())
    return stage.returncode, out, err


def alive(seconds=3.0):
    """Return which of the processes are still there after a while; it ends as soon as none is."""
    known = [int(path.read_text()) for path in Path().glob("*.pid")]
    processes = [psutil.Process(pid) for pid in known if psutil.pid_exists(pid)]
    return psutil.wait_procs(processes, seconds)[1]


def all_begun(stage, count=3):
    """Wait until all processes are at work."""
    while len(list(Path().glob("[0-9].pid"))) < count:
        assert stage.poll() is None


def test_the_first_of_the_processes_alone_prints():
    code, out, err = end(begin("all=done"))
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith("process")] == ["process 0 prints"]
    assert err == "process 0 warns\n"


WAYS = {
    "mistake": (1, "error: train.seed: got 7; the rule: another"),
    "bug": (1, "ValueError: a bug of ours"),
    "exits": (7, ""),
    "9": (
        137,
        "stub: process {} of 3 has been ended by signal 9 (Killed), and the others with it; `dvc repro` goes on",
    ),
    "11": (139, "stub: process {} of 3 has been ended by signal 11 (Segmentation fault), and the others with it; `dvc"),
}
QUICK = {("all", "mistake"), ("2", "9")}


@pytest.mark.parametrize(
    ("who", "way"),
    [
        pytest.param(who, way, marks=() if (who, way) in QUICK else pytest.mark.faults)
        for who in ("all", "0", "1", "2")
        for way in WAYS
    ],
)
def test_one_error_and_its_exit_code_come_out_and_the_others_are_ended(who, way):
    code, said = WAYS[way]
    got, _, err = end(begin(f"{who}={way}"))
    lines = [line for line in err.splitlines() if not line.endswith("warns")]
    assert got == code
    assert len(lines) == 1 or way in ("bug", "exits"), err
    assert err.count("Traceback") == (way == "bug")
    if way != "exits":
        names = {said.format(int(who) + 1)} if who != "all" else {said.format(number) for number in (1, 2, 3)}
        assert any(lines[-1].startswith(name) for name in names), err


@pytest.mark.faults
def test_who_has_lost_another_says_nothing_and_the_cause_comes_out():
    code, _, err = end(begin("0=lost", "1=lost", "2=after-0-mistake"))
    assert code == 1
    assert "lost" not in err
    assert err.endswith("error: train.seed: got 7; the rule: another\n")


@pytest.mark.faults
def test_what_others_have_started_is_ended_too():
    code, _, _ = end(begin("0=child", "1=after-child-mistake"))
    assert code == 1
    assert Path("child.pid").exists()


@pytest.mark.faults
def test_all_begin_again_with_fewer_images_at_once():
    code, out, _ = end(begin("0=after-1-done", "1=again", "2=after-1-done", "all=done"))
    assert code == 0
    assert out.count("note: out of GPU memory; once more, with at most 5 images at once") == 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.faults)]
)
def test_a_signal_reaches_all_of_them_and_they_stop_by_themselves(number, code):
    stage = begin("all=stops")
    all_begun(stage)
    stage.send_signal(number)
    got, _, err = end(stage)
    assert got == code
    assert err.count("stopped after step 3, which is kept") == 1


@pytest.mark.faults
def test_ctrl_c_of_a_whole_group_counts_once():
    stage = begin("all=stops")
    all_begun(stage)
    os.killpg(stage.pid, signal.SIGINT)
    got, _, err = end(stage)
    assert (got, err.count("stopped after")) == (130, 1)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, -signal.SIGTERM, ""), (signal.SIGINT, 130, "interrupted\n")]
)
def test_a_signal_before_they_work_ends_the_stage_as_it_ends_one_process(number, code, said):
    found = []
    for count in (1, 3):
        for path in Path().glob("*.pid"):
            path.unlink()
        stage = begin("all=wait", count=count)
        all_begun(stage, count)
        stage.send_signal(number)
        _, err = stage.communicate(timeout=END_S)
        assert not alive()
        found.append((stage.returncode, err.replace("process 0 warns\n", "")))
    assert found == [(code, said)] * 2


@pytest.mark.parametrize("count", [2, *[pytest.param(count, marks=pytest.mark.faults) for count in (3, 5, 8)]])
@pytest.mark.survives("F03", "the launcher of several processes killed at work: none of them lives on")
def test_no_process_outlives_its_launcher(count):
    stage = begin(count=count)
    all_begun(stage, count)
    stage.kill()
    stage.communicate(timeout=END_S)
    assert not alive()


@pytest.mark.faults
def test_a_process_that_is_stopped_does_not_outlive_its_launcher_either():
    stage = begin()
    all_begun(stage)
    os.kill(int(Path("1.pid").read_text()), signal.SIGSTOP)
    stage.kill()
    stage.communicate(timeout=END_S)
    assert not alive()


@pytest.fixture
def gpus(monkeypatch):
    """Let torch see so many GPUs, and nothing be started."""
    import torch

    def see(count):
        monkeypatch.setattr(launch, "_gpu_files", lambda: count)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        started = []
        monkeypatch.setattr(launch, "_work", lambda place, stage, command, devices: started.append((place, devices)))
        return started

    return see


@pytest.mark.parametrize(
    ("named", "count", "devices"),
    [
        (None, 0, []),
        (None, 1, ["0"]),
        (None, 3, ["0", "1", "2"]),
        ("", 0, []),
        ("5", 1, ["5"]),
        ("3, 1", 2, ["3", "1"]),
        ("GPU-8a,GPU-2b,GPU-77", 3, ["GPU-8a", "GPU-2b", "GPU-77"]),
        ("2,-1,0", 1, ["2"]),  # CUDA sees none behind a number that there is not
    ],
)
def test_devices_are_those_that_one_process_would_see(gpus, monkeypatch, named, count, devices):
    gpus(count)
    if named is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == devices


@pytest.mark.parametrize(
    ("seen", "wanted", "parts", "count"),
    [
        (0, "auto", None, None),
        (1, "auto", None, None),
        (4, 1, None, None),
        (4, "auto", None, 4),
        (4, "auto", 3, 3),
        (8, "auto", 1, None),
        (4, 2, 2, 2),
        (0, 3, 8, 3),
        (0, 2, None, 2),
    ],
)
def test_as_many_are_started_as_are_wanted_and_useful(gpus, seen, wanted, parts, count):
    started = gpus(seen)
    assert launched("train", wanted, {}, parts) == (count is not None)
    assert [place.count for place, _ in started] == ([count] if count else [])
    assert all(len(devices) == seen for _, devices in started)


@pytest.mark.parametrize(
    ("seen", "wanted", "parts", "said"),
    [
        (2, 4, None, "got 4, and 2 GPUs can be seen; the rule: at most one process a GPU; set it to auto"),
        (1, 2, 9, "got 2, and 1 GPU can be seen"),
        (0, 3, 2, "got 3; the rule: at most 2, the images of a step"),
        (8, 8, 4, "got 8; the rule: at most 4, the images of a step"),
    ],
)
def test_more_than_there_is_work_or_there_are_devices_for_is_refused(gpus, seen, wanted, parts, said):
    started = gpus(seen)
    with pytest.raises(VitloraError, match=said):
        launched("train", wanted, {}, parts, "the images of a step")
    assert not started


def test_each_process_gets_one_device_and_its_part_of_the_cores(monkeypatch):
    seen = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: seen.append(options["env"]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    place = launch.Place(0, 2, 1, str(Path.cwd()))
    for number in range(2):
        launch._start(launch.replace(place, number=number), [], ["GPU-8a", "3"])
    assert [env["CUDA_VISIBLE_DEVICES"] for env in seen] == ["GPU-8a", "3"]
    cores = len(os.sched_getaffinity(0))
    assert {env["OMP_NUM_THREADS"] for env in seen} == {str(max(1, cores // 2))}
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & set(seen[0]) - set(os.environ)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    launch._start(place, [], [])
    assert seen[-1]["OMP_NUM_THREADS"] == "5"


class Ended:
    """What `Popen` tells of a process that has ended."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


@pytest.mark.parametrize(
    ("codes", "first"), [([0, 0], None), ([0, 1], 1), ([LOST, -9], 1), ([LOST, LOST], 0), ([None, LOST, 3], 2)]
)
def test_the_cause_is_told_from_what_follows(monkeypatch, codes, first):
    monkeypatch.setattr(launch, "LOST_S", 0.0)
    assert launch._watch([Ended(code) for code in codes], []) == first
