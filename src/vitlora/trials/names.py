"""Names of searches and sweeps, which their experiments' names begin with."""

import re
from pathlib import Path

from vitlora.compare.revisions import experiments
from vitlora.core.errors import VitloraError
from vitlora.core.text import printable

JOURNAL = "journal.jsonl"  # in the folder of each
NAMES = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


def refuse_name(name: str, option: str = "--name") -> None:
    """Refuse what can't be a folder's and an experiment's name.

    Raises:
        VitloraError: It can't.
    """
    if not NAMES.fullmatch(name) or name == "out":  # what `shortage_named` takes away
        raise VitloraError(
            f"{option}: got {printable(name)}; the rule: a letter, then at most 40 letters, digits, - and _; not out"
        )


def refuse_taken(folder: Path) -> None:
    """Refuse names that experiments have or will have: those of a search that was forgotten, say.

    Raises:
        VitloraError: Others have them.
    """
    for other in folder.parent.parent.glob(f"*/{folder.name}/{JOURNAL}"):
        if other.parent != folder:
            raise VitloraError(
                f"{folder.name}: {other.parent} has this name, and its experiments would too; --name another"
            )
    taken = [ref.rpartition("/")[2] for ref, _ in experiments()]
    mine = [name for name in taken if re.fullmatch(rf"{folder.name}-\d+", name)]
    if mine:
        raise VitloraError(
            f"{folder.name}: there are experiments of this name already, such as {mine[0]}; --name another, or "
            f"`dvc exp remove {' '.join(mine)}`"
        )
