"""All runs that Git knows, sorted by a score; grouped by parameters, seeds summarised."""

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vitlora.compare import wording
from vitlora.compare.paired import Interval, t_interval
from vitlora.compare.revisions import SHORT, experiments, object_ids, read_commits, require_git, run_git
from vitlora.compare.runs import LOCK, PARAMS, PREDICTIONS, SCORED, SCORES, params_of, parse_yaml
from vitlora.compare.two import ABSENT, SEED
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted
from vitlora.evaluate.intervals import wilson
from vitlora.safety.current import made_anew

INTERVALS = "metrics/evaluate/intervals.csv"
READ = (SCORES, INTERVALS, PARAMS, LOCK)
LOWER = ("loss", "brier", "calibration_error", "set_classes")  # in the names of scores that are better when lower
SHARES = ("accuracy", "top_")
SAME_TEST = ("data.", "ingest.", "split.", "source.data")  # what decides which pictures are test
LONGEST = 60  # characters of the parameters of a line


@dataclass(frozen=True)
class Entry:
    """One result.

    Args:
        name: Of the experiment, else of the commit.
        commit: 40 hex digits; the newest with this result.
        times: Commits and experiments with the same result and parameters.
        score: Value with its 95 % interval; without width where there is none.
        pictures: Test pictures.
        params: By dotted key.
    """

    name: str
    commit: str
    times: int
    score: Interval
    pictures: int
    params: dict[str, Any] = field(repr=False)


class Group(NamedTuple):
    """Runs with equal values of some parameters: mean with Student's interval where each has a seed of its own.

    Args:
        values: Of the parameters, in the order asked for.
        scores: One a run.
        seeds: Different seeds among them.
        mean: Without width where there is no such interval.
        spread: Standard deviation; None for one run.
    """

    values: tuple[Any, ...]
    scores: list[float]
    seeds: int
    mean: Interval
    spread: float | None


class Found(NamedTuple):
    """A commit that may be an entry, newest first."""

    name: str
    commit: str


def collect(metric: str) -> list[Entry]:
    """Return the results of all commits of branches and tags, and of all experiments, the best first.

    A result counts once however many commits carry it: equal predictions from equal parameters.

    Args:
        metric: A name of scores.json or intervals.csv.

    Raises:
        VitloraError: There is no Git, no result, or none with this metric.
    """
    require_git()
    found = list(_candidates())
    marks = object_ids([each.commit for each in found], (PREDICTIONS, SCORES, PARAMS, LOCK))
    by_mark: dict[tuple[str | None, ...], list[Found]] = {}
    for each, ids in zip(found, marks, strict=True):
        if ids[0] and ids[1]:
            by_mark.setdefault(tuple(ids), []).append(each)
    firsts = [same[0] for same in by_mark.values()]
    files = read_commits([each.commit for each in firsts], READ)
    known: set[str] = set()
    entries: dict[str, Entry] = {}
    for same, mark, content in zip(by_mark.values(), by_mark, files, strict=True):
        lock, scores = _lock(content, same[0].name), read_scores(content, same[0].name)
        if made_anew(lock, SCORED):  # a trial of `vitlora tune`, say: its scores are those of the commit before
            continue
        known |= set(scores)
        if metric in scores:
            params = params_of(parse_yaml(content, PARAMS, same[0].name), lock)
            key = json.dumps([mark[0], params], sort_keys=True, default=str)
            times = len(same) + (entries[key].times if key in entries else 0)
            first = entries.get(key, Entry(same[0].name, same[0].commit, 0, *scores[metric], params))
            entries[key] = Entry(first.name, first.commit, times, first.score, first.pictures, first.params)
    if not entries:
        raise VitloraError(_nothing(metric, known))
    sign = 1 if lower_is_better(metric) else -1
    return sorted(entries.values(), key=lambda entry: sign * entry.score.value)


def _candidates() -> Iterator[Found]:
    """Yield experiments, which have names of their own, then commits that changed results, newest first."""
    for ref, commit in experiments():
        yield Found(ref.rpartition("/")[2], commit)
    command = ["log", "--format=%H", "--branches", "--tags", "HEAD", "--", SCORES, PREDICTIONS, LOCK]
    for commit in (run_git(command) or b"").decode().split():
        yield Found(commit[:SHORT], commit)


def _nothing(metric: str, known: set[str]) -> str:
    if known:
        return f"--metric {metric}: no result has it; the rule: one of {', '.join(sorted(known))}"
    return "no commit and no experiment here has results; `vitlora run`, then commit params.yaml, dvc.lock and metrics"


def read_scores(content: Mapping[str, bytes], name: str) -> dict[str, tuple[Interval, int]]:
    """Return every score of a commit with its interval, and the number of test pictures.

    Raises:
        VitloraError: scores.json or intervals.csv can't be read.
    """
    try:
        scores = json.loads(content[SCORES])
        pictures = int(scores["images"])
        numbers = {key: float(value) for key, value in scores.items() if _is_score(key, value)}
        found = {key: (_interval(key, value, pictures), pictures) for key, value in numbers.items()}
        text = io.StringIO(content.get(INTERVALS, b"score,value,low,high\n").decode(), newline="")
        for row in csv.DictReader(text):
            value = float(row["value"])
            ends = (float(row["low"]), float(row["high"])) if row["low"] else (value, value)
            found[row["score"]] = Interval(value, *ends), pictures
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VitloraError(
            f"{name}: {SCORES} or {INTERVALS} can't be read; `git show {name}:{SCORES}` shows it"
        ) from None
    return found


def _is_score(key: str, value: object) -> bool:
    return key != "images" and isinstance(value, int | float)


