"""Whether the model that lies here is the one that the parameters and dvc.lock mean."""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.safety.source import SOURCE
from vitlora.safety.workspace import LOCK, PARAMS, open_project, read_lock, read_yaml
from vitlora.storage.manifest import MANIFEST

SEEN = Path(".work/model.current")  # what was found current last, so that DVC is asked but once
SHOWN = 3


def why_not_current(model: Path) -> str | None:
    """Say what tells that a model is not of the current parameters or not the one recorded; None where nothing does.

    Args:
        model: Folder of a stage's output; any other folder is nobody's business.
    """
    about = [PARAMS, LOCK, model / MANIFEST]
    if model.is_absolute() or not all(path.is_file() for path in about):
        return None
    known = (path.read_bytes() for path in (*about, SOURCE) if path.is_file())
    digest = hashlib.sha256(b"\0".join(known)).hexdigest()
    if SEEN.is_file() and SEEN.read_text(encoding="utf-8") == digest:
        return None
    try:
        changed = list(changes(read_yaml(PARAMS), read_lock()))
        if changed:
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            return f"it was made before these changes of {PARAMS}: {', '.join(changed[:SHOWN])}{more}"
        if places := moved(read_yaml(SOURCE), read_lock()):
            return f"it was made before what lies at {places} changed"
        if made := made_anew(read_lock()):
            return f"it was made before {made} was made anew"
        if not is_recorded(model):
            return f"it is not the one that {LOCK} records"
    except (VitloraError, OSError):  # a damaged dvc.lock, no Git, dead links: nothing to compare with
        return None
    SEEN.parent.mkdir(exist_ok=True)
    SEEN.write_text(digest, encoding="utf-8")
    return None


def changes(now: dict[str, Any], lock: dict[str, Any]) -> Iterator[str]:
    """Yield the parameters that stages last ran with otherwise, as `lora.r: 16 -> 32`.

    Args:
        now: The document of params.yaml.
        lock: The stages of dvc.lock.
    """
    ran: dict[str, Any] = {}
    for stage in lock.values():
        ran |= stage.get("params", {}).get(str(PARAMS), {})
    for name, before in ran.items():
        section, _, key = name.partition(".")
        after = now.get(section)
        if key:
            before, after = {key: before}, {key: after.get(key)} if isinstance(after, dict) else {}
        if isinstance(before, dict) and isinstance(after, dict):
            for each in before | after:
                if before.get(each) != after.get(each):
                    yield f"{section}.{each}: {json.dumps(before.get(each))} -> {json.dumps(after.get(each))}"


def moved(source: Mapping[str, Any], lock: Mapping[str, Any]) -> str:
    """Name `data.path` and `model.path` where other files lay than download last ran with; empty where none did.

    Args:
        source: The document of source.yaml, which dvc's wrapper renews; empty where nothing is known.
        lock: The stages of dvc.lock.
    """
    ran: dict[str, Any] = lock.get("download", {}).get("params", {}).get(str(SOURCE), {})
    return " and ".join(f"{name}.path" for name, before in ran.items() if source and source.get(name) != before)


def made_anew(lock: Mapping[str, Any], stages: Collection[str] | None = None) -> str | None:
    """Name an output that a stage had read before it was made anew, as after a run that was interrupted; None if none.

    Args:
        lock: The stages of dvc.lock.
        stages: Those that may have read it; None for all.
    """
    made = {out["path"]: out.get("md5") for stage in lock.values() for out in stage.get("outs", ())}
    deps = (dep for name, stage in lock.items() if stages is None or name in stages for dep in stage.get("deps", ()))
    return next((dep["path"] for dep in deps if made.get(dep["path"]) not in (None, dep.get("md5"))), None)


def is_recorded(model: Path) -> bool:
    """Whether an output in this folder is what dvc.lock records of it."""
    with open_project() as repo:
        made = (out for out in repo.index.outs if out.hash_info and Path(out.fs_path) == model.absolute())
        return not any(out.status() for out in made)


def changed_code(stages: Collection[str]) -> str | None:
    """Name code that one of these stages last ran with otherwise; None where all is as it was."""
    with open_project() as repo:
        made = [Path(out.fs_path) for out in repo.index.outs]
        deps = (dep for stage in repo.index.stages if getattr(stage, "name", None) in stages for dep in stage.deps)
        code = (dep for dep in deps if not any(Path(dep.fs_path).is_relative_to(out) for out in made))
        # Parameters are told by ``changes``, value by value.
        return next((str(dep) for dep in code if dep.hash_info.name == "md5" and dep.workspace_status()), None)
