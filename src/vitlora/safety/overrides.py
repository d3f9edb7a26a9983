"""What ``-S`` may say: read before DVC reads it, since DVC shows what its libraries throw."""

import difflib
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.model.params import UNREAD
from vitlora.safety.workspace import PARAMS, read_yaml

PATHS = ("data.path", "model.path")
PLUS = "+"


def ready(given: Iterable[str], queue: bool) -> list[str]:
    """Return what ``-S`` says with the paths that are there in quotes, as Hydra, DVC's reader, needs some of them.

    Args:
        given: As typed, such as `lora.r=8`.
        queue: Whether several values of a key may be given, each for an experiment.

    Raises:
        VitloraError: All mistakes, one a line.
    """
    quoted = [_quote_path(each) for each in given]
    problems = [problem for each in quoted for problem in _problems(each, queue)] or [*_unread(quoted)]
    if problems:
        raise VitloraError("\n".join(problems))
    return quoted


def quote(key: str, value: str) -> str:
    """Return `-S` and its words as one types them into a shell, for any value that is to be taken as it stands."""
    from hydra.core.override_parser.types import Quote, QuotedString  # slow, and DVC needs it for -S only

    return "-S " + shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")


def quote_new(key: str, value: str) -> str:
    """Return `-S` and its words for a key that is not there yet."""
    return printable(f"-S {shlex.quote(f'+{key}={value}')}")


def _quote_path(given: str) -> str:
    """Quote a path that lies there; Hydra gives parentheses, commas, umlauts and many more a meaning of their own."""
    key, _, value = given.partition("=")
    if _name(key) not in PATHS or not value or not Path(value).expanduser().exists():
        return given
    return shlex.split(quote(key, value))[1]


def _name(key: str) -> str:
    return key.lstrip(PLUS).removeprefix(f"{PARAMS}:")


def _problems(given: str, queue: bool) -> Iterator[str]:
    key, equals, value = given.partition("=")
    if key.startswith("~"):  # takes a key away, which no section allows: it will be missing
        return
    if not equals:
        yield f"-S {printable(given)}: has no `=`; the rule: -S KEY=VALUE, such as -S lora.r=8"
        return
    override = _parsed(given)
    if override is None and value.startswith("{"):
        yield (
            f"-S {printable(given)}: can't be read; the rule: the names of a mapping without quotes, such as "
            f"{{target_r: 4}}; or write it into {PARAMS}"
        )
    elif override is None:
        yield (
            f"-S {printable(given)}: Hydra, which reads -S, gives some characters a meaning of their own; the rule: "
            f"such a text in quotes: {printable(quote(key, value))}"
        )
    elif override.is_sweep_override() and not queue:
        yield (
            f"-S {printable(given)}: several values, each for an experiment, need --queue; one text with a comma needs "
            f"quotes: {printable(quote(key, value))}"
        )
    else:
        yield from _unknown(key, value)
        yield from _merged(key, value, override.value())


def _parsed(given: str) -> Any:
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import to_hydra_overrides
    from hydra.errors import HydraException

    try:
        (overrides,) = to_path_overrides([given]).values()
        return to_hydra_overrides(overrides)[0]
    except (HydraException, ValueError):
        return None


def _unknown(key: str, value: str) -> Iterator[str]:
    file, _, name = key.rpartition(":")
    document, said = read_yaml(Path(file) if file else PARAMS), printable(f"-S {key}={value}")
    if file and not Path(file).is_file():
        yield f"{said}: there is no {printable(file)}; without it, {PARAMS} is meant"
    if name.startswith(PLUS) or not document or _holds(document, name):
        return
    parent = name.rpartition(".")[0]
    if parent.partition(".")[2] and _holds(document, parent):  # a section within a section is open to new keys
        yield f"{said}: {printable(parent)} has no such key yet; a new one needs a plus: {quote_new(key, value)}"
        return
    near = nearest(name, list(_names(document)))
    within = document.get(parent)
    known = ", ".join(within) if isinstance(within, dict) else ", ".join(document)
    rule = f"a known name; did you mean {near}?" if near else f"one of {known}"
    yield f"{said}: {printable(file) or PARAMS} has no such key; the rule: {rule}"


def _merged(key: str, value: str, mapping: Any) -> Iterator[str]:
    """Refuse a mapping in place of another one: Hydra takes new names with a plus only, and keeps the old ones."""
    file, _, name = key.rpartition(":")
    section, _, last = name.rpartition(".")
    document = read_yaml(Path(file) if file else PARAMS)
    there = document[section].get(last) if isinstance(mapping, dict) and _holds(document, section) else None
    if not isinstance(there, dict) or there == mapping:
        return
    said = printable(f"-S {key}={value}")
    if there:
        yield (
            f"{said}: {PARAMS} has a mapping there already, with {printable(', '.join(map(str, there)))}, to which -S "
            f"would add; the rule: what is to replace it is written into {PARAMS}"
        )
    else:
        yield f"{said}: {printable(name)} has no such keys yet; new ones need a plus: {quote_new(key, value)}"


def _unread(given: list[str]) -> Iterator[str]:
    """Refuse another value of a key that the method does not read: the run would take its time and change nothing."""
    section = read_yaml(Path(PARAMS)).get("lora")
    typed = {_name(each.partition("=")[0]): each for each in given}
    if not isinstance(section, dict) or "lora.method" in typed:
        return
    method = str(section.get("method"))
    for key in UNREAD.get(method, ()):
        said = typed.get(f"lora.{key}", "")
        override = _parsed(said) if said else None
        if override and (override.is_sweep_override() or override.value() != section.get(key)):
            yield no_effect(f"-S {printable(said)}", [method])


def no_effect(said: str, methods: Iterable[str]) -> str:
    """Return why a key is refused that none of these methods reads."""
    return (
        f"{said}: no effect; the rule: a key that lora.method {' or '.join(methods)} reads (its own, if it has some, "
        "are in lora.options: docs/methods.md); for LoRA add -S lora.method=lora, and a learning rate for it, such as "
        "-S train.learning_rate=2e-3"
    )


def _holds(document: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _names(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _names(value, f"{prefix}{key}.")


def nearest(name: str, known: list[str]) -> str | None:
    """Return the known name that was probably meant: one spelt alike, the same key in its own section, a shorter or a
    longer form in the same section, such as lora.r for lora.rank and train.num_train_epochs for train.epochs.
    """
    section, _, key = name.rpartition(".")
    keys = [each for each in known if "." in each]
    own = [each for each in keys if each.rpartition(".")[2] == key]
    within = [each for each in keys if each.startswith(f"{section}.")]
    forms = [each for each in within if name.startswith(each) or key in each.rpartition(".")[2]]
    alike = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return next(iter([*alike, *own, *forms, *difflib.get_close_matches(name, known, n=1)]), None)
