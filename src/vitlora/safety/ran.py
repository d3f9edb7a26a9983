"""What ran: device, versions, commit and seconds of the run that first gave the results that stand here.

A file of its own in Git, and no output of a stage: seconds differ from run to run, and nothing may depend on them. It
stays as it is where a stage runs again and its results are the same.
"""

import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Any

from vitlora.core.cores import cores
from vitlora.core.files import read_json, sha256_file, write_json
from vitlora.storage.manifest import MANIFEST

METRICS = Path("metrics")
RAN = METRICS / "ran"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "numpy", "pillow", "onnxruntime", "dvc")


def record(stage: str, made: Iterable[Path], seconds: float) -> None:
    """Write metrics/ran/STAGE.json, unless the one that is there is of the same outputs.

    Args:
        stage: Its name; download, which leaves no metrics, has no record.
        made: All that it has written: folders with a manifest, folders of small files, files.
        seconds: It took.
    """
    path, files = RAN / f"{stage}.json", sorted(_files(made))
    results = next((file for file in files if file.suffix == ".json" and METRICS in file.parents), None)
    if results is None:
        return
    outputs = sha256("".join(f"{file} {sha256_file(file)}\n" for file in files).encode()).hexdigest()
    if not (path.is_file() and _outputs(path) == outputs):
        known = {"stage": stage, "results": sha256_file(results), "outputs": outputs}
        write_json(path, {**known, "seconds": round(seconds, 1), **here()})


def record_latency(formats: Mapping[Any, Mapping[str, float]]) -> None:
    """Write metrics/ran/latency.json, unless the one that is there is of the same exported model.

    Args:
        formats: Milliseconds by batch, by format.
    """
    outputs, path = _outputs(RAN / "export.json"), RAN / "latency.json"
    if not (path.is_file() and _outputs(path) == outputs):
        write_json(path, {"outputs": outputs, "formats": formats, **here()})


def _files(made: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that tell outputs apart: a folder's manifest stands for all that it lists."""
    for path in made:
        if path.is_file() or (path / MANIFEST).is_file():
            yield path if path.is_file() else path / MANIFEST
        else:
            yield from (file for file in path.rglob("*") if file.is_file())


def _outputs(path: Path) -> object:
    try:
        return read_json(path).get("outputs")
    except (ValueError, AttributeError):  # damaged, or edited by hand
        return None


def here() -> dict[str, Any]:
    """Return what runs here: device, processor, cores, system, Python, versions, and the commit, if in Git."""
    return {
        "device": _device(),
        "processor": _processor(),
        "cores": cores(),
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
