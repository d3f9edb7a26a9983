"""How a stage begins: imports without a search for garbage, and threads that don't wait for long at full speed."""

import gc
import os
import subprocess
import sys
import weakref

import pytest
import tiny

from vitlora.core.entry import importing


class Knot:
    """An object that only a search for garbage takes away."""

    def __init__(self):
        self.own = self


def tied():
    return weakref.ref(Knot())


def test_imports_run_without_a_search_for_garbage_and_what_comes_after_with_one():
    try:
        with importing():
            assert not gc.isenabled()
        assert gc.isenabled()
        after = tied()
        gc.collect()
        assert after() is None
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("error", [ImportError, KeyboardInterrupt, SystemExit])
def test_an_import_that_fails_leaves_the_search_on(error):
    try:
        with pytest.raises(error), importing():
            raise error
        assert gc.isenabled()
    finally:
        gc.unfreeze()


def waits(**given):
    """Return what a process of ours that was begun with these variables sets for its threads."""
    code = "import os; from vitlora.core.entry import run; run(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    env["PYTHONPATH"] = str(tiny.ROOT / "src")
    return subprocess.check_output([sys.executable, "-c", code], env={**env, **given}, text=True).strip()


def test_threads_wait_a_short_while_at_full_speed_unless_the_user_has_said_how_long():
    assert waits() == "3000"
    assert waits(GOMP_SPINCOUNT="7") == "7"
    assert waits(OMP_WAIT_POLICY="active") == "None"
    assert waits(OMP_WAIT_POLICY="PASSIVE") == "None"
