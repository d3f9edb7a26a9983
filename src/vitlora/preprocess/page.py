"""The data report as a page for people: one file without scripts, which asks nobody for anything."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vitlora.core.text import printable

TEMPLATE = Path(__file__).with_suffix(".html")
BARS = 120  # classes drawn; of more, the largest and the smallest


def render(numbers: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        numbers: What ``report.summarise`` gives.
        pictures: A small JPEG of what the lists of equal and similar pictures name, by path; a missing one is left out.
    """
    entries = sorted(numbers["images_per_class"], key=lambda entry: (-entry["train"], entry["class"]))
    hidden = max(0, len(entries) - BARS)
    template = _environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        numbers,
        pictures={path: base64.b64encode(data).decode() for path, data in pictures.items()},
        absent={name: [each["class"] for each in entries if not each[name]] for name in ("val", "test")},
        most=max(entry["train"] + entry["val"] + entry["test"] for entry in entries),
        drawn=entries[: BARS // 2] + entries[-(BARS // 2) :] if hidden else entries,
        hidden=hidden,
    )


def _environment() -> Environment:
    """Return one that escapes all text, writes out control characters, and knows our ways of writing numbers."""
    environment = Environment(
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"n": "{:,}".format, "g": "{:g}".format, "percent": "{:.1%}".format}
    return environment


def _shown(value: object) -> object:
    """Write out control characters, but not the line ends of what is HTML already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
