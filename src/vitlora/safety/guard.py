"""Around every stage's work: one writer, no orphan, sound inputs, room on the disk, outputs whole or not at all.

It decides whether a stage's outputs arrive, never what they hold, so no cached result depends on this file.
"""

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from vitlora.core.durable import faultpoint, sync, sync_one
from vitlora.core.entry import Places
from vitlora.core.errors import VitloraError
from vitlora.core.files import make_readable
from vitlora.core.text import shown_seconds
from vitlora.processes.launch import Place, own_place, taking_part
from vitlora.safety.announce import announce
from vitlora.safety.ending import ends_at_once
from vitlora.safety.ran import record
from vitlora.safety.shortage import WORK as WORK
from vitlora.safety.shortage import shortage_named
from vitlora.safety.workspace import md5_of, recorded_md5
from vitlora.storage.manifest import MANIFEST, problems, write_manifest

LOCK_WAIT_S = 8.0  # a stage whose dvc was killed leaves within 2, and loader processes of one that was killed within 1
PARENT_CHECK_S = 0.5
CURE = "`vitlora recover` takes damaged copies away, then `dvc repro` makes them anew"


@contextmanager
def guarded(stage: str, places: Places) -> Iterator[dict[str, Path]]:
    """Let a stage work aside and move its outputs into place when it is done.

    Args:
        stage: Its name.
        places: Inputs are checked first, folders against their manifest. Outputs that are folders get a manifest and
            are moved as a whole; records are moved file by file.

    Yields:
        A path for every input (as given), output and record (aside, in ``.work``), by name.

    Raises:
        VitloraError: Another writer is at work, an input is damaged, or the disk is full.

    A process that was started to share a stage's work gets all paths from its launcher, which does the rest.
    """
    if place := own_place():
        with _one_of_several(stage, place):
            yield {**places.inputs, **places.outputs, **places.records}
        return
    made = {**places.outputs, **places.records}
    begun = time.monotonic()
    leave_with_parent()
    done = ends_at_once()  # no thread watches dvc while torch is taken apart
    with shortage_named(stage), _only_writer(stage):
        faultpoint("start")
        announce(WORK)
        _check_inputs(places.inputs.values())
        aside = WORK / stage / "out"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        hidden = {name: aside / name / path.name for name, path in made.items()}
        for path in hidden.values():
            path.parent.mkdir()
        yield {**places.inputs, **hidden}
        faultpoint("worked")
        for path in hidden.values():
            make_readable(path)
        for name in places.outputs:
            if hidden[name].is_dir():
                write_manifest(hidden[name])
        faultpoint("manifest")
        for path in hidden.values():
            sync(path)
        faultpoint("synced")
        for name, path in made.items():
            _replace(hidden[name], path, whole=name in places.outputs)
            faultpoint("moved")
        shutil.rmtree(aside)
        faultpoint("done")
    seconds = time.monotonic() - begun
    record(stage, made.values(), seconds)
    print(f"{stage} took {shown_seconds(seconds)}")
    done.append(True)


@contextmanager
def _one_of_several(stage: str, place: Place) -> Iterator[None]:
    """Let a process that was started to share a stage's work end with whoever has started it, and at once when done."""
    with taking_part(place):
        leave_with_parent()
        done = ends_at_once()
        with shortage_named(stage):
            yield
        done.append(True)


def leave_with_parent() -> None:
    """End this process and its children soon after its parent is gone: nobody would record what it writes.

    Asking the kernel for a signal (PR_SET_PDEATHSIG) would do on Linux only, and fires when the thread that started us
    ends, as DVC's queue workers do.
    """
    parent = os.getppid()
    if _adopted(parent):
        os._exit(128 + signal.SIGTERM)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_CHECK_S)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _adopted(parent: int) -> bool:
    """Say whether whoever started us was gone before we could look: our new parent is of another session.

    Python and the check of the parameters take half a second until here.
    """
    own = os.getsid(0)
    try:
        return own != os.getpid() and os.getsid(parent) != own
    except OSError:  # a parent that we may not ask about, or gone in this very moment: the watch will see
        return False


@contextmanager
def _only_writer(stage: str) -> Iterator[None]:
    """Hold the stage's lock, which the system frees when its holder ends, however that ends."""
    WORK.mkdir(exist_ok=True)
    path = WORK / f"{stage}.lock"
    try:
        held = FileLock(path, LOCK_WAIT_S, fallback_to_soft=False).acquire()
    except Timeout:
        holder = path.read_text(encoding="utf-8").strip() or "unknown process"
        raise VitloraError(f"{stage} is already running here ({holder})") from None
    with held:
        path.write_text(f"process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}", encoding="utf-8")
        yield


def _check_inputs(paths: Iterable[Path]) -> None:
    found: list[str] = []
    recorded = _recorded()
    for path in paths:
        if not path.exists():
            found.append(f"{path}: missing")
        elif path.is_dir():
            found += problems(path)
        elif (path.parent / MANIFEST).is_file():
            found += problems(path.parent, only=(path.name,))
        elif recorded.get(path, md5 := md5_of(path)) != md5:
            found.append(f"{path}: not what dvc.lock records")
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise VitloraError("; ".join(found[:5]) + f"{more}; {CURE}")


def _recorded() -> dict[Path, str]:
    """Return the MD5 of every output where dvc started us; by hand, dvc.lock may be of another run."""
    return recorded_md5() if "DVC_STAGE" in os.environ else {}


def _replace(source: Path, target: Path, whole: bool) -> None:
    if source.is_dir() and not whole:
        for file in sorted(path for path in source.rglob("*") if path.is_file()):
            _replace(file, target / file.relative_to(source), whole=False)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # only where a stage is run by hand: DVC has removed it
    else:
        target.unlink(missing_ok=True)  # it may be a read-only link into DVC's cache
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        near = target.with_name(f".{target.name}.part")  # data/ or models/ on another disk
        shutil.move(source, near)
        sync(near)
        near.rename(target)
    sync_one(target.parent)
