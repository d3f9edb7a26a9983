"""Pack a data set as it comes over the network, block by block, each with a note of where to go on behind it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import chain, takewhile
from pathlib import Path

import numpy as np

from vitlora.core.files import read_json, sha256_file, write_json
from vitlora.core.text import counted, shown_bytes
from vitlora.download.found import Picture
from vitlora.download.hub_layout import HubSet, Labels, Position, Row, in_order
from vitlora.storage.blocks import DRAFT, IMAGES, join_blocks, one_file, whole_blocks, write_block
from vitlora.storage.packed import Item, Packed

PACKAGES = ("datasets", "huggingface_hub", "pyarrow", "pillow", "simplejpeg")
CODE = [Path(__file__).parents[1] / name for name in ("core", "storage", "images", "net", "download")]
NEXT = "next.json"


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
    blocks = list(takewhile(lambda block: (block.folder / NEXT).is_file(), whole_blocks(folder)))
    labels, begin = found.stated_labels(), None
    if blocks:
        noted = read_json(blocks[-1].folder / NEXT)
        begin, labels = Position(*noted["next"]), {value: label for label, value in enumerate(noted["values"])}
        _tell(blocks, "from the run before")
    rows = scale(found.rows(begin))
    for first in rows:
        items = _items(found, labels, chain([first], rows), as_item, folder / DRAFT / NEXT)
        blocks.append(write_block(folder, len(blocks), columns, items))
        _tell(blocks, "so far")
    ordered = in_order(labels)
    join_blocks(blocks, columns, raw, np.array([ordered[value] for value in labels], np.int32))
    return found.names(ordered)


def _items(
    found: HubSet, labels: Labels, rows: Iterable[Row], as_item: Callable[[Picture], Item], note: Path
) -> Iterator[Item]:
    """Yield what fills a file of images, and note where to go on behind it."""
    last: Row | None = None

    def items() -> Iterator[Item]:
        nonlocal last
        for last in rows:
            yield as_item(Picture(last.path, last.split, found.label(last, labels), last.data))

    yield from one_file(items())
    assert last
    write_json(note, {"next": last.next, "values": list(labels)})


def _tell(blocks: Sequence[Packed], when: str) -> None:
    size = sum((block.folder / IMAGES).stat().st_size for block in blocks)
    print(f"{counted(sum(map(len, blocks)), 'image')}, {shown_bytes(size)} {when}", flush=True)
