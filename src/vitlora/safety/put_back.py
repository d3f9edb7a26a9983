"""What a stage that fails had made before comes back: DVC removes a stage's outputs before it starts the stage."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.safety.held import hold_deps
from vitlora.storage.manifest import MANIFEST

SHOWN = 3


def run_or_put_back(run: Callable[..., None], stage: Any, dry: bool = False, **options: Any) -> None:
    """Run a stage as DVC does; where it fails, whatever has gone of its outputs comes back as it was.

    What the stage has left itself stays, such as the log of another project's stage. Moving the outputs aside costs no
    room and no time, and keeps what DVC knows of them, so that nothing is hashed again.

    Args:
        run: DVC's method.
        stage: DVC's stage, for which DVC holds its lock.
        dry: Whether nothing is to run.
        options: Of DVC's method.
    """
    if dry or stage.frozen or not stage.cmd:
        run(stage, dry=dry, **options)
        return
    hold_deps(stage)
    aside = Path(stage.repo.tmp_dir, "before", quote(stage.addressing, safe=""))
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    kept = dict(_set_aside(stage, aside))
    try:
        run(stage, dry=dry, **options)
        if not options.get("no_commit") and not options.get("allow_missing"):
            _refuse_lost(stage)
            # What a stage keeps to go on from is of use until now: a kill while DVC hashes would take its outputs away.
            shutil.rmtree(Path(stage.repo.root_dir, ".work", stage.addressing, "kept"), ignore_errors=True)
    except BaseException:
        _put_back(stage, kept)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _refuse_lost(stage: Any) -> None:
    """Refuse an output that is not whole though its stage has ended well, as where the disk is full.

    DVC says nothing of an object that did not fit into its cache (dvc 3.67.1).

    Args:
        stage: DVC's stage, which has just run.

    Raises:
        VitloraError: An output is missing here or in the cache.
    """
    found = [f"{path}: {what}" for out in stage.outs for path, what in out.status().items()]
    if found:
        raise VitloraError(f"{'; '.join(found)}; is the disk full? then make room, and run again")


def _set_aside(stage: Any, aside: Path) -> Iterator[tuple[Path, Path | None]]:
    """Move a stage's outputs away; yield where each was and is, None for what only DVC's cache has."""
    for number, out in enumerate(stage.outs):
        if out.protocol != "local" or out.persist or not os.path.lexists(out.fs_path):
            continue
        place, other = Path(out.fs_path), aside / str(number)
        if is_foreign(root := Path(stage.repo.root_dir), stage.addressing, place):
            kept = keep_found(root, place, str(out))
            print(printable(f"note: {out} held files that no stage had made; they lie in {kept} now"))
            continue
        aside.mkdir(parents=True, exist_ok=True)
        try:
            place.rename(other)
        except OSError:  # on another disk, where what DVC's cache has needs no copy
            if out.use_cache and not out.changed():
                yield place, None
                continue
            shutil.move(place, other)
        yield place, other


def is_foreign(root: Path, stage: str, place: Path) -> bool:
    """Whether a folder where a stage of ours writes was made by none: it has files and no manifest.

    Args:
        root: Of the project.
        stage: As DVC addresses it.
        place: The folder.
    """
    ours = (root / f"stages/{stage}.py").is_file()
    if not ours or place.is_symlink() or not place.is_dir() or (place / MANIFEST).exists():
        return False
    return any(path.is_file() for path in place.rglob("*"))


def keep_found(root: Path, place: Path, name: str) -> str:
    """Move a folder that no stage has made away for good: it may be the only copy of somebody's pictures.

    Args:
        root: Of the project.
        place: The folder.
        name: It has in the project.

    Returns:
        Where it lies now.
    """
    found = root / ".work/found"
    found.mkdir(parents=True, exist_ok=True)
    numbered = (found / f"{quote(name, safe='')}-{number}" for number in count())
    kept = next(path for path in numbered if not path.exists())
    shutil.move(place, kept)
    return os.path.relpath(kept)


def _put_back(stage: Any, kept: dict[Path, Path | None]) -> None:
    back = []
    for out in stage.outs:
        place = Path(out.fs_path)
        if place not in kept or os.path.lexists(place):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        if other := kept[place]:
            shutil.move(other, place)
        else:
            out.checkout(force=True)
        back.append(str(out))
    if back:
        more = f" and {len(back) - SHOWN} more" if len(back) > SHOWN else ""
        print(printable(f"put back as it was: {', '.join(back[:SHOWN])}{more}"), file=sys.stderr)
