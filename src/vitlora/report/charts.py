"""Geometry of the page's drawings: what the template only has to write out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

DRAWN = 150  # classes; a larger matrix is nearly empty, and its names can't be read
NUMBERS_UP_TO = 30  # classes; beyond that a number in a cell is too small to read


class Cell(NamedTuple):
    """A cell of the matrix that is not 0: row, column, pictures, share of the row, whether it is right."""

    row: int
    column: int
    pictures: int
    share: float
    right: bool


class Line(NamedTuple):
    """A curve: its name, its points as SVG has them, and its last value."""

    name: str
    points: str
    last: float


class Chart(NamedTuple):
    """Curves in a square of 0 to 100, with the marks of both axes: where, and what stands there."""

    lines: list[Line]
    x_marks: list[tuple[float, str]]
    y_marks: list[tuple[float, str]]


def order_classes(confusion: NDArray[np.int64]) -> list[int]:
    """Return the classes to draw, so that those that are taken for each other stand together.

    Of more than ``DRAWN`` these are the ones with the most mistakes, as actual or predicted class. Distance is 1 less
    the share of pictures that two classes exchange; clusters by average linkage. Where nothing is confused the order
    stays.
    """
    mistakes = confusion.sum(axis=0) + confusion.sum(axis=1) - 2 * np.diag(confusion)
    drawn = np.sort(np.argsort(-mistakes, kind="stable")[:DRAWN])
    shares = (confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))[np.ix_(drawn, drawn)]
    exchanged = (shares + shares.T) / 2
    np.fill_diagonal(exchanged, 0)
    if len(drawn) < 3 or not exchanged.any():
        return [int(label) for label in drawn]
    distance = 1 - exchanged / exchanged.max()
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance), "average", optimal_ordering=True)
    return [int(drawn[leaf]) for leaf in leaves_list(tree)]


def cells(confusion: NDArray[np.int64], order: Sequence[int]) -> list[Cell]:
    """Return the cells of the matrix that are not 0, in this order of the classes drawn; shares are of all pictures."""
    sorted_counts = confusion[np.ix_(order, order)]
    sums = np.maximum(confusion.sum(axis=1)[list(order)], 1)
    return [
        Cell(row, column, int(sorted_counts[row, column]), float(sorted_counts[row, column] / sums[row]), row == column)
        for row, column in np.argwhere(sorted_counts).tolist()
    ]


def curves(rows: Sequence[Mapping[str, str]], x: str, names: Mapping[str, str]) -> Chart | None:
    """Return columns of a table over another as curves; None where there is nothing to draw.

    Args:
        rows: As a CSV file has them; an empty cell is no point.
        x: The column of the horizontal axis, whole numbers.
        names: Column to what the curve is called.
    """
    series = {
        shown: [(float(row[x]), float(row[column])) for row in rows if row.get(column)]
        for column, shown in names.items()
    }
    return draw({name: points for name, points in series.items() if points})


def draw(series: Mapping[str, Sequence[tuple[float, float]]]) -> Chart | None:
    """Return named points as curves in a square of 0 to 100; None where there are none."""
    every = [point for points in series.values() for point in points]
    if not every:
        return None
    left, right = min(x for x, _ in every), max(x for x, _ in every)
    y_ticks = ticks(min(y for _, y in every), max(y for _, y in every))
    low, high = min(y_ticks[0], *(y for _, y in every)), max(y_ticks[-1], *(y for _, y in every))
    digits = "g" if y_ticks[1:] else ".3g"  # the only value of all points is no round number
    lines = []
    for name, points in series.items():
        places = (f"{_at(x, left, right):.1f},{100 - _at(y, low, high):.1f}" for x, y in points)
        lines.append(Line(name, " ".join(places), points[-1][1]))
    whole = [tick for tick in ticks(left, right) if float(tick).is_integer() and left <= tick <= right] or [left]
    return Chart(
        lines,
        [(_at(tick, left, right), f"{tick:g}") for tick in whole],
        [(100 - _at(tick, low, high), f"{tick:{digits}}") for tick in y_ticks if low <= tick <= high],
    )


def _at(value: float, low: float, high: float) -> float:
    return 50.0 if high == low else 100 * (value - low) / (high - low)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers from at most ``low`` to at least ``high``, some five of them."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((each for each in (1, 2, 5, 10) if each * power >= raw), default=10)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.10g}") for place in range(first, last + 1)]


def reliability(rows: Sequence[Mapping[str, str]]) -> dict[str, list[dict[str, Any]]]:
    """Return the bins before and after the temperature, numbers in place of text, with radii of their dots."""
    found: dict[str, list[dict[str, Any]]] = {"before": [], "after": []}
    most = max((int(row["images"]) for row in rows), default=1)
    for row in rows:
        numbers = {key: float(row[key]) for key in ("confidence", "right", "low", "high")}
        images = int(row["images"])
        found[row["temperature"]].append({**numbers, "images": images, "radius": 1 + 3 * math.sqrt(images / most)})
    return found if rows else {}
