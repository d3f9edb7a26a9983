"""What ``--space`` and ``-S`` may say: keys of params.yaml, with values that are all checked before the first trial."""

import copy
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vitlora.core.errors import VitloraError
from vitlora.core.files import significant
from vitlora.core.params import shown
from vitlora.core.text import printable
from vitlora.safety.check import check_document
from vitlora.safety.keys import keys
from vitlora.safety.overrides import nearest
from vitlora.safety.preflight import base_of
from vitlora.safety.workspace import PARAMS

RANGE = re.compile(r"([-+.\de]+):([-+.\de]+)(:log)?", re.IGNORECASE)
SEARCHED = ("model", "image", "augment", "lora", "train")
WHOLE_CHECKED = 256  # values of a range of whole numbers that are checked one by one
DIGITS = 3  # of a number that is drawn from a range
NOT_SEARCHED = {
    "train.seed": "the best of several seeds is the luckiest, not the best",
    "train.metric_for_best_model": "it is what the trials are compared by; -S sets it for all of them",
}


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; even on a logarithmic scale if ``log``."""

    low: float
    high: float
    log: bool
    whole: bool

    def holds(self, value: object) -> bool:
        """Whether a value lies in it."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def value(self, drawn: float) -> float:
        """Return what is tried: whole, or with the digits that mean something, within the range all the same."""
        return int(drawn) if self.whole else min(max(significant(drawn, DIGITS) or 0.0, self.low), self.high)

    def __str__(self) -> str:
        return f"{self.low:g}:{self.high:g}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choices:
    """A few values, each as JSON: Optuna keeps text as it is, lists not."""

    texts: tuple[str, ...]

    def __str__(self) -> str:
        return ",".join(self.texts)


Space = dict[str, Range | Choices]


def read_space(words: Iterable[str], document: Mapping[str, Any]) -> Space:
    """Read what is to be searched.

    Args:
        words: As typed: `lora.r=4,8,16`, `train.learning_rate=1e-4:1e-2:log`.
        document: params.yaml with what ``-S`` sets, sound by itself.

    Raises:
        VitloraError: A key is unknown or twice there, or one of its values is not allowed.
    """
    space: Space = {}
    for word in words:
        key, spec = _halves("--space", word, space)
        _refuse_key(key)
        space[key] = _range(key, spec) or _choices(key, spec)
        for value in _probes(space[key]):
            _check("--space", key, value, document)
    return space


def read_fixed(words: Iterable[str], document: Mapping[str, Any]) -> dict[str, Any]:
    """Read what ``-S`` sets for all trials, such as `train.num_train_epochs=1`; errors as in ``read_space``."""
    fixed: dict[str, Any] = {}
    for word in words:
        key, text = _halves("-S", word, fixed)
        fixed[key] = _parsed(f"-S {word}", text)
    for key, value in fixed.items():  # beside the others: one may need another
        _check("-S", key, value, with_values(document, fixed))
    return fixed


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a document with values by dotted key."""
    changed = copy.deepcopy(dict(document))
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed[section][name] = value
    return changed


def current(document: Mapping[str, Any], space: Space) -> dict[str, Any] | None:
    """Return the document's own values as Optuna keeps them; None where the space does not hold all of them."""
    found: dict[str, Any] = {}
    for key, within in space.items():
        section, _, name = key.partition(".")
        value = document[section][name]
        found[key] = value if isinstance(within, Range) else _text(key, value)
        if not (within.holds(value) if isinstance(within, Range) else found[key] in within.texts):
            return None
    return found


def size(space: Space) -> float:
    """Return how many different trials a space has; infinite where a number is drawn."""
    return math.prod(_count(within) for within in space.values())


def _count(within: Range | Choices) -> float:
    if isinstance(within, Choices):
        return len(within.texts)
    return within.high - within.low + 1 if within.whole else math.inf


def members(space: Space) -> Iterator[dict[str, Any]]:
    """Yield all of a finite space's trials, as Optuna keeps their values."""
    values = (
        within.texts if isinstance(within, Choices) else range(int(within.low), int(within.high) + 1)
        for within in space.values()
    )
    for chosen in itertools.product(*values):
        yield dict(zip(space, chosen, strict=True))


