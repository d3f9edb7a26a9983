"""Preprocess: check every picture, divide them, and decode validation and test once and for all."""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from vitlora.containers import BadImageError
from vitlora.errors import VitloraError
from vitlora.files import read_json, write_json
from vitlora.images import Inspected, decode, inspect, resize_and_crop, scaled_size
from vitlora.isolated import Isolated
from vitlora.packed import Item, Packed, write_packed
from vitlora.sections.data import DataPolicy
from vitlora.sections.image import Image, Split
from vitlora.splits import Ranked, cap, carve, in_row_order, rank_by_class
from vitlora.tensors import create_split, write_square
from vitlora.text import printable

CHUNK = 256
# DVC keys download by where the images are, not by what is there.
AFRESH = "; after a change in the source, `dvc repro -f -s download && dvc repro` reads it afresh"
TRAIN_COLUMNS = ("path", "label", "width", "height", "plain")
Rows = dict[str, list[int]]
Entry = TypeVar("Entry")
Answer = TypeVar("Answer")


def preprocess(
    data: DataPolicy,
    image: Image,
    split: Split,
    raw: Path,
    train: Path,
    val: Path,
    test: Path,
    labels: Path,
    report: Path,
) -> None:
    """Write the three splits, the labels, and a count of it all.

    Args:
        data: What to do with pictures that can't be decoded.
        image: Side of the square and resize filter.
        split: Seed, shares and caps.
        raw: Folder that download wrote.
        train: Gets the training pictures' original bytes, packed.
        val: Gets the validation pictures as uint8 squares.
        test: Likewise.
        labels: Gets class names, image size and filter, which belong to whatever is trained on them.
        report: Gets image counts per split and class, and the files left out with their reasons.

    Raises:
        VitloraError: Too few classes, an empty class, colliding class names, or more bad pictures than allowed.
    """
    source = Packed(raw)
    class_names = check_class_names(read_json(raw / "classes.json"))
    with Isolated(min(os.cpu_count() or 1, -(-len(source) // CHUNK) or 1)) as workers:
        checked = list(_spread(workers, partial(_check, source, image.size), range(len(source))))
        bad = {source.rows[row]["path"]: reason for row, reason in _reasons(checked)}
        refuse_bad(bad, len(source), data)
        good = {row: found for row, found in enumerate(checked) if isinstance(found, Inspected)}
        rows = divide(source, good, split, class_names)
        for name, out in (("val", val), ("test", test)):
            _write_squares(workers, source, rows[name], out, image)
    _write_train(source, good, rows["train"], train)
    write_json(labels, {"class_names": class_names, "image_size": image.size, "interpolation": image.interpolation})
    _report(source, rows, class_names, bad, report)


def check_class_names(class_names: Sequence[str]) -> list[str]:
    """Refuse fewer than two classes, and names that a file system or a reader would take for one.

    Raises:
        VitloraError: Names both sides of the collision.
    """
    if len(class_names) < 2:
        raise VitloraError(f"got {len(class_names)} class ({', '.join(class_names)}); the rule: at least two{AFRESH}")
    seen: dict[str, str] = {}
    for name in class_names:
        key = unicodedata.normalize("NFC", name).casefold().strip()
        if key in seen:
            raise VitloraError(
                f"class names {json.dumps(seen[key])} and {json.dumps(name)} differ only in case, spaces or Unicode "
                f"form; rename one, or put their pictures together{AFRESH}"
            )
        seen[key] = name
    return list(class_names)


def refuse_bad(bad: dict[str, str], count: int, policy: DataPolicy) -> None:
    """Name the pictures that can't be used, and stop unless the policy allows them.

    Raises:
        VitloraError: Any with ``on_bad: fail``; more than ``max_bad_fraction`` of all with ``skip``.
    """
    for path, reason in bad.items():
        print(f"bad image: {printable(path)}: {printable(reason)}")
    named = "; ".join(f"{path}: {reason}" for path, reason in list(bad.items())[:5])
    more = f" and {len(bad) - 5} more (all are printed above)" if len(bad) > 5 else ""
    if bad and policy.on_bad == "fail":
        raise VitloraError(
            f"{len(bad)} of {count} images cannot be used: {named}{more}; mend or remove them, or set data.on_bad: "
            f"skip{AFRESH}"
        )
    if len(bad) > policy.max_bad_fraction * count:
        raise VitloraError(
            f"{len(bad)} of {count} images cannot be used, more than data.max_bad_fraction {policy.max_bad_fraction}: "
            f"{named}{more}{AFRESH}"
        )


def divide(source: Packed, good: Iterable[int], split: Split, class_names: Sequence[str]) -> Rows:
    """Decide which rows are train, val and test, as ``split`` says and the data's own splits allow.

    Returns:
        `train`, `val`, `test`: ascending row numbers. With one official split and ``val_from: official`` it is both
        val and test, as in the tutorial.

    Raises:
        VitloraError: ``val_from: official`` without an official split, a class with no image to train on, or no image
            at all for val or test.
    """
    good = list(good)
    labels = [int(row["label"]) for row in source.rows]
    contents = [row["sha256"] for row in source.rows]

    def pool(*names: str) -> dict[int, Ranked]:
        members = [row for row in good if source.rows[row]["split"] in names]
        return cap(rank_by_class(split.seed, labels, contents, members), split.max_per_class)

    official = [name for name in ("val", "test") if pool(name)]
    if split.val_from == "official":
        if not official:
            raise VitloraError("split.val_from: got official; the data has one split only; the rule: train")
        train, val, test = pool("train"), pool(official[0]), pool(official[-1])
    elif official:
        # With both there and val to come from train, the official val would lie idle.
        train, test = pool("train", *official[:-1]), pool(official[-1])
        val, train = carve(train, split.val_fraction)
    else:
        test, train = carve(pool("train"), split.test_fraction)
        # The share is of the whole class, so that test_fraction and val_fraction mean the same thing.
        val, train = carve(train, split.val_fraction / (1 - split.test_fraction))
    rows = {"train": in_row_order(train), "val": in_row_order(val), "test": in_row_order(test)}
    _refuse_empty(train, rows, class_names)
    return rows


def _refuse_empty(train: dict[int, Ranked], rows: Rows, class_names: Sequence[str]) -> None:
    empty = [name for label, name in enumerate(class_names) if not train.get(label)]
    if empty:
        raise VitloraError(
            f"no image to train on in {len(empty)} of {len(class_names)} classes: {', '.join(empty[:10])}; the rule: "
            f"at least one for train besides those for val and test; add images or remove the class{AFRESH}"
        )
    for name in ("val", "test"):
        if not rows[name]:
            raise VitloraError(f"no image for {name} in any class; the rule: at least one besides one to train on")


def _check(source: Packed, size: int, row: int) -> Inspected:
    """Tell what a picture is, or raise the reason why it can't be used."""
    found = inspect(source[row])
    scaled_size(found.width, found.height, size)
    return found


def _reasons(checked: Iterable[Inspected | BadImageError]) -> Iterator[tuple[int, str]]:
    for row, found in enumerate(checked):
        if isinstance(found, BadImageError):
            yield row, f"{found.reason}: {found}"


def _write_train(source: Packed, good: Mapping[int, Inspected], rows: Sequence[int], folder: Path) -> None:
    def items() -> Iterator[Item]:
        for row in rows:
            known, found = source.rows[row], good[row]
            yield (known["path"], known["label"], found.width, found.height, int(found.plain)), source[row]

    write_packed(folder, TRAIN_COLUMNS, items())


def _write_squares(workers: Isolated, source: Packed, rows: Sequence[int], folder: Path, image: Image) -> None:
    """Decode in workers that write straight into the file, so that no picture crosses a process border."""
    known = [source.rows[row] for row in rows]
    paths, labels = [row["path"] for row in known], [int(row["label"]) for row in known]
    begin = create_split(folder, image.size, paths, labels)
    written = _spread(workers, partial(_fill, source, folder, begin, image), list(enumerate(rows)))
    for path, error in zip(paths, written, strict=True):
        if error:
            raise VitloraError(
                f"{path}: {error}, though it passed its check; is the machine out of memory or overloaded?"
            )


def _fill(source: Packed, folder: Path, begin: int, image: Image, place: tuple[int, int]) -> None:
    to, row = place
    write_square(folder, begin, to, resize_and_crop(decode(source[row], checked=True), image.size, image.interpolation))


def _spread(
    workers: Isolated, function: Callable[[Entry], Answer], items: Sequence[Entry]
) -> Iterator[Answer | BadImageError]:
    share = -(-len(items) // (4 * len(workers.children)))  # so that all are done at about the same time
    return workers.map(function, items, max(1, min(CHUNK, share)))


def _report(source: Packed, rows: Rows, class_names: Sequence[str], bad: dict[str, str], report: Path) -> None:
    counts = {name: Counter(source.rows[row]["label"] for row in chosen) for name, chosen in rows.items()}
    totals = {name: len(chosen) for name, chosen in rows.items()}
    # A list, not a mapping: `dvc metrics show` makes a column of every mapped number.
    classes = [
        {"class": name, **{split: counts[split][str(label)] for split in counts}}
        for label, name in enumerate(class_names)
    ]
    write_json(
        report,
        {
            **totals,
            "classes": len(class_names),
            "bad": len(bad),
            "images_per_class": classes,
            "bad_images": [{"path": path, "reason": reason} for path, reason in sorted(bad.items())],
        },
    )
    print(", ".join(f"{name} {total:,}" for name, total in totals.items()) + f" images of {len(class_names)} classes")
    for split in ("val", "test"):
        absent = [str(row["class"]) for row in classes if not row[split]]
        if absent:
            print(f"note: {split} has no image of {len(absent)} classes: {', '.join(absent[:10])}")
