"""The gate: whether a model may take another's place, as an exit code."""

import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from vitlora.compare import wording
from vitlora.compare.paired import pictures_needed, smallest_visible_drop
from vitlora.compare.runs import Run
from vitlora.compare.two import Comparison
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted
from vitlora.evaluate.intervals import wilson

PASSED, WORSE, UNDECIDED, BELOW = 0, 3, 4, 5  # exit codes; 1 is an error, 2 a mistake of the command line
Z_ONE_SIDED = 1.6448536269514722  # 95 % of the normal distribution
LEAST_SHARED = 0.5  # of the pictures of the model in place


class Floor(NamedTuple):
    """A class's share of right pictures beside the share that it must have.

    Args:
        name: Of the class.
        floor: 0 to 1.
        right, pictures: Counts, over all test pictures of the new model.
        low, high: Each end is passed in one of twenty test sets (Wilson).
    """

    name: str
    floor: float
    right: int
    pictures: int
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Below, held, or undecided."""
        if self.high < self.floor:
            return "below"
        return "held" if self.low >= self.floor else "undecided"


def gate_verdict(found: Comparison, tolerance: float, margin: float) -> str:
    """Return worse, not worse or undecided.

    Not worse: a drop as large as the margin is ruled out. Worse: a drop larger than the tolerance is shown. Each by a
    one-sided test at 5 %; where both hold, the drop is real and too small to matter.

    Args:
        found: The comparison; models that answer the same on every picture are no worse than each other.
        tolerance: Drop that is accepted even if it is sure, as a share.
        margin: Drop that must be ruled out before a model counts as no worse; not below the tolerance.
    """
    if found.same or found.one_sided.low > -margin:
        return "not worse"
    return "worse" if found.one_sided.high < -tolerance else "undecided"


def require_same_pictures(found: Comparison, before: Run) -> None:
    """Refuse a gate that most pictures could pass by: those that only the model in place was scored on.

    Raises:
        VitloraError: Fewer than half of its pictures are compared.
    """
    had = len(before.answers.paths)
    if found.pictures < LEAST_SHARED * had:
        raise VitloraError(
            f"{found.b} was scored on {found.pictures:,} of the {counted(had, 'test picture')} of {found.a}; the rule: "
            f"at least half, else a gate tells nothing. Give data, ingest and split in params.yaml the values that "
            f"{before.name} had, and `vitlora run`"
        )


def parse_floors(words: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """Return the floor of each class from `0.9`, which is for all, and `NAME=0.9`, which goes first.

    Raises:
        VitloraError: A floor is no share, or there is no such class.
    """
    floors: dict[str, float] = {}
    seen: dict[str, str] = {}
    for word in sorted(words, key=lambda word: "=" in word):
        name, _, number = word.rpartition("=")
        try:
            floor = float(number)
        except ValueError:
            floor = -1.0
        if not 0 <= floor <= 1 or word.startswith("="):
            raise VitloraError(f"--class-floor: got {word}; the rule: a share from 0 to 1, such as 0.9 or NAME=0.9")
        if (key := name if "=" in word else "") in seen:
            raise VitloraError(
                f"--class-floor: {word} after {seen[key]}; the rule: one floor for each class, one for all"
            )
        seen[key] = word
        if name and name not in names:
            near = ", ".join(difflib.get_close_matches(name, names, cutoff=0.4)) or ", ".join(sorted(names)[:5])
            raise VitloraError(f"--class-floor: no test picture is of the class {name}; classes are such as {near}")
        floors |= {name: floor} if name else dict.fromkeys(names, floor)
    return floors


def check_floors(words: Sequence[str], run: Run, before: Run) -> list[Floor]:
    """Return the floors of a run's classes with what it reaches, the lowest first.

    A class that only the run before has pictures of can hold its floor or not: it is undecided.
    """
    answers = run.answers
    pictures = Counter(answers.actual)
    hits = Counter(label for label, said in zip(answers.actual, answers.predicted, strict=True) if label == said)
    found = []
    for name, floor in parse_floors(words, list(dict.fromkeys((*pictures, *before.answers.actual)))).items():
        low, high = wilson(hits[name], pictures[name], Z_ONE_SIDED) if pictures[name] else (0.0, 1.0)
        found.append(Floor(name, floor, hits[name], pictures[name], float(low), float(high)))
    return sorted(found, key=lambda floor: (floor.right / max(1, floor.pictures), floor.name))


def exit_code(verdict: str, floors: Sequence[Floor], on_undecided: str) -> int:
    """Return the exit code: worse before a class below its floor, that before undecided.

    Args:
        verdict: From ``gate_verdict``.
        floors: From ``check_floors``.
        on_undecided: pass or fail.
    """
    kinds = {floor.verdict for floor in floors}
    if verdict == "worse":
        return WORSE
    if "below" in kinds:
        return BELOW
    return UNDECIDED if on_undecided == "fail" and "undecided" in {verdict, *kinds} else PASSED


def lines(
    found: Comparison, verdict: str, floors: Sequence[Floor], limits: Mapping[str, float], on_undecided: str
) -> Iterator[str]:
    """Yield what the gate says.

    Args:
        found: The comparison.
        verdict: From ``gate_verdict``.
        floors: From ``check_floors``.
        limits: ``tolerance`` and ``margin``, as shares.
        on_undecided: pass or fail.
    """
    yield f"{found.b} against {found.a}: accuracy {wording.span(found.one_sided)} points, 90 % interval"
    yield f"{verdict}: {_reason(found, verdict, limits)}"
    counts = len(found.broken), len(found.fixed), found.pictures
    drop = smallest_visible_drop(*counts, limits["tolerance"])
    yield f"smallest drop that would be seen in 80 of 100 test sets like this: {100 * drop:.2f} points"
    if verdict == "undecided":
        needed = pictures_needed(limits["margin"], (counts[0] + counts[1] + 2) / (counts[2] + 2))
        yield (
            f"to see a drop of {100 * limits['margin']:g} points as often, about {needed:,} pictures would be needed; "
            f"undecided does {'not ' if on_undecided == 'pass' else ''}fail (--undecided)"
        )
    for floor in floors:
        if floor.verdict != "held":
            sure = "sure" if floor.verdict == "below" else "not sure"
            right = "no test picture"
            if floor.pictures:
                span = f"{floor.low:.4f} to {floor.high:.4f}"
                right = f"{floor.right / floor.pictures:.4f} right ({floor.right:,} of {floor.pictures:,}; {span})"
            yield f"class {floor.name}: {right}, floor {floor.floor:g}: {floor.verdict}, {sure} to 95 %"
    held = sum(floor.verdict == "held" for floor in floors)
    if floors:
        yield f"{held} of {counted(len(floors), 'class floor')} held for sure"
    yield from (f"note: {note}" for note in found.notes)


def _reason(found: Comparison, verdict: str, limits: Mapping[str, float]) -> str:
    margin, tolerance = (f"{100 * limits[name]:g} points" for name in ("margin", "tolerance"))
    if verdict == "worse":
        return f"it has lost more than the tolerance of {tolerance}, sure to 95 %"
    if found.same:
        return "the two answer the same, equally surely, on every picture"
    if verdict == "not worse":
        better = ", and it is better" if found.one_sided.low > 0 else ""
        return f"a drop of {margin} or more is ruled out, sure to 95 %{better}"
    return f"neither is a drop of more than {tolerance} shown, nor one of {margin} ruled out"
