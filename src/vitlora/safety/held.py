"""What dvc.lock records of a stage is what the stage began with, whatever is edited while it runs."""

import sys
from contextlib import suppress
from copy import copy
from typing import Any

from dvc.dependency.base import DependencyDoesNotExistError

from vitlora.core.text import printable


def hold_deps(stage: Any) -> None:
    """Let DVC record a stage's parameters, code and inputs as they are now.

    It reads them again when the stage has ended (dvc 3.67.1, Stage.save): values that were written for the next run
    would be recorded with this one's results, and the next run would find nothing to do.

    Args:
        stage: DVC's stage, which is about to run.
    """
    begun = list(map(_now, stage.deps))
    save_deps = stage.save_deps

    def as_begun(allow_missing: bool = False) -> None:
        save_deps(allow_missing=allow_missing)
        for dep, then in zip(stage.deps, begun, strict=True):
            if dep.hash_info != then["hash_info"]:
                vars(dep).update(then)
                note = f"{dep} was changed while {stage.addressing} ran; this run is without it, the next one has it"
                print(printable(f"note: {note}"), file=sys.stderr)

    stage.save_deps = as_begun


def _now(dep: Any) -> dict[str, Any]:
    """Return what DVC would record of a dependency. It itself stays as recorded: DVC decides by that what to run."""
    seen = copy(dep)
    with suppress(DependencyDoesNotExistError):  # the stage fails
        seen.save()
    return dict(vars(seen))
