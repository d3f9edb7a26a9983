"""Explain the keys of params.yaml: what they may be, what they do, what runs when they change."""

import argparse
import difflib
import textwrap
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document, shown
from vitlora.core.text import printable
from vitlora.safety.keys import AFTER, allowed, keys, reader

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("key", nargs="?", help="such as lora.r; a section, such as lora; none shows all")


def act(args: argparse.Namespace) -> None:
    """Explain one key, or list those of a section or all.

    Raises:
        VitloraError: There is no such key.
    """
    known, document = keys(), read_document(Path("params.yaml"))
    if args.key in known:
        print("\n".join(_explained(args.key, document)))
        return
    chosen = [key for key in known if args.key in (None, key.partition(".")[0])]
    if not chosen:
        raise VitloraError(f"got {printable(args.key)}; the rule: a key of params.yaml{_nearest(args.key, known)}")
    width = max(map(len, chosen))
    for key in chosen:
        print(f"{key:<{width}}  {_value(document, key)}")


def _explained(key: str, document: dict[str, Any]) -> Iterator[str]:
    field, stage = keys()[key], reader(key.partition(".")[0])
    yield key
    what = allowed(field.annotation, field.metadata).replace("`", "")
    lines = {"what it does": str(field.description), "may be": what, "is": _value(document, key)}
    lines |= {"read by": stage, "a change runs": AFTER[stage]}
    for name, text in lines.items():
        yield from textwrap.wrap(
            " ".join(text.split()), WIDTH, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16
        )


def _value(document: dict[str, Any], key: str) -> str:
    section, _, name = key.partition(".")
    values = document.get(section)
    return shown(values[name]) if isinstance(values, dict) and name in values else "(absent)"


def _nearest(key: str, known: Collection[str]) -> str:
    names = {name.partition(".")[0]: name.partition(".")[0] for name in known}
    names |= {name.rpartition(".")[2]: name for name in known} | {name: name for name in known}
    near = list(dict.fromkeys(names[each] for each in difflib.get_close_matches(key.lower(), names, n=2)))
    return f"; did you mean {' or '.join(near)}?" if near else "; `vitlora params` lists them"
