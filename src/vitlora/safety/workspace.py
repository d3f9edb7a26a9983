"""What DVC says should lie here, and whether it does: outputs, cached objects, locks.

DVC takes what its cache holds on trust, and a workspace file whose size and time have not changed too.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vitlora.core.errors import VitloraError
from vitlora.storage.manifest import MANIFEST, THREADS, problems

LOCK, PIPELINE, PARAMS = Path("dvc.lock"), Path("dvc.yaml"), Path("params.yaml")


@dataclass(frozen=True)
class Output:
    """One output that dvc.lock records: stage, path, MD5 as DVC names it (`….dir` for a folder)."""

    stage: str
    path: Path
    md5: str


@dataclass(frozen=True)
class Finding:
    """Something wrong: the file, what is wrong with it, and the output it belongs to, if any."""

    path: Path
    what: str
    output: Output | None = None

    def __str__(self) -> str:
        stage = f" (made by {self.output.stage})" if self.output else ""
        return f"{self.path}: {self.what}{stage}"


def require_project() -> None:
    """Refuse any folder but the top of a project.

    Raises:
        VitloraError: There is no dvc.yaml or no .dvc here.
    """
    if not PIPELINE.is_file() or not Path(".dvc").is_dir():
        raise VitloraError("no dvc.yaml and .dvc here; run this in the project's folder")


def read_lock() -> dict[str, Any]:
    """Return dvc.lock's stages.

    Raises:
        VitloraError: It is cut or damaged; it is empty where nothing has run yet.
    """
    if not LOCK.exists():
        return {}
    text = LOCK.read_bytes().decode(errors="replace")
    if not text_is_lock(text):
        raise VitloraError(f"{LOCK} is damaged; `vitlora recover` mends it")
    stages: dict[str, Any] = _yaml(text)["stages"]
    return stages


def text_is_lock(text: str) -> bool:
    """Whether a text is a whole dvc.lock: one cut within a stage may still be YAML, but lacks its last line's end."""
    try:
        stages = _yaml(text)["stages"]
        return text.endswith("\n") and all(stage["cmd"] and _whole(stage) for stage in stages.values())
    except Exception:  # the reader's own, or a structure that is not DVC's
        return False


def _whole(stage: Mapping[str, Any]) -> bool:
    return all("path" in entry and "md5" in entry for kind in ("deps", "outs") for entry in stage.get(kind, ()))


def outputs() -> list[Output]:
    """Return every output that dvc.lock records, in its order."""
    return [
        Output(name, Path(out["path"]), out["md5"])
        for name, stage in read_lock().items()
        for out in stage.get("outs", ())
    ]


def cache_folder() -> Path:
    """Return where DVC keeps objects by their MD5."""
    from dvc.repo import Repo  # half a second

    return Path(Repo().cache.local.path)


def cached(cache: Path, md5: str) -> Path:
    """Return an object's place."""
    return cache / md5[:2] / md5[2:]


def check_outputs(cache: Path) -> Iterator[Finding]:
    """Yield every output of the workspace that is not what dvc.lock and its manifest say."""
    for output in outputs():
        if not output.path.exists():
            yield Finding(output.path, "missing", output)
        elif output.path.is_dir():
            yield from (Finding(output.path, what, output) for what in _check_folder(cache, output))
        elif md5_of(output.path) != output.md5:
            yield Finding(output.path, "is not what dvc.lock records", output)


def _check_folder(cache: Path, output: Output) -> Iterator[str]:
    if (output.path / MANIFEST).exists():
        yield from (problem.removeprefix(f"{output.path}/") for problem in problems(output.path))
        names = [MANIFEST]  # which vouches for all else
    else:
        names = list(_listing(cache, output.md5))
    for name, md5 in _listing(cache, output.md5).items():
        path = output.path / name
        if name in names and (not path.exists() or md5_of(path) != md5):
            yield f"{name} is not what dvc.lock records"


def _listing(cache: Path, md5: str) -> Mapping[str, str]:
    """Return a folder's files and MD5s; empty if that object is damaged, which the cache's own check tells."""
    try:
        return {entry["relpath"]: entry["md5"] for entry in json.loads(cached(cache, md5).read_bytes())}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def check_cache(cache: Path) -> Iterator[Finding]:
    """Yield every cached object whose bytes are not those that its name says."""
    places = sorted(path for path in cache.glob("??/*") if path.is_file())
    with ThreadPoolExecutor(THREADS) as pool:  # hashing gives up Python's lock
        for path, md5 in zip(places, pool.map(md5_of, places), strict=True):
            if md5 != path.parent.name + path.name.removesuffix(".dir"):
                yield Finding(path, "damaged object in DVC's cache")


