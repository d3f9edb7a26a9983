"""What ``-S`` may say: values of keys of params.yaml, whose every combination is an experiment, all checked first."""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import counted
from vitlora.safety.preflight import check_values
from vitlora.safety.workspace import PARAMS
from vitlora.trials.tree import refuse_half_kept
from vitlora.trials.values import as_text, halves, parsed, shown_values, with_values

MOST = 999  # experiments of a sweep; their names have three digits
Grid = dict[str, list[Any]]
Values = dict[str, Any]


def read_grid(words: Iterable[str]) -> Grid:
    """Read `lora.r=4,8,16` and the like: values by dotted key, each once.

    Raises:
        VitloraError: A key is unknown or twice there, a value can't be read, or there are too many combinations.
    """
    grid: Grid = {}
    for word in words:
        key, text = halves("-S", word, grid, "lora.r=4,8,16")
        found = parsed(f"-S {word}", f"[{text}]")
        texts = [as_text(key, value) for value in found]
        different = list(dict.fromkeys(texts))
        if len(different) < len(texts):
            twice = next(each for each in different if texts.count(each) > 1)
            print(f"note: -S {key}: {twice} is there {counted(texts.count(twice), 'time')}; it counts once")
        grid[key] = [json.loads(each) for each in different]
    many = math.prod(map(len, grid.values()))
    if many > MOST:
        raise VitloraError(f"-S: {many:,} combinations; the rule: at most {MOST}; leave values out")
    return grid


def members(grid: Grid) -> list[Values]:
    """Return every combination, the last key's values changing first."""
    return [dict(zip(grid, chosen, strict=True)) for chosen in itertools.product(*grid.values())]


def identity(document: Mapping[str, Any], values: Values) -> str:
    """Return what two experiments with equal parameters have in common."""
    return json.dumps(with_values(document, values), sort_keys=True, default=str)


def varied(every: Sequence[Values], document: Mapping[str, Any]) -> list[str]:
    """Return the keys that not all experiments have one value of."""
    keys = dict.fromkeys(key for values in every for key in values)
    return [key for key in keys if len({json.dumps(value_of(document, values, key)) for values in every}) > 1]


def value_of(document: Mapping[str, Any], values: Values, key: str) -> Any:
    """Return an experiment's value of a key: its own, else the document's."""
    section, _, name = key.partition(".")
    return values[key] if key in values else document[section][name]


def refuse_mistakes(document: Mapping[str, Any], every: Sequence[Values]) -> None:
    """Check the parameters of all experiments.

    Raises:
        VitloraError: Each mistake, one a line, with the first experiment that has it.
    """
    found: dict[str, list[Values]] = {}
    for values in every:
        changed = with_values(document, values)
        try:
            check_values(changed)
            refuse_half_kept(changed)
        except VitloraError as error:
            for line in str(error).split("\n"):
                found.setdefault(line.removeprefix(f"{PARAMS}: "), []).append(values)
    if found:
        raise VitloraError("\n".join(_mistake(line, those, len(every)) for line, those in found.items()))


def _mistake(line: str, those: Sequence[Values], count: int) -> str:
    return f"-S {line} ({len(those)} of {counted(count, 'experiment')}, such as {shown_values(those[0])})"
