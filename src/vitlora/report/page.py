"""The report as one HTML file: no script, no network, everything inside."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChainableUndefined, Environment

from vitlora.compare.two import Comparison
from vitlora.compare.wording import cost, cost_name, difference, points, span, verdict_line
from vitlora.compare.wording import value as shown_value
from vitlora.core.text import counted, printable, shown_seconds
from vitlora.evaluate.records import LOSSES
from vitlora.report.charts import NUMBERS_UP_TO, cells, curves, order_classes, reliability
from vitlora.report.contents import Contents

TEMPLATE = Path(__file__).with_suffix(".html")
DIFFERING = 40  # classes and parameters listed of two runs


def render(
    runs: Sequence[Contents],
    comparison: Comparison | None,
    pictures: Mapping[str, Any],
    findings: Mapping[str, Any],
) -> str:
    """Return the page.

    Args:
        runs: One, or two that are shown side by side, the older first.
        comparison: Of the two.
        pictures: By name of the list that they stand in; see ``cli.report``.
        findings: What the model was asked for: suspects, and why there are none.
    """
    template = _environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        runs=[_arranged(run) for run in runs],
        comparison=comparison,
        pictures=pictures,
        findings=findings,
        most=DIFFERING,
        numbers_up_to=NUMBERS_UP_TO,
    )


def _arranged(run: Contents) -> dict[str, Any]:
    """Return what the template draws of a run."""
    order = order_classes(run.confusion)
    right = f"{run.right:,} of {counted(run.images, 'test picture')} right"
    return {
        "contents": run,
        "label": run.run.label,
        "right": right,
        "scores": run.tables["intervals"],
        "order": [run.class_names[label] for label in order],
        "cells": cells(run.confusion, order),
        "widest": max(map(len, run.class_names)),
        "losses": curves(run.tables["epochs"], "epoch", {"train_loss": "train", "val_loss": "val"}),
        "accuracies": curves(run.tables["epochs"], "epoch", {"val_accuracy": "val"}),
        "steps": curves(run.tables["steps"], "step", {"loss": "loss"}),
        "rates": curves(run.tables["steps"], "step", {"learning_rate": "learning rate"}),
        "reliability": reliability(run.tables["reliability"]),
        "floor": _floor(run.tables["intervals"]),
        "score": {row["score"]: float(row["value"]) for row in run.tables["intervals"]},
        "classes": sorted(run.tables["classes"], key=_weakest_first),
        "params": _sections(run.run.params),
    }


def _floor(rows: Sequence[Mapping[str, str]]) -> float:
    """Return where the axis of the scores begins: the tenth below the lowest end of an interval."""
    ends = [float(row["low"]) for row in rows if row["low"] and not row["score"].startswith(LOSSES)]
    return min(0.9, math.floor(10 * min(ends, default=0.0)) / 10)


def _weakest_first(row: Mapping[str, str]) -> tuple[float, str]:
    return float(row["recall"] or np.inf), row["class"]


def _sections(params: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for key, value in params.items():
        section, _, name = key.partition(".")
        found.setdefault(section, []).append((name, shown_value(value)))
    return found


def _environment() -> Environment:
    """Return one that escapes all text, writes out control characters, and knows our ways of writing numbers."""
    environment = Environment(
        autoescape=True, finalize=_shown, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "n": partial(_number, "{:,}"),
        "g": partial(_number, "{:g}"),
        "percent": partial(_number, "{:.1%}"),
        "four": partial(_number, "{:.4f}"),
        "points": points,
        "span": span,
        "difference": difference,
        "verdict": verdict_line,
        "value": shown_value,
        "seconds": shown_seconds,
        "counted": _counted,
    }
    environment.globals |= {"cost": cost, "cost_name": cost_name}
    return environment


def _number(form: str, value: Any) -> str:
    """Write a number; a run of an older version may lack it."""
    return form.format(value) if isinstance(value, int | float) else "unknown"


def _counted(value: Any, noun: str, plural: str = "") -> str:
    return counted(value, noun, plural) if isinstance(value, int) else f"unknown number of {plural or noun + 's'}"


def _shown(value: object) -> object:
    """Write out control characters, but not the line ends of what is HTML already."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
