"""A process of its own for what can't be trusted: whatever an item does, it costs that item only."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from vitlora.images.formats import BadImageError
from vitlora.images.sandbox import MEMORY, Isolated

ROOT = Path(__file__).parents[2]


def act(what):
    """Do as an item says."""
    if what == "hang":
        while True:
            pass
    if what == "sleep":
        time.sleep(60)
    if what == "swell":
        return len(bytearray(3 * MEMORY))
    if what == "refuse":
        raise BadImageError("truncated", "cut")
    if what == "mistake":
        raise KeyError("no such thing")
    if what == "leave":
        os._exit(3)
    if what in ("SIGSEGV", "SIGKILL"):
        os.kill(os.getpid(), signal.Signals[what])
    return what


def reasons(items, **options):
    with Isolated(**options) as children:
        answers = children.map(act, items, chunk=4)
        return [answer.reason if isinstance(answer, BadImageError) else answer for answer in answers]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("hang", "timeout"),
        ("sleep", "timeout"),
        ("swell", "bomb"),
        ("refuse", "truncated"),
        ("SIGSEGV", "corrupt"),
        ("SIGKILL", "bomb"),
    ],
)
def test_whatever_an_item_does_costs_that_item_only(what, reason):
    assert reasons([1, 2, what, 3, 4, 5, 6], limit_s=0.5) == [1, 2, reason, 3, 4, 5, 6]


@pytest.mark.slow
def test_many_that_die_in_many_processes_leave_the_others_in_order():
    items = ["SIGSEGV" if number % 7 == 3 else number for number in range(60)]
    assert reasons(items, workers=3) == ["corrupt" if number % 7 == 3 else number for number in range(60)]


def test_a_process_serves_one_map_after_another():
    with Isolated() as child:
        assert list(child.map(act, [1, 2])) == [1, 2]
        assert list(child.map(partial(pow, 2), [3, 4])) == [8, 16]
        assert child.call(act, 5) == 5
        with pytest.raises(BadImageError, match=r"its decoder crashed \(SIGSEGV\)"):
            child.call(act, "SIGSEGV")
        assert child.call(act, 6) == 6


def test_no_items_are_no_answers():
    assert reasons([]) == []


def test_items_are_read_no_further_than_the_process_has_got():
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    with Isolated() as child:
        answers = child.map(act, items())
        assert [next(answers) for _ in range(3)] == [0, 1, 2]
        assert len(read) == 3


@pytest.mark.parametrize(("what", "text"), [("mistake", "KeyError: 'no such thing'"), ("leave", "exit code 3")])
def test_our_own_mistakes_are_raised(what, text):
    with pytest.raises(RuntimeError, match=text):
        reasons([1, what])


@pytest.mark.skipif(sys.platform != "linux", reason="looks in /proc")
def test_a_child_ends_with_a_parent_that_is_killed():
    script = (
        "import os, sys, time; from vitlora.images.sandbox import Isolated; child = Isolated(); child.call(abs, -1)"
    )
    script += "; print(child.children[0].process.pid, flush=True); time.sleep(60)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment, text=True) as parent:
        child = Path(f"/proc/{int(parent.stdout.readline())}")
        assert child.exists()
        parent.kill()
    deadline = time.monotonic() + 5
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not child.exists() or "\nState:\tZ" in (child / "status").read_text()
