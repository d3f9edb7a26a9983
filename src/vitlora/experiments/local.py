"""Experiments on this machine: children of the runner, which leave when it does."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitlora.experiments.begin import Plan
from vitlora.experiments.journal import Member
from vitlora.trials.child import Child
from vitlora.trials.devices import Slot
from vitlora.trials.tree import Tree
from vitlora.trials.values import with_values


@dataclass
class Local:
    """Begins experiments here.

    Args:
        slots: What each of the experiments that run at once has.
        lock: Handle of the sweep's lock, which children hold too.
    """

    slots: Sequence[Slot]
    lock: int
    outlives: bool = False
    parting: str = "stopped after {} experiments, which are kept; the same command goes on"

    @property
    def most(self) -> int:
        """At once."""
        return len(self.slots)

    @property
    def manner(self) -> str:
        """How many run at once."""
        return f", {self.most} at once" if self.most > 1 else ""

    def at_work(self, plan: Plan) -> list[Child]:
        """Nothing: children have left with their runner."""
        return []

    def look(self) -> str:
        """Children are asked one by one."""
        return ""

    def begin(self, plan: Plan, member: Member, busy: Sequence[int]) -> Child:
        """Begin an experiment on the first slot that is free."""
        slot = min(set(range(len(self.slots))) - set(busy))
        child = Child(
            Tree(plan.folder / f"tree-{slot}", plan.origin),
            plan.folder,
            plan.name(member.number),
            member.number,
            member.values,
            with_values(plan.document, member.values),
            env=self.slots[slot].env,
            handles=(self.lock, *self.slots[slot].handles),
            place={"slot": slot, "device": self.slots[slot].device, "job": ""},
        )
        child.start()
        return child
