"""A run of the pipeline, followed and judged by what it leaves, without a project."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from vitlora.trials import child
from vitlora.trials.child import AGAIN, DONE, FAILED, FULL, STOPPED, Child, first_error, kills_for_memory, live


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Running stage 'train':\nerror: lora.r: too large\nerror: more\nERROR: failed: x\n", "lora.r: too large"),
        ("a\nTraceback (most recent call last):\n  File x\nRuntimeError: bad\nERROR: failed\n", "RuntimeError: bad"),
        ("torch.OutOfMemoryError: CUDA out of memory\nERROR: failed\n", "ERROR: failed"),
        ("ERROR: failed to reproduce 'train': its error stands above\n", "failed to reproduce 'train': its error"),
        ("this\nand that\n\n", "and that"),
        ("", "it said nothing"),
    ],
)
def test_the_first_error_of_a_trial_is_found(text, error):
    assert first_error(text).removeprefix("ERROR: ").startswith(error.removeprefix("ERROR: "))


@pytest.mark.parametrize("text", ["", '{"step": 1}\n', '{"step": 1}\n{"st', '{"step": 1}\n{"step": 2}\n{"step": 3}'])
def test_of_a_live_log_only_whole_lines_are_read(tmp_path, text):
    (tmp_path / "train.jsonl").write_text(text)
    assert live(tmp_path / "train.jsonl") == [{"step": number + 1} for number in range(text.count("\n"))]
    assert live(tmp_path / "none") == []


# --- how it ended ---

KILL = "kill -9 $$"
TRAIN = "echo \"Running stage 'train':\"; "


@dataclass
class Clone:
    """A clone that counts how often it was made anew."""

    project: Path
    made: int = 0

    def renew(self, values, checkpoints):
        self.made += 1
        checkpoints.mkdir(parents=True, exist_ok=True)


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begin a child whose pipeline is a line of shell; return it."""

    def launch(command, one):
        assert command[-5:] == ["--name", "s-003", "-S", "lora.r=4", "train"]
        with one.log.open("wb") as file:
            return subprocess.Popen(["sh", "-c", one.document["line"]], stdout=file, stderr=subprocess.STDOUT)

    def start(line):
        one = Child(Clone(tmp_path), tmp_path, "s-003", 3, {"lora.r": 4}, {"line": line}, ("train",))
        one.start()
        return one

    monkeypatch.setattr(child, "launch", launch)
    return start


@pytest.mark.parametrize(
    ("line", "kind", "error"),
    [
        ("exit 0", DONE, ""),
        ("echo killed by signal; exit 0", DONE, ""),
        ("echo 'error: lora.r: too large'; echo 'ERROR: failed'; exit 255", FAILED, "lora.r: too large"),
        ("exit 3", FAILED, "it said nothing"),
        ("echo 'error: train: disk full at x'; exit 1", FULL, "train: disk full at x"),
        ("echo 'error: quota reached at x'; exit 1", FULL, "quota reached at x"),
        (KILL, AGAIN, ""),
        ("kill -15 $$", AGAIN, ""),
        ("echo \"ERROR: failed to reproduce 'train': killed, as where memory runs out\"; exit 255", AGAIN, ""),
        ("echo 'error: a loader worker ended with exit code -9 (SIGKILL), though'; exit 1", AGAIN, ""),
        ("echo 'error: x.png: the system killed its decoder, most likely'; exit 1", AGAIN, ""),
        ("echo \"ERROR: Cmd('git') failed due to: exit code(-9)\"; exit 255", AGAIN, ""),
    ],
)
def test_an_end_is_told_from_a_kill(begin, line, kind, error):
    one = begin(line)
    one.process.wait()
    assert one.is_over()
    assert one.settle(halted=False) == (kind, error)
    assert one.tree.made == (2 if kind == AGAIN else 1)
    one.process.wait()


@pytest.mark.parametrize("line", [KILL, "exit 1", "echo 'error: disk full at x'; exit 1", "exit 143"])
def test_what_was_asked_to_stop_has_not_failed(begin, line):
    one = begin(line)
    one.process.wait()
    assert one.settle(halted=True).kind == STOPPED
    assert one.tree.made == 1


def test_it_is_asked_to_stop_once(begin):
    one = begin("trap 'echo asked; kill -9 $waiting; exit 143' TERM; sleep 60 & waiting=$!; echo ready; wait")
    while "ready" not in one.log.read_text():
        pass
    for _ in range(3):
        one.stop()
    assert one.process.wait() == 143
    assert one.log.read_text() == "ready\nasked\n"


def until_it_fails(one, limit=99):
    for number in range(1, limit):
        one.process.wait()
        ending = one.settle(halted=False)
        if ending.kind == FAILED:
            return number, ending.error
    return limit, ""


@pytest.mark.parametrize(
    ("vmstat", "tries", "error"),
    [
        ("nr_free_pages 7\noom_kill 3\n", child.PATIENCE, f"killed {child.PATIENCE} times"),
        ("nr_free_pages 7\n", child.TRIES, f"killed {child.TRIES} times, as where memory runs out"),
        (None, child.TRIES, f"killed {child.TRIES} times, as where memory runs out"),
    ],
)
def test_one_that_never_gets_further_has_failed_at_last(begin, monkeypatch, tmp_path, vmstat, tries, error):
    monkeypatch.setattr(child, "VMSTAT", tmp_path / "vmstat")
    if vmstat:
        (tmp_path / "vmstat").write_text(vmstat)
    assert until_it_fails(begin(TRAIN + KILL)) == (tries, error)


def test_one_that_memory_ends_fails_soon(begin, monkeypatch, tmp_path):
    monkeypatch.setattr(child, "VMSTAT", tmp_path / "vmstat")
    (tmp_path / "vmstat").write_text("oom_kill 1000\n")
    file = tmp_path / "vmstat"
    count = f"n=$(cut -d ' ' -f 2 {file}); echo \"oom_kill $((n + 1))\" > {file}.new; mv {file}.new {file}; "
    assert until_it_fails(begin(TRAIN + count + KILL)) == (4, "killed 4 times, as where memory runs out")
    assert kills_for_memory() == 1004


def test_one_that_gets_further_each_time_is_begun_as_often_as_it_takes(begin, monkeypatch, tmp_path):
    monkeypatch.setattr(child, "VMSTAT", tmp_path / "none")
    place = tmp_path / "checkpoints/003/run"
    further = f"mkdir -p {place}; n=$(ls {place} | wc -l); mkdir {place}/$(printf %09d $n); [ $n -gt 12 ] && exit 0; "
    one = begin(TRAIN + further + KILL)
    ends = []
    while DONE not in ends:
        one.process.wait()
        ends.append(one.settle(halted=False).kind)
    assert ends == [AGAIN] * 13 + [DONE]
    one.forget()
    assert not place.exists()


def test_this_machine_says_how_often_memory_ran_out_or_does_not():
    known = Path("/proc/vmstat").is_file() and "oom_kill" in Path("/proc/vmstat").read_text()
    assert (kills_for_memory() is not None) == known
