"""The same words and numbers for screen, Markdown and gate."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from vitlora.compare.paired import Interval
from vitlora.compare.two import ClassDelta, Comparison, Figure, Share
from vitlora.core.text import counted, shown_bytes, shown_seconds

PLAIN = ("log loss", "Brier score")  # not shares, and the lower the better
SURE = 0.05  # of a class's q


def as_json(found: Any) -> str:
    """Return what was found as JSON, names of fields and all; text outside UTF-8 is escaped."""
    return json.dumps(_named(found), indent=2, default=str)


def _named(found: Any) -> Any:
    if dataclasses.is_dataclass(found):
        return {field.name: _named(getattr(found, field.name)) for field in dataclasses.fields(found)}
    if hasattr(found, "_asdict"):
        return _named(found._asdict())
    if isinstance(found, dict):
        return {key: _named(value) for key, value in found.items()}
    return [_named(value) for value in found] if isinstance(found, list | tuple) else found


def points(share: float) -> str:
    """Return a difference of shares in percentage points, signed."""
    return f"{100 * share:+.2f}"


def span(interval: Interval, name: str = "") -> str:
    """Return a difference with its interval: in points, or as it is for what is no share."""
    if name in PLAIN:
        return f"{interval.value:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"
    return f"{points(interval.value)} ({points(interval.low)} to {points(interval.high)})"


def score(value: float) -> str:
    """Return a score as metrics/evaluate/scores.json has it, to four decimals."""
    return f"{value:.4f}"


def share(found: Share) -> str:
    """Return a share with its interval."""
    return f"{score(found.value)} ({score(found.low)} to {score(found.high)})"


def difference(figure: Figure) -> str:
    """Return a figure's difference, or why there is no interval."""
    if figure.difference is not None:
        return span(figure.difference, figure.name)
    return f"{points(figure.b - figure.a)} (too few for an interval)"


def scores(found: Comparison) -> list[tuple[str, str, str, str]]:
    """Return the table of scores: name, A, B and their difference."""
    accuracy = ("accuracy", share(found.accuracy[0]), share(found.accuracy[1]), span(found.difference))
    others = ((each.name, score(each.a), score(each.b), difference(each)) for each in found.figures)
    return [accuracy, *others]


SCORES_HEAD = ("score", "A", "B", "B - A, in points")


def verdict_line(found: Comparison) -> str:
    """Return the verdict and what it rests on, in one sentence."""
    about = {
        "better": f"{found.b} is better than {found.a}",
        "worse": f"{found.b} is worse than {found.a}",
        "equivalent": f"{found.b} and {found.a} differ by less than {100 * found.margin:g} points"
        if not found.same
        else f"{found.b} and {found.a} answer alike",
        "undecided": f"{found.b} may be better or worse than {found.a}",
    }[found.verdict]
    return f"{found.verdict}: {about}; {span(found.difference)} points"


def small_lines(found: Comparison) -> Iterator[str]:
    """Yield what the verdict's sentence leaves open."""
    if found.same:
        yield "the two answer the same, equally surely, on every picture"
    small = found.difference.low > 0 or found.difference.high < 0
    if found.verdict == "equivalent" and small:
        yield "a difference is there, but smaller than the margin"
    pictures = counted(found.pictures, "such picture")
    yield f"a drop of {100 * found.visible_drop:.2f} points would show in 80 of 100 test sets of {pictures}"
    yield f"McNemar's test: mid-p {found.p:.3g} ({len(found.broken):,} broken, {len(found.fixed):,} fixed)"


def class_row(delta: ClassDelta) -> tuple[str, ...]:
    """Return a class's cells: name, pictures, A, B, difference, q."""
    low, high = points(delta.low), points(delta.high)
    change = f"{points(delta.b - delta.a)} ({low} to {high})"
    return delta.name, f"{delta.pictures:,}", score(delta.a), score(delta.b), change, f"{delta.q:.2g}"


CLASSES_HEAD = ("class", "pictures", "A", "B", "B - A, in points", "q")


def params_title(count: int) -> str:
    """Return the heading of the parameters that differ."""
    return f"{counted(count, 'parameter')} {'differs' if count == 1 else 'differ'}" if count else "no parameter differs"


def cost(name: str, value: float | None) -> str:
    """Return a cost with its unit; its name begins with the unit."""
    if value is None:
        return "?"
    if name.startswith("bytes"):
        return shown_bytes(int(value))
    return shown_seconds(value) if name.startswith("seconds") else f"{value:,.0f}"


def cost_name(name: str) -> str:
    """Return a cost's name without its unit."""
    return name.removeprefix("bytes of ").replace("seconds of", "time of")


def value(param: Any) -> str:
    """Return a parameter's value as it stands in params.yaml, nearly."""
    return param if isinstance(param, str) else json.dumps(param, ensure_ascii=False, default=str)


def class_line(found: Comparison) -> str:
    """Say how many classes changed more than chance explains."""
    sure = sum(delta.q <= SURE for delta in found.classes)
    if sure:
        verb = "changes" if sure == 1 else "change"
        return f"{sure} of {counted(len(found.classes), 'class', 'classes')} {verb} by more than chance"
    return f"none of {counted(len(found.classes), 'class', 'classes')} changes by more than chance"
