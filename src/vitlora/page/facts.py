"""What the page says of itself: the model's card in a few lines, and test pictures to try."""

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.core.text import printable
from vitlora.storage.labels import read_labels
from vitlora.storage.squares import load_split

QUALITY = 92
# As export's card says it; the rest of the paragraph tells of pictures that training has met.
ACCURACY = re.compile(
    r"Accuracy (?P<value>[01]\.\d+) on (?P<images>[\d,]+) test images "
    r"\(95 % interval (?P<low>[01]\.\d+) to (?P<high>[01]\.\d+)\)(?P<more>.*)"
)


# The row of the format in that card: accuracy and agreement; and of how many pictures.
INT8 = re.compile(r"\| onnx-int8 \|[^|]*\|[^|]*\| (?P<accuracy>[01]\.\d+) \| (?P<same>[\d.]+) % \|")
CHECKED = re.compile(r"Measured on (?P<images>[\d,]+) of the test images")
# As docs/page.md says and tests/page/test_browser.py holds it to.
MOVED = {
    "int8": "Rounding moves percentages: 19 of 20 were within 6 points of vitlora predict, all within 10",
    "fp32": "Percentages were within 0.2 points of vitlora predict; browsers decode JPEG a little differently",
}


def described(facts: Mapping[str, Any], card: str, precision: str, megabytes: str) -> list[tuple[str, str]]:
    """Return the lines of the model's card, each a term and a text.

    Args:
        facts: vitlora.json. What an older one lacks is left out.
        card: README.md of the exported folder; empty where there is none.
        precision: Of the weights, `int8` or `fp32`.
        megabytes: Size of the model, as people read it.
    """
    calibration, size = facts.get("calibration", {}), facts["image_size"]
    lines = {
        "Accuracy": _accuracy(card),
        "Percentages": _percentages(calibration),
        "“Not sure”": _not_sure(calibration),
        "Base model": _base(facts.get("base", {})),
        "Trained with": _method(facts.get("method", {})),
        "Sees": f"the centre square of a picture, scaled to {size} by {size} px ({facts['interpolation']})",
        "Weights": f"{precision}, {megabytes}. {_int8(card) if precision == 'int8' else ''}{MOVED[precision]}",
        "Classes": f"{', '.join(facts['class_names'])}. Whatever else a picture shows, the model names one of these",
    }
    return [(term, printable(text)) for term, text in lines.items() if text]


def _accuracy(card: str) -> str:
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", card))
    found = next(filter(None, map(ACCURACY.search, paragraphs)), None)
    if not found:
        return ""
    value, low, high = (f"{float(found[name]):.1%}" for name in ("value", "low", "high"))
    text = f"{value} of {found['images']} test pictures right (95% interval {low} to {high}){found['more']}"
    return text.replace(") that played", "). They played")


def _int8(card: str) -> str:
    row, checked = INT8.search(card), CHECKED.search(card)
    if not (row and checked):
        return ""
    return (
        f"Of {checked['images']} test pictures {float(row['accuracy']):.1%} right, "
        f"and the class of the trained model in {float(row['same']):.1f}%. "
    )


def _percentages(found: Mapping[str, Any]) -> str:
    if "temperature" not in found:
        return ""
    return (
        f"calibrated on {found['images']:,} validation pictures: of answers at 80%, about 80 in 100 are right, "
        "as long as pictures are like those"
    )


def _not_sure(found: Mapping[str, Any]) -> str:
    if "threshold" not in found:
        return ""
    return (
        f"means that no class reaches {found['threshold']:.1%}, the mark on the bars, or more than one does. The "
        f"likeliest class and all that reach it hold the true one in {found['coverage']:.0%} of pictures like the "
        "validation pictures"
    )


def _base(found: Mapping[str, Any]) -> str:
    name = " ".join(str(found[key]) for key in ("id", "revision") if found.get(key))
    return f"{name} ({found['model_type']})" if "model_type" in found else name


def _method(found: Mapping[str, Any]) -> str:
    if "name" not in found:
        return ""
    settings = [f"{key} {value}" for key, value in found.get("settings", {}).items()]
    layers = [f"layers {', '.join(found['layers'])}"] if found.get("layers") else []
    return ": ".join(filter(None, [found["name"], "; ".join([*settings, *layers])]))


def examples(prepared: Path, facts: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return test pictures as the model sees them: `picture`, a JPEG in base64, and `label`, the position of its class.

    Args:
        prepared: What preprocess wrote. Where it is not at hand, or of other classes, there are none.
        facts: vitlora.json.
        count: How many at most, of classes spread over all.
    """
    if not count or not (prepared / "labels.json").is_file() or not (prepared / "test" / "images.npy").is_file():
        return []
    labels = read_labels(prepared / "labels.json")
    if (labels.class_names, labels.image_size) != (facts["class_names"], facts["image_size"]):
        return []
    test = load_split(prepared / "test")
    rows = spread(test.labels, count)
    return [{"label": int(test.labels[row]), "picture": _jpeg(test.images[row])} for row in rows]


def spread(labels: NDArray[np.int64], count: int) -> list[int]:
    """Return up to ``count`` rows of as many classes as can be, the first of each, then the second.

    Args:
        labels: int64 (N,).
        count: At least 1.
    """
    there = np.unique(labels)
    chosen = there[np.unique(np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int))]
    turn = np.array([np.count_nonzero(labels[:row] == label) for row, label in enumerate(labels)])
    rows = np.flatnonzero(np.isin(labels, chosen))
    return [int(row) for row in rows[np.lexsort((labels[rows], turn[rows]))][:count]]


def _jpeg(square: NDArray[np.uint8]) -> str:
    """Return uint8 (3, H, H) as a JPEG in base64, its colours as fine as its light."""
    buffer = io.BytesIO()
    Image.fromarray(square.transpose(1, 2, 0)).save(buffer, format="JPEG", quality=QUALITY, subsampling=0)
    return base64.b64encode(buffer.getvalue()).decode()
