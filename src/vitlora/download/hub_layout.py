"""Read a data set in Hub layout, a local copy of one or the one on the Hub itself, row by row and nothing decoded."""

import json
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from vitlora.core.errors import VitloraError
from vitlora.core.params import shown
from vitlora.download.found import Found, Picture, first_line
from vitlora.download.layout import UNUSED, Left, checked_names

CARD = ("README.md", ".huggingface.yaml")
# Members of a WebDataset tar that hold a label or facts; all others stay bytes.
TAR_TEXTS = ("txt", "text", "transcript", "cls", "cls2", "index", "inx", "id", "json", "jsn")
AT_ONCE = 8  # files asked for their class names; on the Hub each is a request
KEPT = "; what has come is kept: if the connection was lost, the same command goes on behind it"
Labels = dict[Any, int]


@dataclass(frozen=True)
class Place:
    """Where a data set lies.

    Attributes:
        name: For messages: the folder, or the Hub's id.
        path: For `datasets`.
        revision: The commit, on the Hub.
        files: What the paths of its files begin with.
        card: Folder of its card.
    """

    name: str
    path: str
    revision: str | None
    files: str
    card: Path

    @property
    def hint(self) -> str:
        """What to add where a row can't be read."""
        return KEPT if self.revision else ""


class Position(NamedTuple):
    """Where to go on: our name of the split, its row, and the stream's state as `datasets` has it."""

    split: str
    row: int
    state: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row as it comes.

    Attributes:
        split: `train`, `val` or `test`.
        number: In the split, from 0.
        path: As ``Picture`` has it.
        value: Of the label column.
        data: The picture's bytes.
        next: Where to go on behind it.
    """

    split: str
    number: int
    path: str
    value: Any
    data: bytes
    next: Position


@dataclass(frozen=True)
class HubSet:
    """A data set that is open, of which nothing has been read.

    Attributes:
        place: Where it lies.
        image_column, label_column: Their names.
        streams: By our name of each split: its own, and the stream of these columns.
        class_names: As ClassLabel has them; None where the values are the classes, in order.
        left_out: What is not used, by reason.
    """

    place: Place
    image_column: str
    label_column: str
    streams: dict[str, tuple[str, Any]]
    class_names: list[str] | None
    left_out: Left

    def rows(self, begin: Position | None = None) -> Iterator[Row]:
        """Yield all rows, split by split, or those from a position on."""
        splits = list(self.streams)
        for split in splits[splits.index(begin.split) if begin else 0 :]:
            theirs, stream = self.streams[split]
            first = 0
            if begin and begin.split == split:
                first = begin.row
                stream.load_state_dict(begin.state)
            for number, example in enumerate(_examples(stream, self.place), first):
                data, behind = self._bytes(example[self.image_column]), Position(split, number + 1, stream.state_dict())
                yield Row(split, number, f"{theirs}/{number:06d}", example[self.label_column], data, behind)

    def stated_labels(self) -> Labels:
        """Return the label of each value as ClassLabel says; nothing without it."""
        return {number: number for number in range(len(self.class_names or ()))}

    def sorted_labels(self) -> Labels:
        """Return the label of each value; without ClassLabel all rows are read for it."""
        values = (
            example[self.label_column]
            for _, stream in self.streams.values()
            for example in _examples(stream.select_columns([self.label_column]), self.place)
        )
        return self.stated_labels() or in_order(set(map(self._usable, values)))

    def label(self, row: Row, labels: Labels) -> int:
        """Return a row's label. Without ClassLabel, a value that is not among the labels yet gets the next one.

        Raises:
            VitloraError: There is no class for the value, or it can't be the name of one.
        """
        if row.value in labels:
            return labels[row.value]
        if self.class_names:
            allowed = ", ".join(map(str, labels)) if len(labels) <= 10 else f"one of {len(labels)} classes"
            theirs, _ = self.streams[row.split]
            raise VitloraError(f"{self.place.name}: {theirs} row {row.number}: label {row.value}; the rule: {allowed}")
        checked_names([str(self._usable(row.value))], self.place.name)
        return labels.setdefault(row.value, len(labels))

    def names(self, labels: Labels) -> list[str]:
        """Return the class names that belong to labels in order."""
        return checked_names(self.class_names or map(str, labels), self.place.name)

    def _usable(self, value: Any) -> Any:
        if not isinstance(value, int | str):
            raise VitloraError(
                f"data.label_column: {self.label_column} holds {value!s:.60}; the rule: whole numbers or text in every "
                "row"
            )
        return value

    def _bytes(self, value: Any) -> bytes:
        if value is None:
            return b""
        if value["bytes"] is not None:
            return bytes(value["bytes"])
        return _read(self.place, value["path"])


def in_order(values: Iterable[Any]) -> Labels:
    """Return the label of each value of a column without ClassLabel."""
    return {value: number for number, value in enumerate(sorted(values))}


def from_hub_layout(
    folder: Path, config: str | None, image_column: str, label_column: str, splits: dict[str, str]
) -> Found:
    """Read a folder as ``datasets.load_dataset(folder)`` does; see ``open_hub_layout``."""
    found = open_hub_layout(in_folder(folder), config, image_column, label_column, splits)
    labels = found.sorted_labels()
    rows = (Picture(row.path, row.split, found.label(row, labels), row.data) for row in found.rows())
    return Found(found.names(labels), rows, found.left_out)


def in_folder(folder: Path) -> Place:
    """Return the place of a data set whose files lie in a folder: parquet, or whatever `datasets` reads."""
    whole = str(folder.absolute())
    return Place(str(folder), whole, None, whole, folder)


def on_hub(repo_id: str, revision: str, card: Path) -> Place:
    """Return the place of a data set on the Hub; written so, `datasets` takes no local folder of that name for it.

    Raises:
        VitloraError: The id is a single word, for which `datasets` may have another meaning.
    """
    if "/" not in repo_id:
        raise VitloraError(f"data.path: got {repo_id}; the rule: a Hub id such as owner/name")
    path = f"hf://datasets/{repo_id}"
    return Place(repo_id, path, revision, f"{path}@{revision}", card)


def open_hub_layout(
    place: Place, config: str | None, image_column: str, label_column: str, splits: dict[str, str]
) -> HubSet:
    """Open a data set as ``datasets.load_dataset`` does, streaming, and no code is run.

    Args:
        place: Where it lies.
        config: One of the data set's configurations, where it has several.
        image_column: Column of type Image.
        label_column: Column of type ClassLabel, integers or text. Without ClassLabel, the classes are the values in
            order.
        splits: Our split name to the data set's; the same name the other way round stands in paths.

    Raises:
        VitloraError: It can't be read, leads to files outside it, or lacks a split or column; the message lists what it
            has.
    """
    streams = _open_streams(place, config)
    for ours, theirs in splits.items():
        if theirs not in streams:
            raise VitloraError(f"data.{ours}_split: got {theirs}; {place.name} has the splits {', '.join(streams)}")
    features = streams[splits["train"]].features or _columns(streams[splits["train"]], place)
    for key, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in features:
            raise VitloraError(f"data.{key}: got {column}; {place.name} has the columns {', '.join(features)}")
    undecoded, label = _undecoded(features[image_column], image_column), features[label_column]
    if not hasattr(label, "dtype"):
        raise VitloraError(f"data.label_column: got {label_column}, a column of {label}, not of numbers or text")
    columns = [image_column, label_column]
    chosen = {
        ours: (theirs, streams[theirs].select_columns(columns).cast_column(image_column, undecoded))
        for ours, theirs in splits.items()
    }
    names = getattr(label, "names", None)
    if names:
        _refuse_other_names(place, config, label_column, names, splits.values())
    unused = [name for name in streams if name not in splits.values()]
    return HubSet(place, image_column, label_column, chosen, names, {UNUSED: unused} if unused else {})


def _open_streams(place: Place, config: str | None) -> Any:
    """Open every split of a data set without reading it; ``datasets`` would open any file or address a card names."""
    if place.revision is None and not os.path.isdir(place.path):
        raise VitloraError(f"data.path: got {place.name}, which is not a folder; the rule: a data set in Hub layout")
    import datasets

    # Every stream would import torch (1.5 s, 0.5 GB) to be usable in its DataLoader.
    datasets.config.TORCH_AVAILABLE = False
    datasets.config.USE_PARQUET_EXPORT = False  # the columns are what the files say, not what another service does
    _leave_packed()
    try:
        outside = [text for text in _card_texts(place.card) if _leads_out(text)]
        if not outside:
            names = datasets.get_dataset_config_names(place.path, revision=place.revision)
            default = config or datasets.get_dataset_default_config_name(place.path, revision=place.revision)
            if default in names:
                return datasets.load_dataset(place.path, config, revision=place.revision, streaming=True)
    except Exception as error:  # `datasets` raises its own, yaml's, pyarrow's and fsspec's errors
        raise _unread(place, error) from None
    if outside:
        raise VitloraError(
            f"data.path: the card in {place.name} names {outside[0]}; the rule: only files inside the folder"
        )
    raise VitloraError(f"data.config: got {shown(config)}; {place.name} has the configurations {', '.join(names)}")


def _unread(place: Place, error: Exception, hint: str = "") -> VitloraError:
    return VitloraError(f"data.path: `datasets` cannot read {place.name}: {first_line(error)}{hint}")


def _leads_out(path: str) -> bool:
    return "://" in path or path[:1] == "/" or ".." in path.split("/")


def _columns(stream: Any, place: Place) -> dict[str, str]:
    """Return the columns of a split that doesn't say them before it is read, as tables, each with its type."""
    first = list(_examples(stream.take(1), place))
    return {name: f"{type(value).__name__} values" for row in first for name, value in row.items()}


