"""Imports what contestants need, where it is installed; nothing in it may touch a device."""

import contextlib
import importlib

from peers.forked import LIBRARIES

for library in LIBRARIES:
    with contextlib.suppress(ImportError):
        importlib.import_module(library)
