"""Predictions as text, table, CSV and JSON Lines."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from vitlora.core.text import printable
from vitlora.predict.classifier import Prediction
from vitlora.predict.pictures import Unreadable

UNKNOWN = "don't know"
WIDTH = 100  # characters of a line
LONGEST = 24  # characters of a class in the table
NAME = 20  # least characters of a picture's name in the table


@dataclass(frozen=True)
class Wanted:
    """What is shown of a prediction.

    Attributes:
        top: Number of classes.
        threshold: Least confidence, 0 to 1, below which the answer is "don't know"; None where none was given.
        sets: Show the prediction set too.
    """

    top: int
    threshold: float | None = None
    sets: bool = False


def as_text(answer: Prediction, wanted: Wanted) -> str:
    """Return one line: the picture and its likeliest classes."""
    classes = _shares(answer, wanted.top)
    told = f"{UNKNOWN} ({classes})" if _is_unknown(answer, wanted) else classes
    held = f"; set: {', '.join(answer.prediction_set or ())}" if wanted.sets else ""
    return printable(f"{answer.name}: {told}{held}")


def as_json(answer: Prediction | Unreadable, wanted: Wanted) -> str:
    """Return one JSON object: image and predictions, or image and error."""
    if isinstance(answer, Unreadable):
        return json.dumps({"image": answer.name, "error": answer.reason})
    classes = [{"class": name, "confidence": round(share, 6)} for name, share in _top(answer, wanted.top)]
    told: dict[str, object] = {"image": answer.name, "predictions": classes}
    if wanted.threshold is not None:
        told["label"] = None if _is_unknown(answer, wanted) else answer.label
    if wanted.sets:
        told["set"] = answer.prediction_set
    return json.dumps(told)


def csv_header(wanted: Wanted) -> list[str]:
    """Return the names of the columns."""
    ranked = [column for place in range(2, wanted.top + 1) for column in (f"class_{place}", f"confidence_{place}")]
    return ["image", "class", "confidence", *ranked, *(["set"] if wanted.sets else []), "error"]


def as_cells(answer: Prediction | Unreadable, wanted: Wanted) -> list[str | float]:
    """Return one row. A class that is not known is empty, its confidence stays; a set is a JSON list."""
    empty = [""] * (len(csv_header(wanted)) - 2)
    if isinstance(answer, Unreadable):
        return [answer.name, *empty, answer.reason]
    cells: list[str | float] = [cell for name, share in _top(answer, wanted.top) for cell in (name, round(share, 6))]
    if _is_unknown(answer, wanted):
        cells[0] = ""
    cells += [""] * (2 * wanted.top - len(cells))  # of a model with fewer classes
    held = [json.dumps(answer.prediction_set, ensure_ascii=False)] if wanted.sets else []
    return [answer.name, *cells, *held, ""]


def csv_line(cells: Sequence[str | float]) -> str:
    """Return a row as it stands in a file, without its end; text is in quotes, whatever it holds."""
    buffer = io.StringIO()
    csv.writer(buffer, quoting=csv.QUOTE_NONNUMERIC, lineterminator="").writerow(cells)
    return buffer.getvalue()


def as_table(answers: Sequence[Prediction], wanted: Wanted) -> Iterator[str]:
    """Yield the lines of a table, at most 100 characters wide where the classes allow it."""
    heads = ["picture", "class", "share", *(["then"] if wanted.top > 1 else []), *(["set"] if wanted.sets else [])]
    rows = [heads, *(_table_row(answer, wanted) for answer in answers)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    room = max(NAME, WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    widths[0] = min(widths[0], room)
    for row in rows:
        cells = [f"{_end(row[0], room):{widths[0]}}", f"{row[1]:{widths[1]}}", f"{row[2]:>{widths[2]}}"]
        rest = (f"{cell:{width}}" for cell, width in zip(row[3:], widths[3:], strict=True))
        yield "  ".join([*cells, *rest]).rstrip()


def _table_row(answer: Prediction, wanted: Wanted) -> list[str]:
    likeliest, *then = _top(answer, wanted.top)
    label = UNKNOWN if _is_unknown(answer, wanted) else _start(printable(likeliest[0]), LONGEST)
    row = [printable(answer.name), label, f"{likeliest[1]:.1%}"]
    if wanted.top > 1:
        row.append(", ".join(f"{_start(printable(name), LONGEST)} {share:.1%}" for name, share in then))
    if wanted.sets:
        row.append(", ".join(_start(printable(name), LONGEST) for name in answer.prediction_set or ()))
    return row


def _top(answer: Prediction, top: int) -> list[tuple[str, float]]:
    return list(islice(answer.probabilities.items(), top))


def _shares(answer: Prediction, top: int) -> str:
    return ", ".join(f"{name} {share:.1%}" for name, share in _top(answer, top))


def _is_unknown(answer: Prediction, wanted: Wanted) -> bool:
    return wanted.threshold is not None and answer.confidence < wanted.threshold


def _start(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _end(text: str, most: int) -> str:
    return text if len(text) <= most else "…" + text[1 - most :]
