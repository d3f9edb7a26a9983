"""Values of params.yaml as one types them, as DVC takes them, and as people read them; each checked before it runs."""

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.model.params import UNREAD
from vitlora.safety.keys import keys
from vitlora.safety.overrides import nearest, no_effect
from vitlora.safety.workspace import PARAMS


def with_values(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a document with values by dotted key."""
    changed = copy.deepcopy(dict(document))
    for key, value in values.items():
        section, _, name = key.partition(".")
        changed[section][name] = value
    return changed


def halves(option: str, word: str, known: Mapping[str, Any], example: str) -> tuple[str, str]:
    """Return key and values of what was typed.

    Args:
        option: That it was typed after.
        word: Such as `lora.r=8`.
        known: Keys that were typed before.
        example: Of such a word.

    Raises:
        VitloraError: There is no value, no such key, or the key was typed before.
    """
    key, equals, text = word.partition("=")
    named = keys()
    if not equals or not text:
        raise VitloraError(f"{option} {printable(word)}: has no value; the rule: KEY=VALUES, such as {example}")
    if key not in named:
        near = nearest(key, list(named))
        rule = f"a key of {PARAMS}; did you mean {near}?" if near else f"a key of {PARAMS}; `vitlora params` lists them"
        raise VitloraError(f"{option} {printable(word)}: got {printable(key)}; the rule: {rule}")
    if key in known:
        raise VitloraError(f"{option} {printable(word)}: {key} is there twice; the rule: once, with all its values")
    return key, text


def refuse_unread(
    option: str, values: Mapping[str, Iterable[Any]], document: Mapping[str, Any], methods: Sequence[str]
) -> None:
    """Refuse other values of a key that no trial's method reads: all trials would take their time for one result.

    Args:
        option: That the keys were typed after.
        values: All that were typed, by dotted key.
        document: params.yaml.
        methods: Of the trials.

    Raises:
        VitloraError: Each such key, one a line.
    """
    unread = [key for key in document["lora"] if all(key in UNREAD.get(method, ()) for method in methods)]
    changed = [key for key in unread if any(each != document["lora"][key] for each in values.get(f"lora.{key}", ()))]
    if changed:
        raise VitloraError("\n".join(no_effect(f"{option} lora.{key}", methods) for key in changed))


def kinds(annotation: Any) -> set[Any]:
    """Return the classes that a key's values may be of."""
    inside = get_args(annotation)
    return set().union(*map(kinds, inside)) if inside else {annotation}


def as_text(key: str, value: Any) -> str:
    """Return a value as JSON: 0 and 0.0 are one where the key is a number that may have a fraction."""
    classes = kinds(keys()[key].annotation)
    number = isinstance(value, int) and not isinstance(value, bool) and float in classes and int not in classes
    return json.dumps(float(value) if number else value, default=str)


def parsed(said: str, text: str) -> Any:
    """Return what a text says, as params.yaml is read.

    Raises:
        VitloraError: It can't be read, or holds a mapping.
    """
    try:
        found = YAML(typ="safe", pure=True).load(text)
    except YAMLError:
        raise VitloraError(f"{printable(said)}: can't be read; the rule: as in {PARAMS}, lists as [a, b]") from None
    if any(isinstance(each, dict) for each in (found, *(found if isinstance(found, list) else ()))):
        raise VitloraError(
            f"{printable(said)}: got a mapping; the rule: numbers, words or lists; write it into {PARAMS}"
        )
    return found


def override(key: str, value: Any) -> str:
    """Return what `-S` takes, for any value that is to be taken as it stands."""
    return f"{key}={_of_hydra(value)}"


def _of_hydra(value: Any) -> str:
    """Hydra, which reads it, knows JSON but for the backslashes of a text."""
    from hydra.core.override_parser.types import Quote, QuotedString  # as in vitlora.safety.overrides

    if isinstance(value, list):
        return f"[{','.join(map(_of_hydra, value))}]"
    if isinstance(value, dict):  # names in quotes it does not take
        return f"{{{','.join(f'{name}:{_of_hydra(each)}' for name, each in value.items())}}}"
    return str(QuotedString(value, Quote.double).with_quotes()) if isinstance(value, str) else json.dumps(value)


def shown_values(values: Mapping[str, Any]) -> str:
    """Return values for people."""
    words = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items())
    return printable(" ".join(f"{key}={word}" for key, word in words))
