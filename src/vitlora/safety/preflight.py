"""Refuse a mistake in the parameters before DVC starts: it removes the outputs of a stage before that could refuse."""

import hashlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted
from vitlora.safety.source import SOURCE, local_path
from vitlora.safety.workspace import LOCK, PARAMS, PIPELINE, below, committed_output, read_lock, read_yaml, taken_out
from vitlora.storage.manifest import digest

MIXTURES = ("xlora", "merge")
SHOWN = 16  # digits of a hash in a name that we propose
PASSED = Path(".work/params.passed")  # what passed last, so that a run with nothing to do costs no check


def check_params() -> None:
    """Check params.yaml, unless it is as it was when it last passed.

    Raises:
        VitloraError: All mistakes, one a line.
    """
    about = [PARAMS, PIPELINE, LOCK, Path(__file__).with_name("check.py")]  # dvc.lock says which base model there is
    seen = [path.read_bytes() if path.is_file() else b"" for path in about]
    digest = hashlib.sha256(b"\0".join(seen)).hexdigest()
    if PASSED.is_file() and PASSED.read_text(encoding="utf-8") == digest:
        return
    # pydantic takes longer than all of dvc's work where nothing is to run
    from vitlora.core.params import read_document, refuse_conflict

    refuse_conflict(PIPELINE, PIPELINE.read_text(encoding="utf-8", errors="replace"))
    check_values(read_document(PARAMS))
    PASSED.parent.mkdir(exist_ok=True)
    PASSED.write_text(digest, encoding="utf-8")


def check_values(document: dict[str, Any]) -> None:
    """Check what params.yaml holds, or would hold.

    Raises:
        VitloraError: All mistakes, one a line.
    """
    from vitlora.safety.check import check_document

    check_document(document, PARAMS, base_of(document))
    _refuse_missing(document)
    _refuse_own(document)
    _refuse_unpinned(document)


def _refuse_missing(document: dict[str, Any]) -> None:
    """Refuse a new path where nothing is; one that has been read may be gone, as on a colleague's machine."""
    read = _fetched()
    for name in ("data", "model"):
        place = local_path(document.get(name))
        if place is not None and document.get(name) != read.get(name) and not Path(place).expanduser().exists():
            raise VitloraError(
                f"{PARAMS}: {name}.path: got {place}, and nothing is there; the rule: a path that exists"
            )


def _refuse_own(document: dict[str, Any]) -> None:
    """Refuse pictures or a base where download writes: what lies there goes before the stage could read it."""
    for name in ("data", "model"):
        place = local_path(document.get(name))
        there = Path(place).expanduser().resolve() if place is not None else None
        for out in _outputs("download") if there else ():
            mine = out.resolve()
            if there and (there.is_relative_to(mine) or mine.is_relative_to(there)):
                raise VitloraError(
                    f"{PARAMS}: {name}.path: got {place}, and {out} is what download makes anew in each run; the rule: "
                    "a folder of your own outside it; move yours there first, or they are deleted"
                )


def _refuse_unpinned(document: dict[str, Any]) -> None:
    """Refuse models that no commit or hash names, while the folder is there to look at: train's own goes first."""
    for key, name in _models(document):
        path, _, pin = name.rpartition("@")
        place = os.path.normpath(path if pin.startswith("sha256:") else name)
        if not Path(place).is_dir() or (path and not pin.startswith("sha256:")):
            continue  # a commit's, or not there; train says so
        if place in {out["path"] for stage in read_lock().values() for out in stage.get("outs", ())}:
            commit = committed_output(place)
            how = f"write {place}@{commit[:SHOWN]}" if commit else f"commit this run and write {place}@COMMIT"
            raise VitloraError(
                f"{PARAMS}: {key}: got {name}, which is the run's own output and goes before its stage "
                f"starts; {how}, or copy the folder elsewhere"
            )
        if not path:
            raise VitloraError(
                f"{PARAMS}: {key}: got {name}, which is pinned to no content; write "
                f"{name}@sha256:{digest(Path(name))[:SHOWN]}"
            )


def _models(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys and values that name trained models."""
    adapters = document["lora"]["options"].get("adapters", ()) if document["lora"]["method"] in MIXTURES else ()
    yield from (("lora.options.adapters", name) for name in adapters)
    if document["train"]["teacher"]:
        yield "train.teacher", document["train"]["teacher"]


def refuse_left_behind() -> None:
    """Refuse a path that a queued or --temp run would not find: it has a tree of its own, with what Git keeps.

    Raises:
        VitloraError: Download is to run, and something at a relative path is not in Git.
    """
    document, read = read_yaml(PARAMS), _fetched()
    noted, before = read_yaml(SOURCE), _fetched(SOURCE)
    for name in ("data", "model"):
        place = local_path(document.get(name))
        same = document.get(name) == read.get(name) and noted.get(name) == before.get(name)
        if place is None or same or Path(place).expanduser().is_absolute():
            continue
        inside, outside = below(place)
        if outside or not inside:
            raise VitloraError(
                f"{PARAMS}: {name}.path: got {place}, where Git does not keep all files; the rule: a queued or --temp "
                f"run works in a tree of its own, made of what Git keeps, so it needs the whole path: "
                f"-S {shlex.quote(f'{name}.path={Path(place).resolve()}')}"
            )


def refuse_outside() -> None:
    """Refuse outputs behind a link that leads out of the project: DVC does too, but when their stage has ended.

    Raises:
        VitloraError: There is such a link.
    """
    here = Path.cwd().resolve()
    for folder in sorted({out.parent for out in _outputs()}):
        if not folder.is_absolute() and not (there := folder.resolve()).is_relative_to(here):
            raise VitloraError(
                f"{folder}: leads to {there}; the rule: a real folder, since DVC keeps no outputs outside the project. "
                "Move it back; `dvc cache dir --local FOLDER` and `dvc config --local cache.type symlink` keep the "
                "files on another disk"
            )


def _outputs(only: str | None = None) -> Iterator[Path]:
    """Yield what dvc.yaml says that a stage, or all stages, make; DVC says what is wrong with the file."""
    stages = read_yaml(PIPELINE).get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict) and only in (None, name):
            outs = (out for kind in ("outs", "metrics", "plots") for out in stage.get(kind) or ())
            names = (out if isinstance(out, str) else next(iter(out)) for out in outs)
            yield from (Path(stage.get("wdir") or "", name) for name in names)


def refuse_taken_out() -> None:
    """Refuse an experiment while Git is to forget files that stay: DVC sets uncommitted work aside, and they go.

    Raises:
        VitloraError: There are such files.
    """
    if names := taken_out():
        more = f" and {counted(len(names) - 1, 'file')} more" if names[1:] else ""
        raise VitloraError(
            f"got {names[0]}{more} taken out of Git and not committed; the rule: an experiment sets uncommitted work "
            "aside, which would delete them; `git commit` first, or `git reset` to keep them in Git"
        )


def _fetched(file: Path = PARAMS) -> dict[str, Any]:
    """Return what download last ran with, as the file had it."""
    params: dict[str, Any] = read_lock().get("download", {}).get("params", {}).get(str(file), {})
    return params


def base_of(document: dict[str, Any]) -> Path | None:
    """Return the base model's folder if it is the one that the document names: an earlier choice may lie there."""
    fetched = _fetched().get("model")
    from vitlora.core.entry import BASE

    return BASE if fetched is not None and fetched == document.get("model") else None
