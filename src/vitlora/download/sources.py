"""Read labelled pictures, as their original bytes, from each kind of place they may lie in.

Every reader gives ``Found``: class names, and pictures in a fixed order that are read only when asked for.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from PIL import Image

from vitlora.core.errors import VitloraError
from vitlora.core.params import shown
from vitlora.download.archives import Entry, Reader, open_archive
from vitlora.download.found import Found, Picture, first_line, list_folder
from vitlora.download.layout import LOOSE, UNREAD, UNUSED, arrange, checked_names, sort_out
from vitlora.download.table import find_table

DIGITS = "sklearn/datasets/data/digits.csv.gz"
# Members of a WebDataset tar that hold a label or facts; all others stay bytes.
TAR_TEXTS = ("txt", "text", "transcript", "cls", "cls2", "index", "inx", "id", "json", "jsn")


def from_digits() -> Found:
    """Return scikit-learn's 1,797 handwritten digits, 8x8 grey, as PNG; no official split.

    They are read from the table that the package holds, as its ``load_digits`` does: 64 levels from 0 to 16, then the
    class. To import the package takes a second or two.
    """
    table = np.loadtxt(str(distribution("scikit-learn").locate_file(DIGITS)), delimiter=",").astype(np.int64)

    def pictures() -> Iterator[Picture]:
        for row, values in enumerate(table):
            buffer = io.BytesIO()
            # 0..16 becomes 0..255.
            levels = (values[:-1].reshape(8, 8) * (255 / 16)).round().astype("uint8")
            Image.fromarray(levels).save(buffer, format="PNG")
            yield Picture(f"digits/{row:04d}.png", "train", int(values[-1]), buffer.getvalue())

    return Found([str(name) for name in range(10)], pictures(), {})


def from_hub_layout(
    folder: Path, config: str | None, image_column: str, label_column: str, splits: dict[str, str]
) -> Found:
    """Read a folder as ``datasets.load_dataset(folder)`` does, streaming, without decoding the pictures.

    Args:
        folder: A data set repository's files: parquet, or whatever `datasets` reads without running code.
        config: One of the data set's configurations, where it has several.
        image_column: Column of type Image.
        label_column: Column of type ClassLabel, integers or text. Without ClassLabel, the classes are the values in
            order.
        splits: Our split name to the data set's; the same name the other way round stands in paths.

    Raises:
        VitloraError: The folder can't be read, leads to files outside it, or lacks a split or column; the message
            lists what it has.
    """
    streams = _open_streams(folder, config)
    for ours, theirs in splits.items():
        if theirs not in streams:
            raise VitloraError(f"data.{ours}_split: got {theirs}; {folder} has the splits {', '.join(streams)}")
    features = streams[splits["train"]].features or _columns(streams[splits["train"]], folder)
    for key, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in features:
            raise VitloraError(f"data.{key}: got {column}; {folder} has the columns {', '.join(features)}")
    undecoded = _undecoded(features[image_column], image_column)
    chosen = {
        ours: streams[theirs].select_columns([image_column, label_column]).cast_column(image_column, undecoded)
        for ours, theirs in splits.items()
    }
    labels = _labels(features[label_column], chosen.values(), label_column, folder)
    stated = getattr(features[label_column], "names", None)
    if stated:
        _refuse_other_names(folder, config, label_column, stated)
    names = checked_names(stated or map(str, labels), folder)
    allowed = ", ".join(map(str, labels)) if len(labels) <= 10 else f"one of {len(labels)} classes"

    def pictures() -> Iterator[Picture]:
        for ours, stream in chosen.items():
            for row, example in enumerate(_examples(stream, folder)):
                label = labels.get(value := example[label_column])
                if label is None:
                    raise VitloraError(f"{folder}: {splits[ours]} row {row}: label {value}; the rule: {allowed}")
                yield Picture(f"{splits[ours]}/{row:06d}", ours, label, _image_bytes(example[image_column], folder))

    unused = [name for name in streams if name not in splits.values()]
    return Found(names, pictures(), {UNUSED: unused} if unused else {})


def from_folder(root: Path) -> Found:
    """Read class sub-folders, with or without train/val/test folders above them.

    What is taken for a class is told in ``layout``.

    Raises:
        VitloraError: The root is not a folder, can't be read in full, or holds no class folder.
    """
    return _arranged(list_folder(root, "; for a zip or tar, data.source: archive"), Path.read_bytes, root)


def from_archive(path: Path, encoding: str | None = None, scratch: Path | None = None) -> Found:
    """Read a zip or tar of such a folder, member by member, without unpacking: no member can be written anywhere.

    Args:
        path: The archive.
        encoding: Of names that are not UTF-8; None refuses them.
        scratch: Folder for a nameless copy of a compressed tar without its compression; None for the system's.

    Raises:
        VitloraError: Neither zip nor tar, damaged, cut off, over a limit, with a name twice, or without class folders.
    """
    if not os.path.isfile(path):
        hint = "; for a folder, data.source: folder" if os.path.isdir(path) else ""
        raise VitloraError(f"data.path: got {path}, which is not a file; the rule: a zip or tar of classes{hint}")
    try:
        entries, read = open_archive(path, encoding, scratch)
    except VitloraError:
        raise
    except Exception as error:  # each kind of compression raises its own
        raise VitloraError(f"data.path: {path} is neither a whole zip nor a whole tar: {first_line(error)}") from None
    return _arranged(entries, read, path)


def _arranged(entries: Iterable[Entry], read: Reader, root: Path) -> Found:
    """Find out what lies where; read each picture when it is asked for."""
    ready = sort_out(entries)
    table = find_table(ready[0], read)
    try:
        layout = arrange(ready, root)
    except VitloraError as error:
        raise VitloraError(f"{error}{_use_table(table)}") from None
    if table and len(layout.class_names) < 2:
        raise VitloraError(f"data.path: {root} holds one class folder, {layout.class_names[0]}{_use_table(table)}")
    if table:
        loose = [name for name in layout.left_out.pop(LOOSE, []) if name != str(table[0])]
        layout.left_out.update({UNREAD: [str(table[0])], **({LOOSE: loose} if loose else {})})
    numbers = {name: number for number, name in enumerate(layout.class_names)}

    def pictures() -> Iterator[Picture]:
        for path, handle in layout.files.items():
            try:
                data = read(handle)
            except Exception as error:  # the file system's, and each kind of compression's own
                raise VitloraError(f"{root}: cannot read {path}: {first_line(error)}") from None
            yield Picture(str(path), layout.split(path), numbers[path.parts[layout.depth]], data)

    return Found(layout.class_names, pictures(), layout.left_out)


def _use_table(table: tuple[PurePosixPath, str, list[str]] | None) -> str:
    if table is None:
        return ""
    path, column, others = table
    choice = f"one of {', '.join(others)}" if len(others) > 1 else "".join(others)
    return (
        f"; but {path} names pictures. To take the classes from it: data.source: table, data.train_split: {path}, "
        f"data.image_column: {column}, data.label_column: {choice}"
    )


def _open_streams(folder: Path, config: str | None) -> Any:
    """Open every split of a data set without reading it; ``datasets`` would open any file or address a card names."""
    if not os.path.isdir(folder):
        raise VitloraError(f"data.path: got {folder}, which is not a folder; the rule: a data set in Hub layout")
    import datasets

    # Every stream would import torch (1.5 s, 0.5 GB) to be usable in its DataLoader.
    datasets.config.TORCH_AVAILABLE = False
    _leave_packed()
    try:
        outside = [text for text in _card_texts(folder) if "://" in text or text[:1] == "/" or ".." in text.split("/")]
        if not outside:
            place = str(folder.absolute())
            names = datasets.get_dataset_config_names(place)
            if (config or datasets.get_dataset_default_config_name(place)) in names:
                return datasets.load_dataset(place, config, streaming=True)
    except Exception as error:  # `datasets` raises its own, yaml's, pyarrow's and fsspec's errors
        raise VitloraError(f"data.path: `datasets` cannot read {folder}: {first_line(error)}") from None
    if outside:
        raise VitloraError(
            f"data.path: the card in {folder} names {outside[0]}; the rule: only files inside the folder"
        )
    raise VitloraError(f"data.config: got {shown(config)}; {folder} has the configurations {', '.join(names)}")


def _columns(stream: Any, folder: Path) -> dict[str, str]:
    """Return the columns of a split that doesn't say them before it is read, as tables, each with its type."""
    first = list(_examples(stream.take(1), folder))
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

    card, extra = folder / "README.md", folder / ".huggingface.yaml"
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


