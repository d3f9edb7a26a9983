"""A comparison on the terminal; plain text where it is none."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vitlora.compare import wording
from vitlora.compare.two import Change, Comparison
from vitlora.core.text import counted, printable

WIDTH = 100
CLASSES = 5
COLOURS = {"better": "bold green", "worse": "bold red", "equivalent": "bold cyan", "undecided": "bold yellow"}
Column = tuple[str, str]  # heading, and left or right


def make_console() -> Console:
    """Return a console that takes text as it is, at most 100 columns wide."""
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=False)
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def show(found: Comparison, limit: int) -> None:
    """Print a comparison.

    Args:
        found: What ``compare_two`` found.
        limit: At most so many fixed, and so many broken, pictures.
    """
    console = make_console()
    say(console, f"A  {found.a}\nB  {found.b}\n{counted(found.pictures, 'test picture')} compared")
    console.print()
    say(console, wording.verdict_line(found), COLOURS[found.verdict])
    for line in wording.small_lines(found):
        say(console, line)
    console.print()
    _scores(console, found)
    _changes(console, "fixed", found.fixed, limit)
    _changes(console, "broken", found.broken, limit)
    _classes(console, found)
    _params(console, found)
    _costs(console, found)
    for note in found.notes:
        say(console, f"note: {note}", "dim")
    if found.not_compared:
        say(console, f"note: log loss and Brier score are not compared: {found.not_compared}", "dim")


def say(console: Console, text: str, style: str = "") -> None:
    """Print text that may hold names from outside."""
    console.print(Text("\n".join(map(printable, text.split("\n"))), style=style))


def grid(console: Console, columns: Sequence[Column], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a title and a table without lines; nothing of the table where it has no row."""
    if title:
        say(console, title, "bold")
    listed = list(rows)
    if listed:
        console.print(make_table(columns, listed))
    console.print()


def make_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> Table:
    """Return a table without lines, of text that may hold names from outside."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def _scores(console: Console, found: Comparison) -> None:
    grid(console, [(head, "left") for head in wording.SCORES_HEAD], wording.scores(found))
    if len(found.figures) > 2:
        say(console, "log loss and Brier score: lower is better, and no points")
        console.print()


def _changes(console: Console, word: str, changes: Sequence[Change], limit: int) -> None:
    columns = (("picture", "left"), ("is", "left"), ("A said", "left"), ("B said", "left"))
    more = f"; --show {len(changes)} or --json names them all" if len(changes) > limit else ""
    rows = [tuple(change) for change in picked(changes, limit)]
    grid(console, columns, rows, f"{counted(len(changes), 'picture')} {word}{more}")


def picked(changes: Sequence[Change], limit: int) -> list[Change]:
    """Return at most so many changes, spread over all of them, so that no class fills the list."""
    if len(changes) <= limit:
        return list(changes)
    return [changes[place * len(changes) // limit] for place in range(limit)]


def _classes(console: Console, found: Comparison) -> None:
    sure = [delta for delta in found.classes if delta.q <= wording.SURE]
    rows = [wording.class_row(delta) for delta in (sure or found.classes)[:CLASSES] if delta.a != delta.b]
    columns = [(head, "right" if head == "pictures" else "left") for head in wording.CLASSES_HEAD]
    grid(console, columns, rows, wording.class_line(found))


def _params(console: Console, found: Comparison) -> None:
    if not any("no params.yaml" in note for note in found.notes):
        rows = [(key, wording.value(a), wording.value(b)) for key, a, b in found.params]
        columns = (("parameter", "left"), ("A", "left"), ("B", "left"))
        grid(console, columns, rows, wording.params_title(len(rows)))


def _costs(console: Console, found: Comparison) -> None:
    known = [(name, a, b) for name, a, b in found.cost if (a, b) != (None, None)]
    if known:
        columns = (("cost", "left"), ("A", "right"), ("B", "right"))
        rows = [(wording.cost_name(name), wording.cost(name, a), wording.cost(name, b)) for name, a, b in known]
        grid(console, columns, rows)
