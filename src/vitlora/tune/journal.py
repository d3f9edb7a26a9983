"""A search's memory on the disk: Optuna's journal, and what the search is about."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from vitlora.core.errors import VitloraError
from vitlora.core.params import shown
from vitlora.trials.names import JOURNAL
from vitlora.trials.tree import check_changes, keep_changes

PRUNE_FROM = 5  # finished trials, whose median at the same epoch a trial must reach


def open_study(folder: Path, lower: bool) -> optuna.Study:
    """Open a search's study, or begin one; for the holder of its lock.

    Args:
        folder: Of the search.
        lower: Whether the best score is the lowest.

    Raises:
        VitloraError: The journal is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path = folder / JOURNAL
    _mend(path)
    try:
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=folder.name,
            direction="minimize" if lower else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=PRUNE_FROM),
            load_if_exists=True,
        )
    except (ValueError, KeyError, AssertionError):
        raise VitloraError(f"{path} is damaged; `rm -r {folder}` forgets this search, or --name another") from None


def _mend(path: Path) -> None:
    """Take away what a kill left of a line, and Optuna's own lock, for which the next runner would wait 30 s."""
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if path.is_file() and not (text := path.read_bytes()).endswith(b"\n") and text:
        os.truncate(path, text.rfind(b"\n") + 1)


def agree(study: optuna.Study, folder: Path, about: Mapping[str, Any], changes: bytes) -> dict[str, Any]:
    """Return what a search is about: as given if it begins, else as it began, if that is the same search.

    Args:
        study: From ``open_study``.
        folder: Gets the patch of what was not committed.
        about: Its space, what is fixed, its seed, and where it starts from.
        changes: The patch.

    Raises:
        VitloraError: It is another search of this name, or its patch is damaged.
    """
    known: dict[str, Any] | None = study.user_attrs.get("about")
    if known is None:
        study.set_user_attr("about", {**about, "changes": keep_changes(folder, changes)})
        return study.user_attrs["about"]  # type: ignore[no-any-return]  # as the journal gives it back
    different = [key for key in ("space", "fixed", "seed") if known[key] != about[key]]
    if different:
        were = "; ".join(f"{key} was {shown(known[key])}, is {shown(about[key])}" for key in different)
        raise VitloraError(
            f"{folder.name}: a search of this name has begun with another {' and '.join(different)}: {were}; the rule: "
            f"the same command goes on with it. --name another begins a new one; `rm -r {folder}` forgets the old"
        )
    check_changes(folder, "search", known, about["commit"], changes)
    return known


def sampler(seed: int, number: int, key: str = "") -> TPESampler:
    """Return the sampler of one trial: what it draws is a function of the seed, its number and the trials before.

    One sampler for all would begin anew after a kill, and draw the first trials' values a second time. Each key has one
    too: a kill may come between two.
    """
    digest = hashlib.sha256(f"{seed}:{number}:{key}".encode()).digest()
    return TPESampler(seed=int.from_bytes(digest[:4], "little"))
