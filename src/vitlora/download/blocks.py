"""Pack a data set as it comes over the network, block by block: a run that was killed loses a block, not all.

A block is a packed folder of one file of images, and a note of where to go on behind it. In the end the files of all
blocks are linked into one folder, whose bytes are those of a run that was never stopped.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.core.durable import faultpoint, sync, sync_one
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, sha256_file, write_json
from vitlora.core.text import counted, shown_bytes
from vitlora.download.found import Picture
from vitlora.download.hub_layout import HubSet, Labels, Position, Row, in_order
from vitlora.storage.packed import BYTES, INDEX, SHARD_BYTES, TEXTS, Item, Packed, write_packed

PACKAGES = ("datasets", "huggingface_hub", "pyarrow", "pillow", "simplejpeg")
CODE = [Path(__file__).parents[1] / name for name in ("core", "storage", "images", "net", "download")]
NEXT, DRAFT, IMAGES = "next.json", "draft", BYTES.format(0)


def blocks_folder(root: Path, *about: object) -> Path:
    """Return the folder for a run's blocks.

    Args:
        root: Folder of all runs'; what it has of others is deleted.
        about: All that decides the bytes, but for code and libraries.
    """
    code = [sha256_file(file) for folder in CODE for file in sorted(folder.rglob("*.py"))]
    known = json.dumps([about, code, [version(name) for name in PACKAGES]])
    folder = root / hashlib.sha256(known.encode()).hexdigest()[:16]
    for other in root.glob("*") if root.is_dir() else ():
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def pack_stream(
    found: HubSet,
    columns: Sequence[str],
    as_item: Callable[[Picture], Item],
    raw: Path,
    folder: Path,
    scale: Callable[[Iterable[Row]], Iterator[Row]] = iter,
) -> list[str]:
    """Write a data set's pictures as ``write_packed`` would, each read once.

    Without ClassLabel, classes are numbered as they come. Their order is known with the last picture: then the table is
    renumbered, in place of reading the whole data set for its labels first.

    Args:
        found: The data set.
        columns: Of the table.
        as_item: What to write of a picture.
        raw: Gets the packed pictures.
        folder: Holds the blocks of a run before, and of this one. They share their bytes with ``raw``.
        scale: Changes pictures on their way; it may read ahead.

    Returns:
        Class names; position = label.

    Raises:
        VitloraError: A row can't be used, or the connection was lost. The blocks stay.
    """
    blocks, labels, begin = list(_whole(folder)), found.stated_labels(), None
    if blocks:
        noted = read_json(blocks[-1].folder / NEXT)
        begin, labels = Position(*noted["next"]), {value: label for label, value in enumerate(noted["values"])}
        _tell(blocks, "from the run before")
    rows = scale(found.rows(begin))
    for first in rows:
        items = _items(found, labels, chain([first], rows), as_item, folder / DRAFT / NEXT)
        blocks.append(_write(folder, len(blocks), columns, items))
        _tell(blocks, "so far")
    ordered = in_order(labels)
    _join(blocks, columns, np.array([ordered[value] for value in labels], np.int32), raw)
    return found.names(ordered)


def _whole(folder: Path) -> Iterator[Packed]:
    """Yield the blocks that are there, up to the first that is missing or damaged."""
    for number in count():
        try:
            block = Packed(_named(folder, number))
        except VitloraError:
            return
        if not (block.folder / NEXT).is_file():
            return
        yield block


def _named(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"


def _items(
    found: HubSet, labels: Labels, rows: Iterable[Row], as_item: Callable[[Picture], Item], note: Path
) -> Iterator[Item]:
    """Yield what fills a file of images, and note where to go on behind it."""
    size = 0
    for row in rows:
        yield as_item(Picture(row.path, row.split, found.label(row, labels), row.data))
        size += len(row.data)
        if size >= SHARD_BYTES:
            break
    write_json(note, {"next": row.next, "values": list(labels)})


def _write(folder: Path, number: int, columns: Sequence[str], items: Iterable[Item]) -> Packed:
    """Write a block: whole and on the disk, or not there."""
    block, draft = _named(folder, number), folder / DRAFT
    for old in (block, draft):
        shutil.rmtree(old, ignore_errors=True)
    write_packed(draft, columns, items, SHARD_BYTES)
    sync(draft)
    draft.rename(block)
    sync_one(folder)
    faultpoint("block-packed")
    return Packed(block)


def _tell(blocks: Sequence[Packed], when: str) -> None:
    size = sum((block.folder / IMAGES).stat().st_size for block in blocks)
    print(f"{counted(sum(map(len, blocks)), 'image')}, {shown_bytes(size)} {when}", flush=True)


def _join(blocks: Sequence[Packed], columns: Sequence[str], labels: NDArray[np.int32], raw: Path) -> None:
    """Make one packed folder of all blocks, whose images are not copied.

    Args:
        blocks: In order.
        columns: Of the table.
        labels: By the label that a block has.
        raw: The folder.
    """
    write_packed(raw, columns, ())
    if not blocks:
        return
    (raw / IMAGES).unlink()
    kind, rows, at = blocks[0].index.dtype, sum(map(len, blocks)), 0
    index = np.lib.format.open_memmap(raw / INDEX, "w+", kind, (rows,), version=(2, 0))
    with (raw / TEXTS).open("wb") as texts:
        for number, block in enumerate(blocks):
            ours = index[at : at + len(block)]
            ours[:] = block.index
            ours["shard"], ours["label"] = number, labels[block.index["label"]]
            ours["text_at"] += texts.tell()
            texts.write((block.folder / TEXTS).read_bytes())
            _link(block.folder / IMAGES, raw / BYTES.format(number))
            at += len(block)
    index.flush()


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.move(source, target)
