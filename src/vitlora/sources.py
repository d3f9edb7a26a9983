"""Read labelled pictures, as their original bytes, from each kind of place they may lie in.

Every reader gives ``Found``: class names, and pictures in a fixed order that are read only when asked for.
"""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from vitlora.errors import VitloraError

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}


@dataclass(frozen=True)
class Picture:
    """One labelled picture: a name unique in its source, `train`, `val` or `test`, label, and the file's bytes."""

    path: str
    split: str
    label: int
    data: bytes


@dataclass(frozen=True)
class Found:
    """What a source holds: class names (position = label), pictures in a fixed order, and notes for the reader."""

    class_names: list[str]
    pictures: Iterable[Picture]
    notes: list[str]


def from_digits() -> Found:
    """Return scikit-learn's 1,797 handwritten digits, 8x8 grey, as PNG; no official split."""
    from sklearn.datasets import load_digits  # the others need no scikit-learn: it takes a second to import

    digits = load_digits()

    def pictures() -> Iterator[Picture]:
        for row, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            buffer = io.BytesIO()
            # 0..16 becomes 0..255.
            Image.fromarray((values * (255 / 16)).round().astype("uint8")).save(buffer, format="PNG")
            yield Picture(f"digits/{row:04d}.png", "train", int(label), buffer.getvalue())

    return Found([str(name) for name in digits.target_names], pictures(), [])


def from_hub_layout(
    folder: Path, image_column: str, label_column: str, splits: dict[str, str], cache: Path | None = None
) -> Found:
    """Read a folder as ``datasets.load_dataset(folder)`` does, streaming, without decoding the pictures.

    Args:
        folder: A data set repository's files: parquet, or whatever `datasets` reads without running code.
        image_column: Column of type Image.
        label_column: Column of type ClassLabel, integers or text.
        splits: Our split name to the data set's; the same name the other way round stands in paths.
        cache: Unused by streaming; named so that nothing lands in the user's home.

    Raises:
        VitloraError: The folder can't be read, or lacks a split or column; the message lists what it has.
    """
    from datasets import Image as ImageFeature
    from datasets import load_dataset

    if not folder.is_dir():
        raise VitloraError(f"data.path: got {folder}, which is not a folder; the rule: a data set in Hub layout")
    try:
        streams = load_dataset(str(folder), streaming=True)
    except Exception as error:  # `datasets` raises its own, pyarrow's and fsspec's errors for an unreadable folder
        raise VitloraError(f"data.path: `datasets` cannot read {folder}: {_first_line(error)}") from None
    for ours, theirs in splits.items():
        if theirs not in streams:
            raise VitloraError(f"data.{ours}_split: got {theirs}; {folder} has the splits {', '.join(streams)}")
    features = streams[splits["train"]].features or {}
    for key, column in (("image_column", image_column), ("label_column", label_column)):
        if column not in features:
            raise VitloraError(f"data.{key}: got {column}; {folder} has the columns {', '.join(features)}")
    chosen = {
        ours: streams[theirs].select_columns([image_column, label_column]).cast_column(image_column, _undecoded())
        for ours, theirs in splits.items()
    }
    if not isinstance(features[image_column], ImageFeature):
        raise VitloraError(
            f"data.image_column: got {image_column}, a column of {features[image_column]}, not of images"
        )
    names = _class_names(features[label_column], chosen, label_column)
    numbers = {name: number for number, name in enumerate(names)}

    def pictures() -> Iterator[Picture]:
        for ours, stream in chosen.items():
            for row, example in enumerate(stream):
                label = example[label_column]
                number = label if isinstance(label, int) and not isinstance(label, bool) else numbers[str(label)]
                if not 0 <= number < len(names):
                    raise VitloraError(f"{splits[ours]} row {row}: label {number}; the rule: 0 to {len(names) - 1}")
                yield Picture(f"{splits[ours]}/{row:06d}", ours, number, _image_bytes(example[image_column]))

    return Found(names, pictures(), [])


def from_folder(root: Path) -> Found:
    """Read class sub-folders, with or without train/val/test folders above them.

    The first folder below the root (or below the split) is the class; deeper folders only group its pictures.

    Raises:
        VitloraError: The root is not a folder, or holds no class folder.
    """
    if not root.is_dir():
        raise VitloraError(f"data.path: got {root}, which is not a folder; the rule: a folder of class sub-folders")
    files: dict[PurePosixPath, Path] = {}
    folders: list[PurePosixPath] = []
    notes = []
    for place, below, names in os.walk(root):  # links to folders are not followed
        here = PurePosixPath(*Path(place).relative_to(root).parts)
        folders += [here / name for name in below]
        for name in names:
            path = Path(place, name)
            if path.is_file() and not path.is_symlink():
                files[here / name] = path
            else:
                notes.append(f"left out {here / name}: not a regular file")
    return _arrange(files, folders, lambda path: path.read_bytes(), root, notes)


