"""`image`, `ingest` and `split`: how pictures become squares, which are left out, which split each belongs to."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vitlora.core.params import Params, TogetherError

SIDES = (8, 2048)  # px, least and most


class Image(Params):
    """Side of the square in pixels, and the resize filter, by torchvision's names; `auto` takes the base model's."""

    size_px: Annotated[int, Field(ge=SIDES[0], le=SIDES[1])] | Literal["auto"]
    """Side of the squares, a multiple of the model's patch; time grows with its square. auto is the size that the base
    model was trained at.
    """
    interpolation: Literal["bilinear", "bicubic", "auto"]
    """Resize filter, by torchvision's name; auto is the base model's own."""

    @field_validator("size_px", mode="before")
    @classmethod
    def _a_side_or_auto(cls, value: object) -> object:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value != "auto" and not (whole and SIDES[0] <= value <= SIDES[1]):  # type: ignore[operator]
            limits = f"at least {SIDES[0]} and at most {SIDES[1]}"
            raise ValueError(f"a whole number, without quotes or decimal point, of {limits}, or auto")
        return value


class Split(Params):
    """How the images are divided.

    ``val_from: train`` carves val from the training images and keeps an official split as test; ``official`` uses an
    official split as val, as the tutorial does. ``max_per_class`` caps every class in every split for small trials.
    """

    seed: int = Field(ge=0, lt=2**32)
    """Of the random division."""
    val_from: Literal["train", "official"]
    """With train, val is carved from the training images and an official split is test; with official, it is val."""
    val_fraction: float = Field(gt=0, lt=1)
    """Share of each class that picks the best epoch."""
    test_fraction: float = Field(gt=0, lt=1)
    """Share of each class that is only scored; used where the data has no official split."""
    max_per_class: int | None = Field(ge=1)
    """At most so many images of each class, before val and test are taken from them; for small trials."""

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
    """A file that can't be decoded: fail names it and stops, skip names it and goes on."""
    max_bad_fraction: float = Field(ge=0, le=1)
    """With skip: more than this share of bad files stops all the same."""
    on_left_out: Literal["fail", "skip"]
    """Links, pipes, splits that no parameter names: fail names what the run would not use, skip goes on without it."""
    on_duplicate: Literal["fail", "skip"]
    """One picture in two classes or in two official splits: fail stops, skip leaves it out of train."""


class PreprocessStage(Params):
    """What `preprocess` reads."""

    image: Image
    ingest: Ingest
    split: Split
