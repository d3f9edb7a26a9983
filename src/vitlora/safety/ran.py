"""What ran: device, versions, commit and seconds of the run that first gave the results that stand here.

A file of its own in Git, and no output of a stage: seconds differ from run to run, and nothing may depend on them. It
stays as it is where a stage runs again and its results are the same.
"""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from vitlora.core.files import read_json, sha256_file, write_json

RAN = Path("metrics/ran")
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow", "onnxruntime", "dvc")


def record(stage: str, results: Path, seconds: float) -> None:
    """Write metrics/ran/STAGE.json, unless the one that is there is of the same results.

    Args:
        stage: Its name.
        results: The JSON file of metrics that the stage has written.
        seconds: It took.
    """
    path = RAN / f"{stage}.json"
    same = sha256_file(results)
    if not (path.is_file() and _results(path) == same):
        write_json(path, {"stage": stage, "results": same, "seconds": round(seconds, 1), **here()})


def _results(path: Path) -> object:
    try:
        return read_json(path).get("results")
    except (ValueError, AttributeError):  # damaged, or edited by hand
        return None


def here() -> dict[str, Any]:
    """Return what runs here: device, processor, cores, system, Python, versions, and the commit, if in Git."""
    return {
        "device": _device(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": platform.platform(aliased=True, terse=True),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "commit": _commit(),
    }


def _device() -> str:
    """Ask torch only where the stage has loaded it: that takes seconds."""
    torch = sys.modules.get("torch")
    return str(torch.cuda.get_device_name()) if torch is not None and torch.cuda.is_available() else "cpu"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Return the commit that was checked out, with a plus where files differ from it; the results are no difference."""
    try:
        head = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!metrics", ":!dvc.lock")
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    command = ["git", "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
