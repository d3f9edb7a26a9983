"""Bytes that take the process down that checks them; apart, so that such a process need not import any test."""

import os
import signal
import time

from vitlora.preprocess.stage import _check


def check(source, size, row):
    """Check a picture, but do what some bytes say to the process that does it."""
    if source[row] == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if source[row] == b"hang":
        time.sleep(60)
    return _check(source, size, row)
