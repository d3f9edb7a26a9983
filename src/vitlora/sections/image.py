"""`image` and `split`: how pictures become squares, and which split each belongs to (read by preprocess)."""

from typing import Literal

from pydantic import Field, model_validator

from vitlora.params import Params, TogetherError
from vitlora.sections.data import DataPolicy


class Image(Params):
    """Side of the square in pixels, and the resize filter, by torchvision's names."""

    size: int = Field(ge=8, le=2048)
    interpolation: Literal["bilinear", "bicubic"]


class Split(Params):
    """How the images are divided.

    ``val_from: train`` carves val from the training images and keeps an official split as test; ``official`` uses an
    official split as val, as the tutorial does. ``max_per_class`` caps every class in every split for small trials.
    """

    seed: int = Field(ge=0, lt=2**32)
    val_from: Literal["train", "official"]
    val_fraction: float = Field(gt=0, lt=1)
    test_fraction: float = Field(gt=0, lt=1)
    max_per_class: int | None = Field(ge=1)

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> "Split":
        if self.val_fraction + self.test_fraction >= 1:
            raise TogetherError(
                "below 1 in sum, so that something is left to train on", "val_fraction", "test_fraction"
            )
        return self


class PreprocessStage(Params):
    """What `preprocess` reads."""

    data: DataPolicy
    image: Image
    split: Split
