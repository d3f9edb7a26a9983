"""One runner at a time, and who it is."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from vitlora.core.errors import VitloraError
from vitlora.trials import lock
from vitlora.trials.lock import is_free, only_runner, runner


def test_a_second_runner_is_refused_while_the_first_or_its_child_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "LOCK_WAIT_S", 0.0)
    with only_runner(tmp_path / "s", "search") as handle:
        with (
            pytest.raises(VitloraError, match=r"already running here \(process \d+\); wait for it"),
            only_runner(tmp_path / "s", "search"),
        ):
            pass
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(handle,))
    with pytest.raises(VitloraError, match="already running"), only_runner(tmp_path / "s", "search"):
        pass
    child.communicate(b"\n")
    with only_runner(tmp_path / "s", "search"):
        pass


def test_the_runner_is_known_while_it_holds_the_lock_and_not_after(tmp_path):
    folder = tmp_path / "s"
    assert is_free(folder)
    assert runner(folder) is None
    with only_runner(folder, "sweep") as handle:
        assert not is_free(folder)
        assert runner(folder) == os.getpid()
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(handle,))
    assert not is_free(folder)  # a child of a runner that is gone
    assert runner(folder) is None
    child.communicate(b"\n")
    assert is_free(folder)
    with only_runner(folder, "sweep"):  # looking at it has locked nobody out
        assert runner(folder) == os.getpid()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(VitloraError, match="files can't be locked here: No locks available; the rule"),
        only_runner(tmp_path / "s", "sweep"),
    ):
        pass
