"""The end of a process that has done its work: at once, as taking torch apart can last seconds."""

import atexit
import os
import sys


def ends_at_once() -> list[bool]:
    """Let this process end without taking apart what it holds, once there is anything in the list that is returned.

    Call it before torch is imported: the last handler that is registered runs first, so torch's own run before.
    """
    done: list[bool] = []
    atexit.register(_end, done)
    return done


def _end(done: list[bool]) -> None:
    if done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
