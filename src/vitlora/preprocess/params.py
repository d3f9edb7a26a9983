"""`image`, `ingest` and `split`: how pictures become squares, which are left out, which split each belongs to."""

from typing import Literal

from pydantic import Field, model_validator

from vitlora.core.params import Params, TogetherError


class Image(Params):
    """Side of the square in pixels, and the resize filter, by torchvision's names."""

    size_px: int = Field(ge=8, le=2048)
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


class Ingest(Params):
    """What to do with files that can't be decoded: stop at them, or leave out at most a fraction of all images. The
    same for duplicates that would mislead, those in two classes or in two of the data's own splits.
    """

    on_bad: Literal["fail", "skip"]
    max_bad_fraction: float = Field(ge=0, le=1)
    on_duplicate: Literal["fail", "skip"]


class PreprocessStage(Params):
    """What `preprocess` reads."""

    image: Image
    ingest: Ingest
    split: Split
