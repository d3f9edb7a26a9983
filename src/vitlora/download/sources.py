"""Read labelled pictures, as their original bytes, from each kind of place they may lie in.

Every reader gives ``Found``: class names, and pictures in a fixed order that are read only when asked for.
"""

import io
import os
from collections.abc import Iterable, Iterator
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from vitlora.core.errors import VitloraError
from vitlora.download.archives import Entry, Reader, open_archive
from vitlora.download.found import Found, Picture, first_line, list_folder
from vitlora.download.layout import LOOSE, UNREAD, arrange, sort_out
from vitlora.download.table import find_table

DIGITS = "sklearn/datasets/data/digits.csv.gz"


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
