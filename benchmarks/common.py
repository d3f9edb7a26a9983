"""What stands beside every measured figure: device, processor, versions and commit; and how far two means differ."""

import os
import platform
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("torch", "torchvision", "transformers", "peft", "accelerate", "timm", "datasets", "pillow", "simplejpeg")


def host() -> dict:
    """Return where this runs and with what; a package that is not there stands as None."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "device": device,
        "cpu": cpu_model(),
        "cpus": cores(),
        "versions": {"python": sys.version.split()[0], **{name: version(name) for name in PACKAGES}},
        "commit": commit(),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name as Linux tells it, else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def version(package: str) -> str | None:
    """Return an installed package's version without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """Return the commit that ran: COMMIT where the code travels without its repository, else git's answer."""
    given = os.environ.get("COMMIT")
    if given:
        return given
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def welch(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the difference of the means with Welch's 95 % interval."""
    from scipy.stats import ttest_ind

    difference = statistics.mean(ours) - statistics.mean(theirs)
    if len(ours) < 2:
        return {"difference": difference, "low": -1.0, "high": 1.0}  # one run says nothing of the spread
    interval = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.95)
    return {"difference": difference, "low": float(interval.low), "high": float(interval.high)}
