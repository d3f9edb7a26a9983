"""What runs at once have to themselves."""

import subprocess
import sys

import pytest

from vitlora.core.errors import VitloraError
from vitlora.trials import lock
from vitlora.trials.devices import gpus, slots, taken


@pytest.mark.parametrize(
    ("visible", "jobs", "expected"),
    [
        ("0,1,2", 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-8f,GPU-9e,GPU-a1", 3, ["GPU-8f", "GPU-9e", "GPU-a1"]),
    ],
)
def test_trials_at_once_have_a_gpu_each(monkeypatch, visible, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots(jobs) == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]
    assert slots(1) == [{}]


@pytest.mark.parametrize(
    ("jobs", "said"), [(3, "one GPU each, and there are 2: 4,7"), (0, "at least 1"), (-2, "at least 1")]
)
def test_more_at_once_than_there_are_gpus_is_refused(monkeypatch, jobs, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(VitloraError, match=f"--jobs: got {jobs}; the rule: {said}"):
        slots(jobs)


def test_without_a_gpu_trials_share_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("vitlora.trials.devices.cores", lambda: 8)
    assert slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert gpus() == []


# --- taken by one runner ---


@pytest.fixture
def four(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,GPU-8f/2,3")
    monkeypatch.setattr(lock, "LOCK_WAIT_S", 0.0)


def devices(found):
    return [slot.env["CUDA_VISIBLE_DEVICES"] for slot in found]


def test_two_runners_never_have_the_same_gpu(four):
    with taken(1, "first") as one, taken(2, "second") as two:
        assert (devices(one), devices(two)) == (["0"], ["1", "GPU-8f/2"])
        assert [slot.device for slot in two] == ["GPU 1", "GPU GPU-8f/2"]
        with taken(None, "third") as rest:
            assert devices(rest) == ["3"]
            for jobs in (1, None):
                with (
                    pytest.raises(VitloraError, match=r"0 of 4 GPUs are free, and 1 is asked for; taken: 0 by fi"),
                    taken(jobs, "fourth"),
                ):
                    pass
        with pytest.raises(VitloraError, match=r"1 of 4 GPUs are free, and 2 is asked for"), taken(2, "fourth"):
            pass
        with taken(1, "fewer"):  # the cure
            pass
    with taken(None, "all") as every:
        assert devices(every) == ["0", "1", "GPU-8f/2", "3"]


def test_a_gpu_is_free_once_the_last_child_has_left(four):
    with taken(1, "first") as (slot,):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=slot.handles)
    with taken(None, "second") as rest:
        assert devices(rest) == ["1", "GPU-8f/2", "3"]
    child.communicate(b"\n")
    with taken(None, "third") as every:
        assert len(every) == 4


@pytest.mark.parametrize(
    ("jobs", "said"), [(5, "one GPU each, and there are 4"), (0, "at least 1"), (-1, "at least 1")]
)
def test_more_than_there_are_is_refused(four, jobs, said):
    with pytest.raises(VitloraError, match=f"--jobs: got {jobs}; the rule: {said}"), taken(jobs, "first"):
        pass


@pytest.mark.parametrize(("jobs", "threads"), [(None, [None]), (1, [None]), (2, ["4", "4"]), (3, ["2"] * 3)])
def test_without_a_gpu_nothing_is_locked_and_runners_share_the_cores(tmp_path, monkeypatch, jobs, threads):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("vitlora.trials.devices.cores", lambda: 8)
    with taken(jobs, "first") as one, taken(jobs, "second") as two:
        assert [slot.env.get("OMP_NUM_THREADS") for slot in one] == threads
        assert one == two
        assert {slot.device for slot in one} == {"CPU"}