def _labels(feature: Any, streams: Iterable[Any], column: str, folder: Path) -> dict[Any, int]:
    """Map each value of the label column to a position: as ClassLabel says, else in order of the values found."""
    if hasattr(feature, "names"):
        return {number: number for number in range(len(feature.names))}
    if not hasattr(feature, "dtype"):
        raise VitloraError(f"data.label_column: got {column}, a column of {feature}, not of numbers or text")
    found = {example[column] for stream in streams for example in _examples(stream.select_columns([column]), folder)}
    odd = [value for value in found if not isinstance(value, int | str)]
    if odd:
        raise VitloraError(
            f"data.label_column: {column} holds {odd[0]!s:.60}; the rule: whole numbers or text in every row"
        )
    return {value: number for number, value in enumerate(sorted(found))}


def _refuse_other_names(folder: Path, config: str | None, column: str, names: Sequence[str]) -> None:
    """Refuse parquet files that number the classes in another order: `datasets` takes one file's names for all rows.

    Raises:
        VitloraError: Names the file, and the first class that differs.
    """
    import datasets
    from pyarrow import ArrowException
    from pyarrow.parquet import read_schema

    files = datasets.load_dataset_builder(str(folder.absolute()), config).config.data_files or {}
    for path in sorted(str(path) for paths in files.values() for path in paths):
        try:
            about = json.loads((read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
            own = about["info"]["features"][column]["names"]
        except (ArrowException, OSError, ValueError, KeyError, TypeError):
            continue  # it says nothing of classes, or is no file that `datasets` could read
        if own != list(names):
            place = next((n for n, pair in enumerate(zip(own, names, strict=False)) if pair[0] != pair[1]), None)
            said = f"{len(own)} classes" if place is None else f"{shown(own[place])} for {place}"
            rule = str(len(names)) if place is None else shown(names[place])
            raise VitloraError(
                f"data.path: {path} has {said} in {column}, where the data set has {rule}; the rule: one list of names "
                "for all files. Write each split anew with its names as text, as docs/images.md shows"
            )


def _examples(stream: Any, folder: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from stream
    except Exception as error:  # as where it is opened
        raise VitloraError(f"data.path: `datasets` cannot read {folder}: {first_line(error)}") from None


def _image_bytes(value: Any, folder: Path) -> bytes:
    if value is None:
        return b""
    if value["bytes"] is not None:
        return bytes(value["bytes"])
    root = folder.absolute()
    path = Path(os.path.normpath(root / value["path"]))
    if not path.is_relative_to(root):
        raise VitloraError(f"{folder}: a row names {value['path']}; the rule: only files inside the folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise VitloraError(f"{folder}: cannot read {value['path']}: {error.strerror}") from None
