"""What ``--space`` and ``-S`` may say: keys of params.yaml, with values that are all checked before the first trial."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import significant
from vitlora.core.params import shown
from vitlora.core.text import printable
from vitlora.safety.check import check_document
from vitlora.safety.keys import keys
from vitlora.safety.preflight import base_of
from vitlora.safety.workspace import PARAMS
from vitlora.trials.values import as_text, halves, kinds, parsed, refuse_unread, with_values

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
        key, spec = halves("--space", word, space, "lora.r=4,8,16 or train.learning_rate=1e-4:1e-2:log")
        _refuse_key(key)
        space[key] = _range(key, spec) or _choices(key, spec)
        for value in _probes(space[key]):
            _check("--space", key, value, document)
    return space


def read_fixed(words: Iterable[str], document: Mapping[str, Any]) -> dict[str, Any]:
    """Read what ``-S`` sets for all trials, such as `train.num_train_epochs=1`; errors as in ``read_space``."""
    fixed: dict[str, Any] = {}
    for word in words:
        key, text = halves("-S", word, fixed, "lora.r=8")
        fixed[key] = parsed(f"-S {word}", text)
    for key, value in fixed.items():  # beside the others: one may need another
        _check("-S", key, value, with_values(document, fixed))
    return fixed


def current(document: Mapping[str, Any], space: Space) -> dict[str, Any] | None:
    """Return the document's own values as Optuna keeps them; None where the space does not hold all of them."""
    found: dict[str, Any] = {}
    for key, within in space.items():
        section, _, name = key.partition(".")
        value = document[section][name]
        found[key] = value if isinstance(within, Range) else as_text(key, value)
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


def refuse_idle(space: Space, fixed: Mapping[str, Any], document: Mapping[str, Any]) -> None:
    """Refuse what no trial would read, of ``--space`` and ``-S``; errors as in ``refuse_unread``."""
    own = fixed.get("lora.method", document["lora"]["method"])
    methods = [*_probes(space["lora.method"])] if "lora.method" in space else [own]
    refuse_unread("--space", {key: _probes(within) for key, within in space.items()}, document, methods)
    refuse_unread("-S", {key: [value] for key, value in fixed.items()}, document, methods)


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
    classes = kinds(keys()[key].annotation)
    if not classes & {int, float}:
        raise VitloraError(
            f"{said}: not a number; the rule: values with commas between; `vitlora params {key}` lists them"
        )
    whole = float not in classes
    if whole and not (low.is_integer() and high.is_integer()):
        raise VitloraError(f"{said}: ends are not whole; the rule: whole numbers, as {key} is one")
    return Range(int(low), int(high), bool(found[3]), whole) if whole else Range(low, high, bool(found[3]), whole)


def _choices(key: str, spec: str) -> Choices:
    values = parsed(f"--space {key}={spec}", f"[{spec}]")
    texts = tuple(dict.fromkeys(as_text(key, value) for value in values))
    if len(texts) < 2:
        raise VitloraError(
            f"--space {key}={printable(spec)}: one value; the rule: two or more with commas between, or LOW:HIGH. "
            f"One for all trials is -S {key}={printable(spec)}"
        )
    return Choices(texts)


def _probes(within: Range | Choices) -> Iterator[Any]:
    """Yield the values that are checked: all, but of a range of numbers its ends and, of fractions, one between."""
    if isinstance(within, Choices):
        yield from map(json.loads, within.texts)
    elif within.whole and within.high - within.low < WHOLE_CHECKED:
        yield from range(int(within.low), int(within.high) + 1)
    else:
        yield from (within.low, within.high)
        if not within.whole:  # steps may be whole, or a fraction of all, but not 1.5
            yield within.value((2 * within.low + within.high) / 3)


def _check(option: str, key: str, value: Any, document: Mapping[str, Any]) -> None:
    changed = with_values(document, {key: value})
    try:
        check_document(changed, PARAMS, base_of(changed))
    except VitloraError as error:
        rules = [line.removeprefix(f"{PARAMS}: ") for line in str(error).split("\n")]
        told = "\n".join(f"{option} {key}={shown(value)}: {rule}" for rule in rules)
        raise VitloraError(f"{told}\n`vitlora params {key}` explains the key; leave such values out") from None
