"""The models that are served, side by side, by name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.predict.classifier import BATCH, Classifier, Make
from vitlora.serve.squares import square_maker

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # it stands in addresses


@dataclass(frozen=True, eq=False)
class Served:
    """A model under its name.

    Attributes:
        name: As it stands in addresses.
        platform: What runs it, by the Open Inference Protocol's names.
        class_names: In the model's order.
        image_size: Side of its squares, px.
        image_mean: Per channel, of pixels scaled to 0..1; this grey says nothing to the model.
        threshold: Least probability of a class in a prediction set; None where it keeps none.
        score: uint8 (N, 3, size, size) to probabilities, float32 (N, C).
        make: A picture to its square, in a decoder.
    """

    name: str
    platform: str
    class_names: list[str]
    image_size: int
    image_mean: list[float]
    threshold: float | None
    score: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
    make: Make

    def warm_up(self) -> None:
        """Score one square and a whole batch, so that all memory is taken and the first request is a quick one."""
        for count in (1, BATCH):
            self.score(np.zeros((count, 3, self.image_size, self.image_size), np.uint8))


def exported(name: str, folder: Path, pixels: int) -> Served:
    """Return the model of an exported folder.

    Args:
        name: To serve it by.
        folder: What `dvc repro` exported.
        pixels: Most pixels of a picture.

    Raises:
        VitloraError: The folder holds no exported model, or a damaged one.
    """
    model = Classifier(folder)
    size, interpolation = model.facts["image_size"], model.facts["interpolation"]
    return Served(
        name,
        "onnx_onnxruntime",
        model.class_names,
        size,
        model.facts["image_mean"],
        model.threshold,
        model.score,
        square_maker(size, interpolation, pixels),
    )


def named(given: str) -> tuple[str, Path]:
    """Split `[NAME=]FOLDER`; without a name it is the folder's own.

    Raises:
        VitloraError: The name can't stand in an address.
    """
    name, mark, folder = given.partition("=")
    if not mark or "/" in name:  # a folder with = in its path
        name, folder = Path(given).resolve().name, given
    if not NAME.fullmatch(name):
        raise VitloraError(
            f"{printable(given)}: got the name {printable(name)!r}; the rule: letters, digits, dots, - and _, 64 at "
            f"most, the first a letter or digit, as in `pets={printable(folder)}`"
        )
    return name, Path(folder)


def refuse_double(names: list[str]) -> None:
    """Refuse two models under one name.

    Raises:
        VitloraError: There are two.
    """
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise VitloraError(f"two models are named {double}; the rule: a name each, as in `first=FOLDER second=OTHER`")
