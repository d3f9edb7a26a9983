"""What DVC says should lie here, and whether it does: outputs, cached objects, locks.

What the stages and outputs are, is asked of DVC: it knows loops, working folders, links, and files in other folders.

DVC takes what its cache holds on trust, and a workspace file whose size and time have not changed too.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vitlora.core.errors import VitloraError
from vitlora.storage.manifest import MANIFEST, THREADS, problems

LOCK, PIPELINE, PARAMS = Path("dvc.lock"), Path("dvc.yaml"), Path("params.yaml")
MISSING = "missing"


@dataclass(frozen=True)
class Output:
    """One output that DVC has recorded.

    Args:
        stage: As DVC addresses it.
        path: From the working folder.
        md5: As DVC names it, `….dir` for a folder.
        remade: Whether `dvc repro` makes it anew where it is gone: not what `dvc add` took, not that of a frozen stage,
            not one that its stage keeps adding to.
    """

    stage: str
    path: Path
    md5: str
    remade: bool


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


def read_lock(path: Path = LOCK) -> dict[str, Any]:
    """Return the stages in a dvc.lock.

    Raises:
        VitloraError: It is cut or damaged; it is empty where nothing has run yet.
    """
    if not path.exists():
        return {}
    text = path.read_bytes().decode(errors="replace")
    if not text_is_lock(text):
        raise VitloraError(f"{path} is damaged; `vitlora recover` mends it")
    stages: dict[str, Any] = _yaml(text)["stages"]
    return stages


def lock_files() -> list[Path]:
    """Return the project's dvc.lock, and those in other folders that Git knows."""
    others = (_git("ls-files", "-z", "--", "*dvc.lock") or "").split("\0")
    return list(dict.fromkeys([LOCK, *(Path(name) for name in others if name.endswith("/dvc.lock"))]))


def text_is_lock(text: str) -> bool:
    """Whether a text is a whole dvc.lock: one cut in its last entry may still be YAML, but lacks what comes last."""
    try:
        stages = list(_yaml(text)["stages"].values())
        return text.endswith("\n") and all(stage["cmd"] for stage in stages) and all(map(_whole, stages[-1:]))
    except Exception:  # the reader's own, or a structure that is not DVC's
        return False


def _whole(stage: Mapping[str, Any]) -> bool:
    return all(set(entry) - {"path", "hash"} for kind in ("deps", "outs") for entry in stage.get(kind, ()))


def recorded_md5() -> dict[Path, str]:
    """Return the MD5 of every output in dvc.lock; fast, for a stage that checks its inputs."""
    outs = (out for stage in read_lock().values() for out in stage.get("outs", ()))
    return {Path(out["path"]): out["md5"] for out in outs if "md5" in out}


@contextmanager
def open_project() -> Iterator[Any]:
    """Open the project as DVC sees it: all its stages, wherever and however they are written.

    Raises:
        VitloraError: This is not the top of a project, Git or DVC can't read it, or dvc.lock is damaged.
    """
    require_project()
    for path in lock_files():
        read_lock(path)
    from vitlora.core.params import refuse_conflict

    refuse_conflict(PIPELINE, PIPELINE.read_text(encoding="utf-8", errors="replace"))
    from dvc.exceptions import DvcException  # these take half a second
    from dvc.repo import Repo
    from dvc.scm import SCMError

    try:
        with Repo() as repo:
            repo.index  # noqa: B018 - reads every dvc.yaml
            yield repo
    except SCMError as error:
        raise VitloraError(without_git(error)) from None
    except DvcException as error:
        raise VitloraError(f"DVC cannot read this project: {said(error)}; `dvc status` shows more") from None


def without_git(error: BaseException) -> str:
    """Say what to do where DVC finds no Git repository around the project."""
    return (
        f"{said(error)}, and DVC needs one. A project that was cloned has one; in one that was unpacked type "
        "`git init && git add -A && git commit -m start`"
    )