def _halves(option: str, word: str, known: Mapping[str, Any]) -> tuple[str, str]:
    key, equals, text = word.partition("=")
    named = keys()
    if not equals or not text:
        example = "lora.r=4,8,16 or train.learning_rate=1e-4:1e-2:log" if option == "--space" else "lora.r=8"
        raise VitloraError(f"{option} {printable(word)}: has no value; the rule: KEY=VALUES, such as {example}")
    if key not in named:
        near = nearest(key, list(named))
        rule = f"a key of {PARAMS}; did you mean {near}?" if near else f"a key of {PARAMS}; `vitlora params` lists them"
        raise VitloraError(f"{option} {printable(word)}: got {printable(key)}; the rule: {rule}")
    if key in known:
        raise VitloraError(f"{option} {printable(word)}: {key} is there twice; the rule: once, with all its values")
    return key, text


def _refuse_key(key: str) -> None:
    section = key.partition(".")[0]
    if key in NOT_SEARCHED:
        raise VitloraError(f"--space {key}: not searched: {NOT_SEARCHED[key]}; take it out of --space")
    if section not in SEARCHED:
        why = "it changes no val score" if section in ("evaluate", "export") else "it changes which pictures are val"
        raise VitloraError(
            f"--space {key}: not searched: {why}; the rule: a key of {', '.join(SEARCHED)}; -S sets others for all"
        )


def _range(key: str, spec: str) -> Range | None:
    found = RANGE.fullmatch(spec)
    if not found:
        return None
    said = f"--space {key}={printable(spec)}"
    try:
        low, high = float(found[1]), float(found[2])
    except ValueError:
        raise VitloraError(
            f"{said}: not two numbers; the rule: LOW:HIGH or LOW:HIGH:log, such as 1e-4:1e-2:log"
        ) from None
    if not low < high:
        raise VitloraError(f"{said}: {low:g} is not below {high:g}; the rule: the lower end first")
    if found[3] and low <= 0:
        raise VitloraError(f"{said}: a logarithm needs numbers above 0; raise the lower end, or leave :log out")
    kinds = _kinds(keys()[key].annotation)
    if not kinds & {int, float}:
        raise VitloraError(
            f"{said}: not a number; the rule: values with commas between; `vitlora params {key}` lists them"
        )
    whole = float not in kinds
    if whole and not (low.is_integer() and high.is_integer()):
        raise VitloraError(f"{said}: ends are not whole; the rule: whole numbers, as {key} is one")
    return Range(int(low), int(high), bool(found[3]), whole) if whole else Range(low, high, bool(found[3]), whole)


def _kinds(annotation: Any) -> set[Any]:
    """Return the classes that a key's values may be of."""
    inside = get_args(annotation)
    return set().union(*map(_kinds, inside)) if inside else {annotation}


def _choices(key: str, spec: str) -> Choices:
    values = _parsed(f"--space {key}={spec}", f"[{spec}]")
    texts = tuple(dict.fromkeys(_text(key, value) for value in values))
    if len(texts) < 2:
        raise VitloraError(
            f"--space {key}={printable(spec)}: one value; the rule: two or more with commas between, or LOW:HIGH. "
            f"One for all trials is -S {key}={printable(spec)}"
        )
    return Choices(texts)


def _text(key: str, value: Any) -> str:
    """Return a value as Optuna keeps it: 0 and 0.0 are one where the key is a number that may have a fraction."""
    kinds = _kinds(keys()[key].annotation)
    number = isinstance(value, int) and not isinstance(value, bool) and float in kinds and int not in kinds
    return json.dumps(float(value) if number else value, default=str)


def _parsed(said: str, text: str) -> Any:
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise VitloraError(f"{printable(said)}: can't be read; the rule: as in {PARAMS}, lists as [a, b]") from None
    if any(isinstance(each, dict) for each in (found, *(found if isinstance(found, list) else ()))):
        raise VitloraError(
            f"{printable(said)}: got a mapping; the rule: numbers, words or lists; write it into {PARAMS}"
        )
    return found


def _probes(within: Range | Choices) -> Iterator[Any]:
    """Yield the values that are checked: all, but of a range of numbers its ends."""
    if isinstance(within, Choices):
        yield from map(json.loads, within.texts)
    elif within.whole and within.high - within.low < WHOLE_CHECKED:
        yield from range(int(within.low), int(within.high) + 1)
    else:
        yield from (within.low, within.high)


def _check(option: str, key: str, value: Any, document: Mapping[str, Any]) -> None:
    changed = with_values(document, {key: value})
    try:
        check_document(changed, PARAMS, base_of(changed))
    except VitloraError as error:
        rules = [line.removeprefix(f"{PARAMS}: ") for line in str(error).split("\n")]
        told = "\n".join(f"{option} {key}={shown(value)}: {rule}" for rule in rules)
        raise VitloraError(f"{told}\n`vitlora params {key}` explains the key; leave such values out") from None
