"""What a sweep gave: each experiment, means over seeds, and the lines to go on with."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console

from vitlora.compare import leaderboard, wording
from vitlora.compare.leaderboard import Entry, Group
from vitlora.compare.paired import Interval
from vitlora.compare.revisions import experiments
from vitlora.compare.screen import grid, say
from vitlora.compare.two import SEED
from vitlora.core.text import counted
from vitlora.experiments.begin import Plan
from vitlora.experiments.board import COLUMNS, counts, rows
from vitlora.experiments.grid import value_of, varied
from vitlora.experiments.journal import DONE, FAILED, RUNNING, Member
from vitlora.trials.sources import other_sources
from vitlora.trials.values import shown_values, with_values


def show(plan: Plan, console: Console) -> None:
    """Print the results of a sweep that has come to its end."""
    members = list(plan.journal.members.values())
    done = [member for member in members if member.state == DONE]
    console.print()
    table(plan, console)
    say(console, f"{plan.folder.name}: {counts(plan.journal)}")
    keys = varied([member.values for member in members], plan.document)
    recipe = [key for key in keys if key != SEED]
    if SEED in keys and done:
        _over_seeds(plan, done, recipe, console)
    entries = [_entry(plan, member, member.test or []) for member in done]
    changed = other_sources([plan.name(member.number) for member in done], keys)
    for note in (*_removed(plan, done), *changed, *(leaderboard.notes(entries, keys) if len(done) > 1 else ())):
        say(console, f"note: {note}", "dim")
    for line in commands(plan, done, recipe):
        print(line)


def table(plan: Plan, console: Console, alive: bool = True) -> None:
    """Print all experiments, then why those that failed did."""
    members = list(plan.journal.members.values())
    running = any(member.state == RUNNING for member in members)
    grid(console, COLUMNS, rows(plan, members, alive, wide=not running))
    for member in members:
        if member.state == FAILED:
            log = plan.folder / f"{member.number:03d}.log"
            say(console, f"{plan.name(member.number)} failed: {member.error}; its output: {log}", "red")


def _over_seeds(plan: Plan, done: Sequence[Member], keys: Sequence[str], console: Console) -> None:
    on_test, on_val = groups(plan, done, keys)
    head = (*keys, "seeds", "val mean ± sd", "test mean ± sd", "test 95 % (t)")
    lines = []
    for each in on_test:
        val = next(other for other in on_val if other.values == each.values)
        ends = f"{each.mean.low:.4f} to {each.mean.high:.4f}" if each.mean.low < each.mean.high else ""
        lines.append((*map(wording.value, each.values), str(each.seeds), _mean(val), _mean(each), ends))
    console.print()
    grid(console, [(name, "left") for name in head], lines, "over seeds")


def _mean(group: Group) -> str:
    return f"{group.mean.value:.4f}" + ("" if group.spread is None else f" ± {group.spread:.4f}")


def groups(plan: Plan, done: Sequence[Member], keys: Sequence[str]) -> tuple[list[Group], list[Group]]:
    """Return the experiments by the values of some parameters, seeds summarised: on test, and on val; best first."""
    tests = [_entry(plan, member, member.test or []) for member in done]
    vals = [_entry(plan, member, [member.val or 0.0] * 3) for member in done]
    on_test, on_val = (
        sorted(leaderboard.group(entries, keys), key=lambda each: -each.mean.value) for entries in (tests, vals)
    )
    return on_test, on_val


def _entry(plan: Plan, member: Member, score: Sequence[float]) -> Entry:
    document = with_values(plan.document, member.values)
    params = {f"{section}.{key}": value for section, keys in document.items() for key, value in keys.items()}
    return Entry(plan.name(member.number), member.commit, 1, Interval(*score), member.pictures, params)


def _removed(plan: Plan, done: Sequence[Member]) -> Iterator[str]:
    there = {ref.rpartition("/")[2] for ref, _ in experiments()}
    gone = [name for member in done if (name := plan.name(member.number)) not in there]
    if gone:
        yield (
            f"{', '.join(gone[:3])}{' ...' if len(gone) > 3 else ''}: no experiment any more, as after `dvc exp "
            "remove`; --name another makes them again, from DVC's cache"
        )


def commands(plan: Plan, done: Sequence[Member], keys: Sequence[str]) -> Iterator[str]:
    """Yield what picks the best by val, and the lines that compare it and take it.

    Args:
        plan: The sweep.
        done: The experiments that are.
        keys: Parameters of which not all have one value, without the seed.
    """
    if any(member.state == FAILED for member in plan.journal.members.values()):
        yield f"once more, what failed:    vitlora experiments retry {plan.folder.name}"
    teams = _teams(plan, done, keys)
    if not teams:
        return
    best = teams[0]
    if len(done) > 1:
        seeds = f", mean of {counted(len(best), 'seed')}" if len(best) > 1 else ""
        values = shown_values({key: best[0].values[key] for key in keys if key in best[0].values})
        ties = sum(_val(team) == _val(best) for team in teams) - 1
        tied = f"; {ties} more {'is' if ties == 1 else 'are'} as good on val" if ties else ""
        yield f"val picks {plan.name(best[0].number)}{seeds}{f': {values}' if values else ''}{tied}"
    if len(teams) > 1 and (len(best) > 1) == (len(teams[1]) > 1):
        second, first = (",".join(plan.name(member.number) for member in team) for team in (teams[1], best))
        yield f"better, or by chance?      vitlora compare {second} {first}"
    if keys:
        yield f"all of them, by parameter: vitlora compare --all --by {','.join(keys)}"
    yield f"take it:                   dvc exp apply {plan.name(best[0].number)}"


def _teams(plan: Plan, done: Sequence[Member], keys: Sequence[str]) -> list[list[Member]]:
    """Return the experiments by recipe, each by its seeds, the best on val first."""
    teams: dict[str, list[Member]] = {}
    for member in done:
        values = [value_of(plan.document, member.values, key) for key in keys]
        teams.setdefault(repr(values), []).append(member)
    return sorted(teams.values(), key=_val, reverse=True)


def _val(team: Sequence[Member]) -> float:
    """Return the mean on val; equal ones are equal to the last bit, however they were summed."""
    return round(math.fsum(member.val or 0.0 for member in team) / len(team), 6)