def _interval(key: str, value: float, pictures: int) -> Interval:
    """Return what results of before there were intervals allow: Wilson's for shares of pictures."""
    if not key.startswith(SHARES):
        return Interval(value, value, value)
    low, high = wilson(round(value * pictures), pictures)
    return Interval(value, float(low), float(high))


def _lock(content: Mapping[str, bytes], name: str) -> dict[str, Any]:
    stages: dict[str, Any] = parse_yaml(content, LOCK, name).get("stages", {})
    return stages


def lower_is_better(metric: str) -> bool:
    """Whether the best runs have the lowest score."""
    return any(part in metric for part in LOWER)


def varying(entries: Sequence[Entry]) -> list[str]:
    """Return the dotted keys whose values are not equal in all entries; one that is absent counts as null."""
    keys = sorted({key for entry in entries for key in entry.params})
    return [key for key in keys if len({json.dumps(entry.params.get(key), default=str) for entry in entries}) > 1]


def group(entries: Sequence[Entry], keys: Sequence[str]) -> list[Group]:
    """Return the runs by the values of some parameters, in the order of the best mean.

    Raises:
        VitloraError: No run has one of the parameters.
    """
    for key in keys:
        if not any(key in entry.params for entry in entries):
            known = ", ".join(varying(entries)) or "none"
            raise VitloraError(f"--by {key}: no run has this parameter; those that vary: {known}")
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        members.setdefault(json.dumps([entry.params.get(key) for key in keys], default=str), []).append(entry)
    found = [_group(same, keys) for same in members.values()]
    order = [entry.score.value for entry in entries]
    rising = order == sorted(order)
    return sorted(found, key=lambda each: each.mean.value if rising else -each.mean.value)


def _group(same: Sequence[Entry], keys: Sequence[str]) -> Group:
    scores = [entry.score.value for entry in same]
    seeds = len({json.dumps(entry.params.get(SEED)) for entry in same})
    mean = t_interval(scores) if len(scores) > 1 else Interval(scores[0], scores[0], scores[0])
    spread = statistics.stdev(scores) if len(scores) > 1 else None
    if seeds < len(scores):  # other parameters vary: no draws of one recipe
        mean = Interval(mean.value, mean.value, mean.value)
    return Group(tuple(same[0].params.get(key, ABSENT) for key in keys), scores, seeds, mean, spread)


def notes(entries: Sequence[Entry], keys: Sequence[str]) -> Iterator[str]:
    """Yield what the reader must know of how comparable the runs are."""
    different = varying(entries)
    tests = [key for key in different if key.startswith(SAME_TEST)]
    if tests or len({entry.pictures for entry in entries}) > 1:
        by = f" ({', '.join(tests[:3])} {'differs' if len(tests) == 1 else 'differ'})" if tests else ""
        yield f"not all runs were scored on the same pictures{by}; `vitlora compare A B` takes those that both have"
    mixed = [key for key in different if key not in (*keys, SEED) and not key.startswith(SAME_TEST)]
    if keys and mixed:
        yield f"within groups other parameters vary too: {', '.join(mixed[:5])}{' ...' if len(mixed) > 5 else ''}"
    yield "intervals overlap for runs that `vitlora compare A B` can tell apart: it compares picture by picture"


HEAD = ("", "run", "score (95 %)", "pictures", "same", "parameters")


def rows(entries: Sequence[Entry], limit: int) -> Iterator[tuple[str, ...]]:
    """Yield the table's lines: place, run, score, pictures, how often it came, parameters."""
    for place, (entry, params) in enumerate(zip(entries[:limit], choices(entries), strict=False), 1):
        cut = params if len(params) <= LONGEST else f"{params[: LONGEST - 3]}..."
        same = f"{entry.times}x" if entry.times > 1 else ""
        yield str(place), entry.name, shown(entry.score), f"{entry.pictures:,}", same, cut


def choices(entries: Sequence[Entry]) -> Iterator[str]:
    """Yield what tells each run from the others: parameters that all have and that vary, with their values.

    Of those that only some have, as after a change of the program, such values as most of these don't have.
    """
    everywhere, usual = [], {}
    for key in varying(entries):
        values = [json.dumps(entry.params[key], default=str) for entry in entries if key in entry.params]
        if len(values) == len(entries):
            everywhere.append(key)
        else:
            usual[key] = statistics.mode(values)
    for entry in entries:
        odd = (key for key in usual if json.dumps(entry.params.get(key), default=str) not in (usual[key], "null"))
        yield " ".join(f"{key}={wording.value(entry.params[key])}" for key in (*everywhere, *odd))


def group_head(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the headings of the table of groups."""
    return (*keys, "runs", "seeds", "mean ± sd", "95 % interval (t)", "best")


def group_rows(groups: Sequence[Group], best: Any) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table of groups; ``best`` is min or max."""
    for each in groups:
        spread = "one run" if each.spread is None else f"± {each.spread:.4f}"
        ends = f"{each.mean.low:.4f} to {each.mean.high:.4f}" if each.mean.low < each.mean.high else ""
        yield (
            *map(wording.value, each.values),
            str(len(each.scores)),
            str(each.seeds),
            f"{each.mean.value:.4f} {spread}",
            ends,
            f"{best(each.scores):.4f}",
        )


def shown(score: Interval) -> str:
    """Return a score with its interval, where it has one."""
    ends = f" ({score.low:.4f} to {score.high:.4f})" if score.low < score.high else ""
    return f"{score.value:.4f}{ends}"


def title(entries: Sequence[Entry], metric: str) -> str:
    """Return the line above the table."""
    return f"{counted(len(entries), 'result')} by {metric}, {'lowest' if lower_is_better(metric) else 'highest'} first"
