"""What a sweep asks of an experiment at work and of an engine, here or on a cluster."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from vitlora.experiments.begin import Plan
from vitlora.experiments.journal import Member
from vitlora.trials.child import Ending
from vitlora.trials.tree import Tree

LOST = "lost"  # an ending beside those of `vitlora.trials.child`: it is to be begun again, when there is room


class Work(Protocol):
    """An experiment at work: `vitlora.trials.child.Child`, or a job of SLURM's."""

    tree: Tree
    name: str
    number: int

    @property
    def document(self) -> Mapping[str, Any]:
        """params.yaml with its values."""

    @property
    def place(self) -> Mapping[str, Any]:
        """What the journal keeps of where it runs."""

    @property
    def seconds(self) -> float:
        """Of this try."""

    def stop(self) -> None:
        """Ask it to stop; it may be asked again."""

    def is_over(self) -> bool:
        """Whether it has ended, however that may be."""

    def settle(self, halted: bool) -> Ending:
        """Return how it ended; ``halted`` says that all were asked to stop."""

    def forget(self) -> None:
        """Remove what only a run that goes on needs."""


class Engine(Protocol):
    """Begins experiments."""

    outlives: bool  # whether they go on without a runner
    parting: str  # what a runner says that is asked to stop

    @property
    def most(self) -> int:
        """At once."""

    @property
    def manner(self) -> str:
        """How experiments run, for the first line on screen."""

    def at_work(self, plan: Plan) -> Sequence[Work]:
        """Return what an earlier runner has left at work."""

    def look(self) -> str:
        """Take in what is new, once a round; return a trouble that is to be shown."""

    def begin(self, plan: Plan, member: Member, busy: Sequence[int]) -> Work | None:
        """Begin an experiment beside those on these slots; None where that can't be just now."""