def _leave_packed() -> None:
    """Let `datasets` open no member of a tar but text: not .pth by torch.load, .npy, .msg or .cbor, nor unpack any."""
    from datasets.packaged_modules.webdataset import webdataset

    known = webdataset.WebDataset.DECODERS
    webdataset.WebDataset.DECODERS = {name: known[name] for name in TAR_TEXTS if name in known}
    webdataset.EXTENSION_TO_COMPRESSION_FS_FILE_CLS = {}


def _card_texts(folder: Path) -> list[str]:
    """Return all texts in the part of a data set's card that names files."""
    from huggingface_hub import metadata_load

    card, extra = (folder / name for name in CARD)
    found = [
        (metadata_load(card) if card.is_file() else None) or {},
        (yaml.safe_load(extra.read_text(encoding="utf-8")) if extra.is_file() else None) or {},
    ]
    todo, texts = [part.get("configs") for part in found], []
    while todo:
        value = todo.pop()
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, list | dict):
            todo += value.values() if isinstance(value, dict) else value
    return texts


def _undecoded(feature: Any, column: str) -> Any:
    from datasets import Image as ImageFeature

    if not isinstance(feature, ImageFeature):
        raise VitloraError(
            f"data.image_column: got {column}, a column of {feature}, not of images; where it holds paths in a csv or "
            "jsonl file, data.source: table reads them"
        )
    return ImageFeature(decode=False)


