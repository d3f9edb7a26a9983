"""Heal a workspace that a crash or a bad disk left unusable; what was taken away, `dvc repro` makes anew."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable
from vitlora.safety.put_back import is_foreign, keep_found
from vitlora.safety.shortage import WORK
from vitlora.safety.workspace import (
    cache_of,
    check_cache,
    check_outputs,
    check_run_cache,
    committed,
    dead_links,
    lock_files,
    open_project,
    outputs,
    read_lock,
    require_project,
    text_is_lock,
)

DVC_TMP = Path(".dvc/tmp")
RWLOCK = DVC_TMP / "rwlock"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb has none."""


def act(args: argparse.Namespace) -> None:
    """Mend dvc.lock and DVC's own locks, and remove drafts, damaged outputs and what is damaged in DVC's caches.

    Raises:
        VitloraError: A live dvc or stage is at work here.
    """
    require_project()
    _refuse_live()
    done = 0
    for line in _mend():
        print(printable(line))
        done += 1
    print(f"{done} mended; now `dvc repro`" if done else "nothing to mend")


def _mend() -> Iterator[str]:
    yield from _locks()
    for path in lock_files():
        yield from _lock_file(path)
    yield from _drafts()
    yield from _damage()


def _refuse_live() -> None:
    """Refuse while a process holds a stage's lock, or one of DVC's is alive."""
    for path in [*WORK.glob("*.lock"), DVC_TMP / "lock"]:
        if path.exists():
            try:
                FileLock(path, timeout=0, fallback_to_soft=False).acquire().lock.release()
            except Timeout:
                holder = path.read_text(encoding="utf-8").strip()
                raise VitloraError(f"{path} is held ({holder}); wait for it, or end that process") from None
    for pid in sorted(_holders()):
        if _is_dvc(pid):
            raise VitloraError(f"process {pid}, a dvc, is at work here; wait for it, or end it")


def _holders() -> set[int]:
    """Return the processes that DVC's rwlock names, none if it is broken."""
    try:
        content = json.loads(RWLOCK.read_bytes())
        writers = [entry["pid"] for entry in content.get("write", {}).values()]
        return {
            int(pid) for pid in writers + [e["pid"] for entries in content.get("read", {}).values() for e in entries]
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return set()


def _is_dvc(pid: int) -> bool:
    """Whether a process lives and is DVC's: a number is given out again."""
    try:
        return any("dvc" in word for word in psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def _locks() -> Iterator[str]:
    if RWLOCK.exists() and not _is_free(RWLOCK.read_bytes()):
        RWLOCK.unlink()
        yield f"{RWLOCK}: removed, its holder is gone"


def _is_free(rwlock: bytes) -> bool:
    """Whether DVC's rwlock is whole and names nobody; after a run it is `{}`, or has empty lists of holders."""
    try:
        return not any(json.loads(rwlock).values())
    except (ValueError, AttributeError):
        return False


def _lock_file(path: Path) -> Iterator[str]:
    try:
        read_lock(path)
        return
    except VitloraError:
        pass
    text = committed(path)
    if text is not None and text_is_lock(text):
        path.write_text(text, encoding="utf-8")
        yield f"{path}: restored from the last commit"
    else:
        path.unlink()
        yield f"{path}: removed; every stage runs once, or comes back from the run cache"


def _drafts() -> Iterator[str]:
    for path in [*WORK.glob("*/out"), *WORK.glob("checkpoints/*/draft")]:
        shutil.rmtree(path)
        yield f"{path}: removed, unfinished"


def _damage() -> Iterator[str]:
    with open_project() as repo:
        for finding in (*check_cache(cache_of(repo)), *check_run_cache(cache_of(repo))):
            _remove(finding.path)
            yield f"{finding.path}: removed, damaged"
        for output in outputs(repo):
            dead = dead_links(output.path)
            for link in dead:
                link.unlink()
            if dead:
                back = "" if output.remade else "; `dvc checkout` brings back what they led to"
                yield f"{output.path}: {counted(len(dead), 'link')} to nothing removed{back}"
        damaged = (each.output for each in check_outputs(repo) if each.output and each.output.remade)
        for output in dict.fromkeys(each for each in damaged if each.path.exists()):
            if is_foreign(Path(), output.stage, output.path):
                yield f"{output.path}: made by no stage, kept in {keep_found(Path(), output.path, str(output.path))}"
                continue
            _remove(output.path)
            yield f"{output.path}: removed, damaged"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
