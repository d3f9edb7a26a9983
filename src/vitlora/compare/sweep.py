"""A score against a parameter, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vitlora.compare import wording
from vitlora.compare.leaderboard import Entry, Group
from vitlora.compare.paired import Interval
from vitlora.compare.two import ABSENT
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted

KINDS = (".png", ".svg")
DOT, MEAN = "#90a4ae", "#00695c"
WIDE = 8  # largest over smallest value from which on steps are even on a logarithmic axis


def draw_sweep(entries: Sequence[Entry], groups: Sequence[Group], key: str, metric: str, path: Path) -> None:
    """Draw every run as a dot, and the mean of several seeds with its interval.

    Numbers stand on an axis, a logarithmic one where they span a factor of eight; other values side by side.

    Args:
        entries: The runs.
        groups: The same by the values of one parameter.
        key: That parameter.
        metric: The score's name.
        path: PNG or SVG; the same bytes for the same runs.

    Raises:
        VitloraError: The file's name ends otherwise, or its folder is not there.
    """
    if path.suffix not in KINDS:
        raise VitloraError(f"--plot {path}: the rule: a name that ends in {' or '.join(KINDS)}")
    if not path.parent.is_dir():
        raise VitloraError(f"--plot {path}: there is no folder {path.parent}; make it first")
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()  # a style of the user's own must not change the bytes
        with rc_context({"svg.hashsalt": metric, "svg.fonttype": "none"}):
            date = {"Software": None} if path.suffix == ".png" else {"Date": None}
            _figure(entries, groups, key, metric).savefig(path, dpi=130, metadata=date)


def _figure(entries: Sequence[Entry], groups: Sequence[Group], key: str, metric: str) -> Any:
    from matplotlib.figure import Figure

    ordered = sorted(groups, key=lambda each: _order(each.values[0]))
    values = [each.values[0] for each in ordered]
    numbers = _are_numbers(values)
    places = [float(value) for value in values] if numbers else [float(place) for place in range(len(values))]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    if numbers and min(places) > 0 and max(places) / min(places) >= WIDE:
        axes.set_xscale("log")
    axes.set_xticks(places, [wording.value(value) for value in values])
    axes.minorticks_off()
    _dots(axes, entries, key, dict(zip(map(wording.value, values), places, strict=True)))
    _means(axes, ordered, places, numbers)
    axes.margins(x=0.08)
    axes.set_xlabel(key)
    axes.set_ylabel(metric.replace("_", " "))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(frameon=False, fontsize=9, loc="outside lower center", ncols=3, title="bars: 95 % intervals")
    axes.set_title(f"{metric.replace('_', ' ')} by {key}, {counted(len(entries), 'run')}", fontsize=11, loc="left")
    return figure


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _order(value: Any) -> tuple[bool, float, str]:
    number = _are_numbers([value])
    return not number, float(value) if number else 0.0, wording.value(value)


def _dots(axes: Any, entries: Sequence[Entry], key: str, places: dict[str, float]) -> None:
    """Draw each run; those of one value side by side, so that none hides another; a lone one with its interval."""
    members: dict[str, list[Entry]] = {}
    for entry in entries:
        members.setdefault(wording.value(entry.params.get(key, ABSENT)), []).append(entry)
    spots = []
    for value, same in members.items():
        for step, entry in enumerate(sorted(same, key=lambda entry: entry.score.value)):
            aside = _beside(axes, places[value], step - (len(same) - 1) / 2, list(places.values()))
            spots.append((aside, entry.score))
    alone = [(places[value], same[0].score) for value, same in members.items() if len(same) == 1]
    xs, ys = [place for place, _ in spots], [score.value for _, score in spots]
    axes.plot(xs, ys, "o", color=DOT, markeredgecolor="white", markersize=6, zorder=4, label="one run")
    if alone:
        _bars(
            axes,
            alone,
            {"fmt": "none", "ecolor": DOT, "elinewidth": 1.4, "label": "a lone run: chance of its pictures"},
        )


def _bars(axes: Any, spots: Sequence[tuple[float, Interval]], style: dict[str, Any]) -> None:
    low = [score.value - score.low for _, score in spots]
    high = [score.high - score.value for _, score in spots]
    axes.errorbar([place for place, _ in spots], [score.value for _, score in spots], yerr=(low, high), **style)


def _beside(axes: Any, place: float, steps: float, places: Sequence[float]) -> float:
    """Return a place a little to the side: a part of the distance between values, or a factor on a logarithmic axis."""
    if axes.get_xscale() == "log":
        return float(place * 1.05**steps)
    return place + 0.04 * steps * ((max(places) - min(places)) / max(len(places) - 1, 1) or 1)


def _means(axes: Any, groups: Sequence[Group], places: Sequence[float], numbers: bool) -> None:
    several = [(place, each.mean) for place, each in zip(places, groups, strict=True) if each.mean.low < each.mean.high]
    if several:
        style = {"color": MEAN, "linewidth": 1.2, "elinewidth": 1.8, "capsize": 5, "markersize": 11, "zorder": 3}
        label = "mean of several seeds: their chance"
        _bars(axes, several, {"fmt": "_-" if numbers else "_", "markeredgewidth": 2.5, "label": label, **style})
