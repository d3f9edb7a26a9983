"""How a stage begins: imports without a search for garbage."""

import gc
import weakref

import pytest

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