def from_archive(path: Path) -> Found:
    """Read a zip or tar of such a folder, member by member, without unpacking: no member can be written anywhere.

    Raises:
        VitloraError: Neither zip nor tar, damaged, or without class folders.
    """
    if not path.is_file():
        raise VitloraError(f"data.path: got {path}, which is not a file; the rule: a zip or tar of class sub-folders")
    try:
        if zipfile.is_zipfile(path):
            archive = zipfile.ZipFile(path)
            files = {_member(info.filename): info for info in archive.infolist() if not info.is_dir()}
            folders = [_member(info.filename) for info in archive.infolist() if info.is_dir()]
            return _arrange(files, folders, archive.read, path, [])
        tar = tarfile.open(path)  # noqa: SIM115 - stays open, pictures are read as they are asked for
        entries = tar.getmembers()
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise VitloraError(f"data.path: {path} is neither a whole zip nor a whole tar: {_first_line(error)}") from None
    members = {_member(entry.name): entry for entry in entries if entry.isfile()}
    folders = [_member(entry.name) for entry in entries if entry.isdir()]
    notes = [f"left out {entry.name}: not a regular file" for entry in entries if not (entry.isfile() or entry.isdir())]
    return _arrange(members, folders, lambda entry: _tar_bytes(tar, entry), path, notes)


def _tar_bytes(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    with ExitStack() as stack:
        file = stack.enter_context(tar.extractfile(entry) or io.BytesIO())
        return file.read()


def _member(name: str) -> PurePosixPath:
    return PurePosixPath(*(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", ".")))


def _arrange(
    files: dict[PurePosixPath, Any], folders: Iterable[PurePosixPath], read: Any, root: Path, notes: list[str]
) -> Found:
    """Turn paths into splits and classes. A single folder around everything, as archives have, is looked through."""
    files = {path: handle for path, handle in files.items() if not _is_litter(path)}
    folders = [path for path in folders if not _is_litter(path)]
    everything = [*files, *folders]
    while _is_wrapped(everything):
        files = {PurePosixPath(*path.parts[1:]): handle for path, handle in files.items()}
        folders = [PurePosixPath(*path.parts[1:]) for path in folders if len(path.parts) > 1]
        everything = [*files, *folders]
    depth = 1 if _has_splits(everything) else 0
    stray = sorted(str(path) for path in files if len(path.parts) <= depth + 1)
    notes = [*notes, *(f"left out {path}: in no class folder" for path in stray)]
    inside = sorted(path for path in files if len(path.parts) > depth + 1)
    classes = {path.parts[depth] for path in [*inside, *folders] if len(path.parts) > depth}
    if not classes or not inside:
        raise VitloraError(f"data.path: {root} holds no class folder with files; the rule: {root.name}/CLASS/PICTURE")
    names = sorted(classes)
    numbers = {name: number for number, name in enumerate(names)}

    def pictures() -> Iterator[Picture]:
        for path in inside:
            split = SPLIT_FOLDERS[path.parts[0].lower()] if depth else "train"
            try:
                data = read(files[path])
            except (OSError, tarfile.TarError, zipfile.BadZipFile, RuntimeError, EOFError) as error:
                raise VitloraError(f"{root}: cannot read {path}: {_first_line(error)}") from None
            yield Picture(str(path), split, numbers[path.parts[depth]], data)

    return Found(names, pictures(), notes)


def _is_litter(path: PurePosixPath) -> bool:
    return any(part in LITTER or part.startswith(".") for part in path.parts)


def _is_wrapped(paths: list[PurePosixPath]) -> bool:
    """Whether everything lies two or more folders below one single folder, so that folder can't be the class."""
    tops = {path.parts[0] for path in paths}
    files_depth = min((len(path.parts) for path in paths if path.suffix), default=0)
    return len(tops) == 1 and files_depth >= 3 and not _has_splits(paths)


def _has_splits(paths: Iterable[PurePosixPath]) -> bool:
    tops = {path.parts[0].lower() for path in paths if len(path.parts) > 1}
    return "train" in tops and tops <= set(SPLIT_FOLDERS)


def _undecoded() -> Any:
    from datasets import Image as ImageFeature

    return ImageFeature(decode=False)


def _class_names(feature: Any, streams: dict[str, Any], column: str) -> list[str]:
    """Take names from a ClassLabel; else read the column once and sort what it holds."""
    if hasattr(feature, "names"):
        return list(feature.names)
    found = {str(example[column]) for stream in streams.values() for example in stream.select_columns([column])}
    if all(name.isdigit() for name in found):
        return [str(number) for number in range(max(map(int, found)) + 1)]
    return sorted(found)


def _image_bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