def said(error: BaseException | None) -> str:
    """Return what an error and its causes say, as DVC shows them, in one line."""
    words = []
    while error:
        words.append(" ".join(str(error).split()))
        error = error.__cause__
    return ": ".join(filter(None, words))


def outputs(repo: Any) -> list[Output]:
    """Return every output that has been made, in DVC's order.

    Args:
        repo: From ``open_project``.
    """
    return [_output(out) for out in repo.index.outs if out.hash_info]


def _output(out: Any) -> Output:
    remade = bool(out.stage.cmd) and not out.stage.frozen and not out.persist
    return Output(out.stage.addressing, Path(os.path.relpath(out.fs_path)), out.hash_info.value, remade)


def cache_of(repo: Any) -> Path:
    """Return where DVC keeps objects by their MD5."""
    return Path(repo.cache.local.path)


def cached(cache: Path, md5: str) -> Path:
    """Return an object's place."""
    return cache / md5[:2] / md5[2:]


def check_outputs(repo: Any) -> Iterator[Finding]:
    """Yield every output of the workspace that is not what DVC has recorded, or not what its manifest says."""
    for out in repo.index.outs:
        if out.hash_info:
            found = _output(out)
            yield from (Finding(found.path, what, found) for what in _check(repo, out, found))


def _check(repo: Any, out: Any, output: Output) -> Iterator[str]:
    dead = dead_links(output.path)
    if dead:
        yield f"{dead[0].name} is a link to nothing" + (f", as are {len(dead) - 1} more" if len(dead) > 1 else "")
    elif not out.exists:
        yield MISSING
    elif not out.stage.cmd:
        return  # what `dvc add` took is its owner's to change
    elif output.path.is_dir() and out.use_cache and out.hash_name == "md5":
        yield from _check_folder(cache_of(repo), output)
    elif output.path.is_file() and out.hash_name == "md5":
        if md5_of(output.path) != output.md5:
            yield "is not what dvc.lock records"
    else:  # in Git, at an address, or of DVC's older kind: as far as DVC itself can tell
        yield from (f"is {what}" for what in out.status().values())


def _links(path: Path) -> Iterator[Path]:
    """Yield all links at or below a path."""
    if path.is_symlink():
        yield path
        return
    for place, folders, files in os.walk(path):
        yield from (link for name in (*folders, *files) if (link := Path(place, name)).is_symlink())


def dead_links(path: Path) -> list[Path]:
    """Return the links to nothing at or below a path, as a move of DVC's cache leaves them."""
    return [link for link in _links(path) if not link.exists()]


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
    made = (out for stage in read_lock().values() for out in stage.get("outs", ()))
    now = next((out["md5"] for out in made if out["path"] == path), None)
    recorded = now is not None and f"path: {path}\n" in (text := committed(LOCK) or "") and f"md5: {now}\n" in text
    return (_git("rev-parse", "HEAD") or "").strip() or None if recorded else None


def differs_from_commit(paths: Sequence[str]) -> bool:
    """Say whether Git has something to commit below these paths; False where there is no Git."""
    return bool(_git("status", "--porcelain", "--", *paths))


def below(place: str) -> tuple[bool, bool]:
    """Say whether Git keeps files at a path, and whether other files lie there, ignored or not."""
    return bool(_git("ls-files", "--", place)), bool(_git("ls-files", "--others", "--", place))


def taken_out() -> list[str]:
    """Return the files that the last commit has, that Git was told to forget (`git rm --cached`) and that are here."""
    names = (
        _git("diff", "--cached", "--relative", "--no-renames", "--diff-filter=D", "--name-only", "-z") or ""
    ).split("\0")
    return [name for name in names if name and os.path.lexists(name)]


def has_remote() -> bool:
    """Say whether DVC has a place to pull from."""
    from dvc.config import Config
    from dvc.exceptions import DvcException

    try:
        return bool(Config(".dvc").get("remote"))
    except DvcException:
        return False


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
