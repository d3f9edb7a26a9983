"""`data` and `model`: where the images and the base model come from."""

import re
from typing import Literal

from pydantic import Field, model_validator

from vitlora.core.params import Params, TogetherError
from vitlora.core.text import is_address

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class DataSource(Params):
    """Which images to fetch.

    ``path`` is a Hub id for `hub`, a local file or an http(s) address for `archive`, else a local folder; null for
    `digits`. ``sha256`` pins an archive: what stands behind an address may change, and needs it.
    """

    source: Literal["digits", "hub", "hub_folder", "folder", "archive", "table"]
    """Where images come from: digits (built in), hub (a data set's id), hub_folder (its local copy), folder (of class
    folders), archive (of such a folder), table (a folder with a csv, tsv or jsonl file of pictures and classes).
    """
    path: str | None = Field(min_length=1)
    """Hub id, local path or, for archive, an http(s) address; null for digits."""
    revision: str | None
    """With hub: the full commit, so that next year gives the same data."""
    sha256: str | None
    """With archive: of the file; needed where path is an address."""
    name_encoding: str | None
    """With archive: encoding of names that are not UTF-8, such as gb18030, cp932 or cp437; null refuses them."""
    config: str | None = Field(min_length=1)
    """With hub and hub_folder: configuration of the data set, where it has several."""
    streaming: bool
    """With hub and hub_folder: rows are packed as they come, without a copy of the files, for a set that fits on the
    disk but once (docs/large.md).
    """
    max_short_side_px: int | None = Field(ge=1)
    """Larger pictures are scaled down so that their shorter side has so many px, where the originals don't fit on the
    disk; null keeps all as they are (docs/large.md).
    """
    image_column: str = Field(min_length=1)
    """With hub, hub_folder and table: column of the pictures, in a table of their paths or names."""
    label_column: str = Field(min_length=1)
    """With hub, hub_folder and table: column of the class."""
    split_column: str | None = Field(min_length=1)
    """With table: column that says train, val or test, if there is one."""
    train_split: str = Field(min_length=1)
    """With hub and hub_folder: name of the split to train on. With table: its file, with or without ending."""
    val_split: str | None = Field(min_length=1)
    """Likewise of an official validation split, if there is one."""
    test_split: str | None = Field(min_length=1)
    """Likewise of an official test split, if there is one."""

    @property
    def splits(self) -> dict[str, str]:
        """The data set's names of the splits that there are, by ours."""
        named = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        return {ours: theirs for ours, theirs in named.items() if theirs is not None}

    @model_validator(mode="after")
    def _source_has_its_path(self) -> "DataSource":
        if (self.source == "digits") != (self.path is None):
            raise TogetherError("path is null for source digits, and set for every other source", "source", "path")
        _require_commit(self.source, self.revision)
        _require_hash(self.source, self.path, self.sha256)
        if len(set(self.splits.values())) < len(self.splits):
            raise TogetherError("each names another split, or is null", "train_split", "val_split", "test_split")
        if self.config is not None and self.source not in ("hub", "hub_folder"):
            raise TogetherError("config is null unless source is hub or hub_folder", "source", "config")
        if self.streaming and self.source not in ("hub", "hub_folder"):
            raise TogetherError("streaming is false unless source is hub or hub_folder", "source", "streaming")
        if self.split_column is not None and (self.source != "table" or len(self.splits) > 1):
            raise TogetherError(
                "split_column is null unless source is table and one table holds all: val_split and test_split null",
                "source",
                "split_column",
                "val_split",
                "test_split",
            )
        _require_encoding(self.source, self.name_encoding)
        return self


class ModelSource(Params):
    """Which base model to fetch.

    ``path`` is a Hub id for `hub`, a folder for `folder`, null or a .whl for `wheel`; for `timm` a Hub id with its
    commit in ``revision``, or a folder with null.
    """

    source: Literal["wheel", "hub", "folder", "timm"]
    """Where it comes from: wheel (the built-in ViT-S/14), hub (a model's id), folder (as save_pretrained writes it),
    timm (a model of timm: an id such as timm/vit_small_patch16_dinov3.lvd1689m, or a local folder).
    """
    path: str | None = Field(min_length=1)
    """Hub id or local folder; null, or the downloaded .whl, for wheel."""
    revision: str | None
    """With hub, and with timm from the Hub: the full commit."""

    @property
    def from_hub(self) -> bool:
        """Whether it is fetched from the Hub: of timm, what has a commit."""
        return self.source == "hub" or (self.source == "timm" and self.revision is not None)

    @model_validator(mode="after")
    def _source_has_its_path(self) -> "ModelSource":
        if self.source != "wheel" and self.path is None:
            raise TogetherError("path is set for source hub, folder and timm", "source", "path")
        _require_commit("hub" if self.from_hub else self.source, self.revision)
        return self


def _require_commit(source: str, revision: str | None) -> None:
    """A branch name moves; only a commit makes the download the same next year."""
    if source == "hub" and (revision is None or not COMMIT.fullmatch(revision)):
        raise TogetherError("revision is the full 40-digit commit, in lower case", "source", "revision")
    if source != "hub" and revision is not None:
        raise TogetherError("revision is null unless source is hub", "source", "revision")


def _require_hash(source: str, path: str | None, sha256: str | None) -> None:
    """An address may hold another file next year, or half of it today; only its hash says that it is the same."""
    if sha256 is None:
        if source == "archive" and is_address(path):
            raise TogetherError("sha256 is set where path is an address (sha256sum FILE shows it)", "path", "sha256")
    elif source != "archive":
        raise TogetherError("sha256 is null unless source is archive", "source", "sha256")
    elif not SHA256.fullmatch(sha256):
        raise TogetherError("64 hex digits, in lower case, or null", "sha256")


def _require_encoding(source: str, encoding: str | None) -> None:
    if encoding is None:
        return
    if source != "archive":
        raise TogetherError("name_encoding is null unless source is archive", "source", "name_encoding")
    try:
        if b"a/b".decode(encoding) != "a/b":
            raise ValueError
    except (LookupError, ValueError):
        raise TogetherError("an encoding that Python knows, such as gb18030, cp932 or cp437", "name_encoding") from None


class DownloadStage(Params):
    """What `download` reads."""

    data: DataSource
    model: ModelSource
