"""A packed folder made block by block, so that a run that was killed loses one of them, not all.

A block is a packed folder of one file of images. In the end the files of all blocks are linked into one folder, whose
bytes are those of a run that was never stopped.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitlora.core.durable import faultpoint, sync, sync_one
from vitlora.storage.manifest import problems, write_manifest
from vitlora.storage.packed import BYTES, INDEX, SHARD_BYTES, TEXTS, Item, Packed, write_packed

DRAFT, IMAGES = "draft", BYTES.format(0)


def whole_blocks(folder: Path) -> Iterator[Packed]:
    """Yield the blocks that are there, up to the first that is missing or damaged."""
    for number in count():
        block = _named(folder, number)
        if any(problems(block)):
            return
        yield Packed(block)


def one_file(items: Iterable[Item]) -> Iterator[Item]:
    """Yield what fills a file of images."""
    size = 0
    for item in items:
        yield item
        size += len(item[1])
        if size >= SHARD_BYTES:
            return


def write_block(folder: Path, number: int, columns: Sequence[str], items: Iterable[Item]) -> Packed:
    """Write a block: whole and on the disk, or not there.

    Args:
        folder: Of all blocks; ``folder / DRAFT`` is where it is made, for what is to stand beside the pictures.
        number: Of the block, from 0.
        columns: Of the table.
        items: At most as many as ``one_file`` yields.
    """
    block, draft = _named(folder, number), folder / DRAFT
    for old in (block, draft):
        shutil.rmtree(old, ignore_errors=True)
    write_packed(draft, columns, items, SHARD_BYTES)
    write_manifest(draft)
    sync(draft)
    draft.rename(block)
    sync_one(folder)
    faultpoint("block-packed")
    return Packed(block)


def join_blocks(
    blocks: Sequence[Packed], columns: Sequence[str], target: Path, labels: NDArray[np.int32] | None = None
) -> None:
    """Make one packed folder of all blocks, which shares their images with them.

    Args:
        blocks: In order.
        columns: Of the table.
        target: The folder.
        labels: New ones, by the label that a block has; None keeps them.
    """
    write_packed(target, columns, ())
    if not blocks:
        return
    (target / IMAGES).unlink()
    kind, rows, at = blocks[0].index.dtype, sum(map(len, blocks)), 0
    index = np.lib.format.open_memmap(target / INDEX, "w+", kind, (rows,), version=(2, 0))
    with (target / TEXTS).open("wb") as texts:
        for number, block in enumerate(blocks):
            ours = index[at : at + len(block)]
            ours[:] = block.index
            ours["shard"] = number
            ours["text_at"] += texts.tell()
            if labels is not None:
                ours["label"] = labels[block.index["label"]]
            texts.write((block.folder / TEXTS).read_bytes())
            _link(block.folder / IMAGES, target / BYTES.format(number))
            at += len(block)
    index.flush()


def _named(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.move(source, target)
