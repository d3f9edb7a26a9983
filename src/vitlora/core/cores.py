"""How many cores this process may use."""

import os
from contextlib import suppress
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # what a container may use: microseconds in a period, or max


def cores() -> int:
    """Return how many cores this process may use: a cluster's job or a container may have fewer than the machine."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):
        used, period = QUOTA.read_text(encoding="ascii").split()
        allowed = min(allowed, max(1, round(int(used) / int(period))))
    return allowed