def _refuse_other_names(
    place: Place, config: str | None, column: str, names: Sequence[str], splits: Iterable[str]
) -> None:
    """Refuse parquet files that number the classes in another order: `datasets` takes one file's names for all rows.

    Raises:
        VitloraError: Names the file, and the first class that differs.
    """
    import datasets
    from datasets.packaged_modules.parquet.parquet import Parquet

    builder = datasets.load_dataset_builder(place.path, config, revision=place.revision)
    if not isinstance(builder, Parquet):
        return
    files: Mapping[str, Sequence[str]] = builder.config.data_files or {}
    paths = sorted(str(path) for split in splits for path in files.get(split, ()))
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            stated = list(pool.map(partial(_stated_names, column=column), paths))
    except Exception as error:
        raise _unread(place, error) from None
    for path, own in zip(paths, stated, strict=True):
        if own is not None and own != list(names):
            at = next((n for n, pair in enumerate(zip(own, names, strict=False)) if pair[0] != pair[1]), None)
            said = f"{len(own)} classes" if at is None else f"{shown(own[at])} for {at}"
            rule = str(len(names)) if at is None else shown(names[at])
            raise VitloraError(
                f"data.path: {path} has {said} in {column}, where the data set has {rule}; the rule: one list of names "
                "for all files. Write each split anew with its names as text, as docs/images.md shows"
            )


def _stated_names(path: str, column: str) -> list[str] | None:
    """Return the class names that a parquet file has of its own; None if it says nothing of them."""
    from datasets.utils.file_utils import xopen
    from pyarrow.parquet import read_schema

    with xopen(path, "rb") as file:
        about = (read_schema(file).metadata or {}).get(b"huggingface", b"{}")
    try:
        return list(json.loads(about)["info"]["features"][column]["names"])
    except (ValueError, KeyError, TypeError):
        return None


def _examples(stream: Any, place: Place) -> Iterator[dict[str, Any]]:
    try:
        yield from stream
    except Exception as error:  # as where it is opened
        raise _unread(place, error, place.hint) from None


def _read(place: Place, path: str) -> bytes:
    """Return the bytes of a picture that a row names: by its whole path, or from the data set's folder."""
    from datasets.utils.file_utils import xopen

    inside = posixpath.normpath(path.removeprefix(f"{place.files}/"))
    if _leads_out(inside):
        raise VitloraError(f"{place.name}: a row names {path}; the rule: only files inside the folder")
    try:
        with xopen(f"{place.files}/{inside}", "rb") as file:
            return bytes(file.read())
    except Exception as error:  # as where it is opened
        reason = getattr(error, "strerror", None) or first_line(error)
        raise VitloraError(f"{place.name}: cannot read {path}: {reason}{place.hint}") from None