def check_run_cache(cache: Path) -> Iterator[Finding]:
    """Yield every folder of DVC's run cache, which says what a stage's inputs led to, that is not sound.

    An empty one, left by an interrupt, ends DVC's every repro too.
    """
    for folder in sorted((cache.parents[1] / "runs").glob("??/*")):
        entries = list(folder.iterdir())
        if not entries or not all(map(whole_entry, entries)):
            yield Finding(folder, "damaged entry of DVC's run cache")


def whole_entry(path: Path) -> bool:
    """Say whether an entry of DVC's run cache holds what its name, a hash of its content, says."""
    from dvc.stage.cache import _get_cache_hash  # half a second

    try:
        return bool(_get_cache_hash(_yaml(path.read_text(encoding="utf-8"))) == path.name)
    except (ValueError, TypeError, AttributeError, YAMLError):  # not text, not YAML, or not a mapping
        return False


def check_present(cache: Path) -> Iterator[Finding]:
    """Yield every output that is missing here or in the cache, without reading what is there."""
    stages = _yaml(PIPELINE.read_text(encoding="utf-8"))["stages"]
    ran = read_lock()
    yield from (Finding(LOCK, f"has no record of {name}") for name in stages if name not in ran)
    kept = {path for stage in stages.values() for path in _uncached(stage)}
    for output in outputs():
        if not output.path.exists():
            yield Finding(output.path, "missing", output)
        if str(output.path) not in kept:
            objects = {"": output.md5, **(_listing(cache, output.md5) if output.md5.endswith(".dir") else {})}
            for name, md5 in objects.items():
                if not cached(cache, md5).exists():
                    yield Finding(output.path / name if name else output.path, "missing in DVC's cache", output)


def _uncached(stage: Mapping[str, Any]) -> Iterator[str]:
    """Yield the outputs that Git keeps instead."""
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, ()):
            if isinstance(entry, dict):
                yield from (path for path, how in entry.items() if how.get("cache") is False)


def _yaml(text: str) -> Any:
    return YAML(typ="safe").load(text)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file, empty where there is none; fast, for what is checked elsewhere."""
    try:
        found = _yaml(path.read_text(encoding="utf-8"))
    except Exception:  # the reader's own, of which there are many
        return {}
    return found if isinstance(found, dict) else {}


def md5_of(path: Path) -> str:
    """Return a file's MD5, DVC's name for its content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def committed(path: Path) -> str | None:
    """Return a file as the last commit has it; None where there is no Git, no commit or no such file."""
    return _git("show", f"HEAD:./{path}")


def committed_output(path: str) -> str | None:
    """Return the last commit if its dvc.lock records an output as the one that is there now, else None."""
    now = next((output.md5 for output in outputs() if output.path == Path(path)), None)
    recorded = now is not None and f"path: {path}\n" in (text := committed(LOCK) or "") and f"md5: {now}\n" in text
    return (_git("rev-parse", "HEAD") or "").strip() or None if recorded else None


def differs_from_commit(paths: Sequence[str]) -> bool:
    """Say whether Git has something to commit below these paths; False where there is no Git."""
    return bool(_git("status", "--porcelain", "--", *paths))


def _git(*words: str) -> str | None:
    try:
        command = ["git", *words]
        done = subprocess.run(command, capture_output=True, check=False)
        return done.stdout.decode() if done.returncode == 0 else None
    except (OSError, UnicodeDecodeError):
        return None


def changed_params() -> list[str]:
    """Return what params.yaml has otherwise than the last commit, as `lora.r: 16 -> 32`."""
    text = committed(PARAMS)
    if text is None:
        return []
    try:
        before, now = _yaml(text), _yaml(PARAMS.read_text(encoding="utf-8"))
        pairs = {
            (section, key): None for document in (before, now) for section in document for key in document[section]
        }
        values = [(f"{s}.{k}", before.get(s, {}).get(k), now.get(s, {}).get(k)) for s, k in pairs]
    except Exception:  # a broken file is refused elsewhere, with its reason
        return []
    return [f"{name}: {json.dumps(old)} -> {json.dumps(new)}" for name, old, new in values if old != new]


def environment() -> dict[str, str]:
    """Return an environment in which a stage's `python` is this one."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
