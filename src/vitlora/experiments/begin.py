"""The first steps of a sweep: all that can be refused is, before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.core.text import counted
from vitlora.experiments.grid import Values, identity, members, read_grid, refuse_mistakes
from vitlora.experiments.journal import QUEUED, Journal, mend, read_journal
from vitlora.safety.preflight import check_params
from vitlora.safety.source import write_source
from vitlora.safety.workspace import PARAMS
from vitlora.trials.names import JOURNAL, refuse_taken
from vitlora.trials.tree import Origin, begun_from, check_changes, find_origin, keep_changes
from vitlora.trials.values import refuse_unread, shown_values


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Args:
        folder: Of its own, named as it is.
        document: params.yaml as it was at the beginning.
        origin: What its experiments start from.
        journal: Its memory.
    """

    folder: Path
    document: dict[str, Any]
    origin: Origin
    journal: Journal

    def name(self, number: int) -> str:
        """Return an experiment's name."""
        return f"{self.folder.name}-{number:03d}"


def prepare(words: Sequence[str], folder: Path) -> Plan:
    """Check what was typed and open the sweep's journal; for the holder of its lock.

    Args:
        words: Of ``-S``.
        folder: Of the sweep.

    Raises:
        VitloraError: A mistake in params.yaml or the words, or another sweep has this name.
    """
    check_params()
    write_source()  # as dvc's wrapper does: experiments must know what lies at data.path
    grid = read_grid(words)
    wanted = members(grid)
    mend(folder / JOURNAL)
    journal = read_journal(folder)
    origin = find_origin()
    document = journal.about["document"] if journal.about else read_document(PARAMS)
    new = _new(document, journal, wanted, folder)
    refuse_mistakes(document, new)
    refuse_unread("-S", grid, document, grid.get("lora.method") or [document["lora"]["method"]])
    if journal.about:
        check_changes(folder, "sweep", journal.about, origin.commit, origin.changes)
    else:
        refuse_taken(folder)
        about = {"commit": origin.commit, "below": str(origin.below), "document": document}
        journal.begin({**about, "changes": keep_changes(folder, origin.changes)})
    if new and journal.members:
        print(f"{folder.name}: {counted(len(new), 'experiment')} more; those that are there stay")
    for number, values in enumerate(new, len(journal.members)):
        journal.note(number, values=values)
    return Plan(folder, document, begun_from(origin, folder, journal.about["commit"]), journal)


def prepare_again(folder: Path) -> Plan:
    """Open a sweep as it was begun; for the holder of its lock.

    Raises:
        VitloraError: Its journal or its patch is damaged.
    """
    check_params()
    write_source()
    mend(folder / JOURNAL)
    journal, origin = read_journal(folder), find_origin()
    if not journal.members:
        raise VitloraError(f"{folder.name}: nothing has begun under this name; `vitlora experiments run -S ...` does")
    check_changes(folder, "sweep", journal.about, origin.commit, origin.changes)
    start = begun_from(origin, folder, journal.about["commit"])
    return Plan(folder, journal.about["document"], start, journal)


def as_begun(folder: Path) -> Plan:
    """Return a sweep as its journal has it, whatever has become of the project: to look at it, and to end it."""
    journal = read_journal(folder)
    about = journal.about or {"below": ".", "document": {}, "commit": ""}
    return Plan(folder, about["document"], Origin(Path(), Path(about["below"]), about["commit"], b"", Path()), journal)


def hand_over(plan: Plan, options: Sequence[str] | None) -> None:
    """Note what jobs are submitted with and need to know; None where experiments run on this machine.

    Raises:
        VitloraError: Jobs are at work, and experiments would run twice.
    """
    with_slurm = sum(member.state == QUEUED for member in plan.journal.members.values())
    if options is None and with_slurm:
        raise VitloraError(
            f"{plan.folder.name}: {counted(with_slurm, 'experiment')} of it {'is' if with_slurm == 1 else 'are'} with "
            f"SLURM; go on with --engine slurm, or first `vitlora experiments stop {plan.folder.name}`"
        )
    where = {"top": str(plan.origin.top), "cache": str(plan.origin.cache)}
    slurm = None if options is None else {"options": list(options), **where}
    if slurm != plan.journal.about.get("slurm"):
        plan.journal.begin({**plan.journal.about, "slurm": slurm})


def _new(document: dict[str, Any], journal: Journal, wanted: Sequence[Values], folder: Path) -> list[Values]:
    """Return the experiments that the journal does not have.

    Raises:
        VitloraError: It has some that are not wanted any more.
    """
    asked = {identity(document, values): values for values in wanted}
    known = {identity(document, member.values): member for member in journal.members.values()}
    gone = [member for key, member in known.items() if key not in asked]
    if gone:
        raise VitloraError(
            f"{folder.name}: a sweep of this name has {counted(len(gone), 'experiment')} that this -S has not, such as "
            f"{folder.name}-{gone[0].number:03d}: {shown_values(gone[0].values)}; the rule: values may be added, none "
            f"taken away. --name another begins a new one; `rm -r {folder}` forgets the old"
        )
    return [values for key, values in asked.items() if key not in known]
