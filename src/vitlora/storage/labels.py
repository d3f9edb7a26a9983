"""What was decided about the data and must travel with every model trained on it."""

from dataclasses import dataclass
from pathlib import Path

from vitlora.core.files import read_json


@dataclass(frozen=True)
class Labels:
    """Class names (position = label), side of the image square in px, and resize filter."""

    class_names: list[str]
    image_size: int
    interpolation: str


def read_labels(path: Path) -> Labels:
    """Read labels.json as preprocess wrote it."""
    return Labels(**read_json(path))
