"""Which rows of two or more runs are of the same picture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitlora.compare.runs import Answers, Run
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted

Ints = NDArray[np.int64]
Rights = NDArray[np.bool_]
FEWEST = 20  # pictures; with fewer, half of the answers may differ by chance
SHOWN = 3


class Pairs(NamedTuple):
    """Pictures that all runs have with the same label.

    Args:
        rows: int64, (runs, M): the row of each picture in each run.
        by: `sha256` of the pictures' files, or their `path`.
        relabelled: Path and labels of pictures that don't have one label in all runs.
        others: Pictures of each run that another lacks.
    """

    rows: Ints
    by: str
    relabelled: list[tuple[str, list[str]]]
    others: list[int]


def pair(runs: Sequence[Run]) -> Pairs:
    """Find the pictures that all runs have been scored on.

    Pictures are known by the SHA-256 of their files; by their paths where a run is older than that. A picture that
    stands twice in each is paired twice.

    Raises:
        VitloraError: There are too few to compare.
    """
    answers = [run.answers for run in runs]
    by = "path" if any(each.digests is None for each in answers) else "sha256"
    places = [_places(_keys(each, by)) for each in answers]
    all_have = set(places[0]).intersection(*places[1:])
    shared = [key for key in places[0] if key in all_have]
    rows = np.array([[own[key] for key in shared] for own in places], np.int64).reshape(len(runs), len(shared))
    labels = [[each.actual[row] for row in own] for each, own in zip(answers, rows.tolist(), strict=True)]
    equal = [row.count(row[0]) == len(row) for row in zip(*labels, strict=True)]
    relabelled = [
        (answers[0].paths[rows[0, place]], [own[place] for own in labels])
        for place, same in enumerate(equal)
        if not same
    ]
    kept = rows[:, np.array(equal, bool)]
    others = [len(own) - len(shared) for own in places]
    _require_enough(kept.shape[1], runs, others, relabelled)
    return Pairs(kept, by, relabelled, others)


def _keys(answers: Answers, by: str) -> Sequence[str]:
    return answers.paths if by == "path" or answers.digests is None else answers.digests


def _places(keys: Sequence[str]) -> dict[str, int]:
    """Return the row of each key; of one that stands several times, the later ones get a number behind."""
    places = dict(zip(keys, range(len(keys)), strict=True))
    if len(places) == len(keys):
        return places
    seen: Counter[str] = Counter()
    numbered = {}
    for row, key in enumerate(keys):
        numbered[f"{key}\0{seen[key]}" if seen[key] else key] = row
        seen[key] += 1
    return numbered


def _require_enough(
    count: int, runs: Sequence[Run], others: Sequence[int], relabelled: Sequence[tuple[str, list[str]]]
) -> None:
    if count >= FEWEST:
        return
    names = " and ".join(run.label for run in runs)
    found = f"{names} share {counted(count, 'test picture')} with equal labels; the rule: at least {FEWEST}"
    if relabelled:
        path, labels = relabelled[0]
        raise VitloraError(
            f"{found}. With another label: {len(relabelled):,}, such as {path}: {' / '.join(labels)}. "
            "Classes that were renamed can't be compared; run the older parameters on the renamed classes"
        )
    if not any(others):
        raise VitloraError(
            f"{names}: {counted(count, 'test picture')}; the rule: at least {FEWEST}, for with fewer nothing shows. "
            "Raise split.test_fraction, or add pictures, and `vitlora run`"
        )
    raise VitloraError(
        f"{found}. Score both on the same pictures: give data, ingest and split in params.yaml the values that "
        f"{runs[0].name} had, and `vitlora run`"
    )


def pairing_notes(pairs: Pairs, runs: Sequence[Run]) -> Iterator[str]:
    """Say what the reader must know of which pictures are compared."""
    if pairs.by == "path":
        old = ", ".join(run.label for run in runs if run.answers.digests is None)
        yield f"pictures are paired by path, for {old} has no digests; one replaced under its name counts as the same"
    if any(pairs.others):
        extra = [f"{count:,} more in {run.label}" for count, run in zip(pairs.others, runs, strict=True) if count]
        both = counted(pairs.rows.shape[1], "picture")
        yield f"the test sets differ: only the {both} that all have are compared; {', '.join(extra)}"
    if pairs.relabelled:
        named = [f"{path} ({' / '.join(labels)})" for path, labels in pairs.relabelled[:SHOWN]]
        more = f" and {len(pairs.relabelled) - SHOWN} more" if len(pairs.relabelled) > SHOWN else ""
        count = counted(len(pairs.relabelled), "picture")
        yield f"left out for another label in one of them, {count}: {', '.join(named)}{more}"
