"""A comparison as GitHub's Markdown: short, the worst first, lists folded away."""

import re
from collections.abc import Iterable, Iterator, Sequence

from vitlora.compare import wording
from vitlora.compare.screen import picked
from vitlora.compare.two import Change, Comparison
from vitlora.core.text import counted, printable

LISTED = 40  # pictures of each kind, and classes: a comment may have 65,536 characters


def report(found: Comparison) -> str:
    """Return the comparison as Markdown that ends in a line end."""
    return "\n".join([*_head(found), *_scores(found), *_lists(found), *_notes(found)])


def code(text: str) -> str:
    """Return text from outside so that Markdown and HTML take it as it is, and nobody is mentioned by it."""
    escaped = re.sub(r"[^\w ./,:;()-]|_", lambda found: f"&#{ord(found[0])};", printable(text))
    return f"<code>{escaped}</code>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, and an empty one."""
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def folded(summary: str, lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that a click unfolds."""
    yield f"<details><summary>{summary}</summary>"
    yield ""
    yield from lines
    yield "</details>"
    yield ""


def _head(found: Comparison) -> Iterator[str]:
    yield f"### {found.verdict.capitalize()}: accuracy {wording.span(found.difference)} points"
    yield ""
    yield (
        f"B {code(found.b)} against A {code(found.a)} on {counted(found.pictures, 'test picture')}; 95 % interval in "
        f"brackets, margin {100 * found.margin:g} points. {'; '.join(wording.small_lines(found))}."
    )
    yield ""


def _scores(found: Comparison) -> Iterator[str]:
    yield from table(wording.SCORES_HEAD, wording.scores(found))


def _lists(found: Comparison) -> Iterator[str]:
    for word, changes in (("broken", found.broken), ("fixed", found.fixed)):
        if changes:
            yield from folded(f"{counted(len(changes), 'picture')} {word}", _changes(changes))
    yield from _classes(found)
    if found.params:
        rows = ((code(key), code(wording.value(a)), code(wording.value(b))) for key, a, b in found.params)
        yield from folded(wording.params_title(len(found.params)), table(("parameter", "A", "B"), rows))
    known = [row for row in found.cost if row[1:] != (None, None)]
    if known:
        costs = ((wording.cost_name(name), wording.cost(name, a), wording.cost(name, b)) for name, a, b in known)
        yield from folded("cost", table(("cost", "A", "B"), costs))


def _changes(changes: Sequence[Change]) -> Iterator[str]:
    rows = (tuple(map(code, change)) for change in picked(changes, LISTED))
    yield from table(("picture", "is", "A said", "B said"), rows)
    if len(changes) > LISTED:
        yield f"{len(changes) - LISTED:,} more: `vitlora compare --json` names them all."
        yield ""


def _classes(found: Comparison) -> Iterator[str]:
    changed = [delta for delta in found.classes if delta.a != delta.b]
    sure = sorted((delta for delta in changed if delta.q <= wording.SURE), key=lambda delta: delta.b - delta.a)
    if changed:
        cells = (wording.class_row(delta) for delta in (sure or changed)[:LISTED])
        rows = ((code(name), *rest) for name, *rest in cells)
        yield from folded(wording.class_line(found), table(wording.CLASSES_HEAD, rows))


def _notes(found: Comparison) -> Iterator[str]:
    for note in found.notes:
        yield f"* {plain(note)}"
    if found.not_compared:
        yield f"* log loss and Brier score are not compared: {plain(found.not_compared)}"
    yield ""


def plain(note: str) -> str:
    """Return a note, whose backticks are ours, with what may be from outside kept from being Markdown."""
    parts = note.split("`")
    return "".join(code(part) if place % 2 else _outside(part) for place, part in enumerate(parts))


def _outside(text: str) -> str:
    return re.sub(r"[<>&*_~\[\]@#|\\]", lambda found: f"&#{ord(found[0])};", printable(text))
