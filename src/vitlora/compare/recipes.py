"""Two recipes, each by several runs that differ in their seed alone: means over seeds, by Welch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitlora.compare import wording
from vitlora.compare.paired import ONE_SIDED, Interval, welch
from vitlora.compare.pairs import Pairs, pair, pairing_notes
from vitlora.compare.runs import Run
from vitlora.compare.two import SEED, class_figures, differing, loss_figures, numbered, verdict
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted


@dataclass(frozen=True)
class SeedFigure:
    """A score of every run, and the difference of the means, second recipe minus first, with Welch's interval and p."""

    name: str
    a: list[float]
    b: list[float]
    difference: Interval
    p: float


@dataclass(frozen=True)
class Recipes:
    """What several seeds tell of two recipes.

    Args:
        a, b: Labels of the runs.
        seeds: ``train.seed`` of the runs of both.
        pictures: That all runs were scored on.
        paired_by: `sha256` or `path`.
        verdict: better, worse, equivalent or undecided, by accuracy.
        margin: A difference below it counts as none, as a share.
        figures: Accuracy first.
        params: Dotted key, first's value, second's.
        notes: What the reader must know.
    """

    a: list[str]
    b: list[str]
    seeds: tuple[list[Any], list[Any]]
    pictures: int
    paired_by: str
    verdict: str
    margin: float
    figures: list[SeedFigure]
    params: list[tuple[str, Any, Any]]
    notes: list[str]


def compare_recipes(first: Sequence[Run], second: Sequence[Run], margin: float) -> Recipes:
    """Compare the means of several runs of two recipes, on the pictures that all were scored on.

    Args:
        first, second: At least two runs each, with other seeds and equal parameters else.
        margin: Difference of accuracy that counts as none, as a share.

    Raises:
        VitloraError: A side has one run, parameters differ within it, a seed stands twice, or pictures are too few.
    """
    for side in (first, second):
        require_seeds(side)
    runs = [*first, *second]
    pairs = pair(runs)
    scores = [_scores(pairs, place, run) for place, run in enumerate(runs)]
    figures = []
    for name in (name for name in scores[0] if all(name in each for each in scores)):
        values = [each[name] for each in scores]
        a, b = values[: len(first)], values[len(first) :]
        figures.append(SeedFigure(name, a, b, *welch(a, b)))
    accuracy = figures[0]
    one_sided, _ = welch(accuracy.a, accuracy.b, ONE_SIDED)
    return Recipes(
        a=[run.label for run in first],
        b=[run.label for run in second],
        seeds=([run.params[SEED] for run in first], [run.params[SEED] for run in second]),
        pictures=pairs.rows.shape[1],
        paired_by=pairs.by,
        verdict=verdict(accuracy.difference, one_sided, margin),
        margin=margin,
        figures=figures,
        params=[row for row in differing(first[0].params, second[0].params) if row[0] != SEED],
        notes=[*pairing_notes(pairs, runs), *(note for run in runs for note in run.notes)],
    )


def require_seeds(side: Sequence[Run]) -> None:
    """Refuse runs that are not seeds of one recipe.

    Raises:
        VitloraError: There is one run only, parameters other than the seed differ, or two have the same seed.
    """
    names = ", ".join(run.name for run in side)
    if len(side) < 2:
        raise VitloraError(
            f"{names}: one run; the rule: at least two seeds of each recipe where one has several. Make another by "
            f"`dvc exp run -S {SEED}=1`, or name one run of each"
        )
    for other in side[1:]:
        keys = [key for key, *_ in differing(side[0].params, other.params) if key != SEED]
        if keys:
            raise VitloraError(
                f"{side[0].name} and {other.name} differ in {', '.join(keys)}; the rule: runs of one side differ in "
                f"{SEED} alone. Name runs of one recipe on each side"
            )
    seeds = [run.params.get(SEED) for run in side]
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None or None in seeds:
        what = f"{SEED} {twice} stands twice" if twice is not None else f"{SEED} is not known"
        raise VitloraError(f"{names}: {what}; the rule: runs of one side differ in {SEED}. Name one run of each seed")


def _scores(pairs: Pairs, place: int, run: Run) -> dict[str, float]:
    """Return one run's scores on the shared pictures."""
    alone = pairs._replace(rows=pairs.rows[[place, place]])
    shared = numbered(alone, run, run)
    losses, _ = loss_figures(alone, shared, run, run)
    figures = {figure.name: figure.a for figure in [*class_figures(shared), *losses]}
    return {"accuracy": float(shared.right[0].mean()), **figures}


def lines(found: Recipes) -> Iterator[str]:
    """Yield what is said above and below the table."""
    runs = f"{counted(len(found.a), 'seed')} of A, {len(found.b)} of B"
    say = {
        "better": "recipe B is better than recipe A",
        "worse": "recipe B is worse than recipe A",
        "equivalent": f"the recipes are equivalent: they differ by less than {100 * found.margin:g} points",
        "undecided": "it can't be told which recipe is better; more seeds would tell",
    }[found.verdict]
    yield f"{found.verdict}: {say} ({runs}, {counted(found.pictures, 'test picture')})"


def rows(found: Recipes) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield the table: score, mean and standard deviation of both, difference with interval, p."""
    for figure in found.figures:
        yield (
            figure.name,
            spread(figure.a),
            spread(figure.b),
            wording.span(figure.difference, figure.name),
            f"{figure.p:.3g}",
        )


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds."""
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


HEAD = ("score (mean ± sd)", "A", "B", "B - A (Welch, 95 %), in points", "p")
CAUTION = "this compares recipes on these test pictures: other pictures may fall otherwise"


def show(found: Recipes) -> None:
    """Print a comparison of recipes."""
    from vitlora.compare.screen import COLOURS, grid, make_console, say

    console = make_console()
    for side, runs, seeds in (("A", found.a, found.seeds[0]), ("B", found.b, found.seeds[1])):
        say(console, f"{side}  {', '.join(runs)}; {SEED} {', '.join(map(str, seeds))}")
    console.print()
    for line in lines(found):
        say(console, line, COLOURS[found.verdict])
    console.print()
    grid(console, [(head, "left") for head in HEAD], rows(found))
    if found.params:
        columns = (("parameter", "left"), ("A", "left"), ("B", "left"))
        grid(console, columns, ((key, wording.value(a), wording.value(b)) for key, a, b in found.params))
    for note in [*found.notes, CAUTION]:
        say(console, f"note: {note}", "dim")


def report(found: Recipes) -> str:
    """Return the comparison as Markdown."""
    from vitlora.compare.markdown import code, folded, plain, table

    text = [f"### {line}\n" for line in lines(found)]
    for side, runs, seeds in (("A", found.a, found.seeds[0]), ("B", found.b, found.seeds[1])):
        text.append(f"{side}: {', '.join(map(code, runs))}; {SEED} {', '.join(map(str, seeds))}  ")
    text += ["", *table(HEAD, rows(found))]
    if found.params:
        params = ((code(key), code(wording.value(a)), code(wording.value(b))) for key, a, b in found.params)
        text += folded(wording.params_title(len(found.params)), table(("parameter", "A", "B"), params))
    return "\n".join([*text, *(f"* {plain(note)}" for note in [*found.notes, CAUTION]), ""])
