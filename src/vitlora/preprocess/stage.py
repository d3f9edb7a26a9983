"""Preprocess: check every picture, divide them, and decode validation and test once and for all."""

import hashlib
import io
import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json, write_text
from vitlora.core.params import shown
from vitlora.core.text import counted, printable
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import Inspected, decode, inspect, resize_and_crop, scaled_size
from vitlora.images.sandbox import Isolated
from vitlora.preprocess.duplicates import Duplicates, find_duplicates, name_contents, need_decoding, refuse_duplicates
from vitlora.preprocess.kept import Kept
from vitlora.preprocess.near_duplicates import MIN_SIDE, ROWS, Pair, find_alike, has_contrast, sketch
from vitlora.preprocess.page import render
from vitlora.preprocess.params import SIDES, Image, Ingest, Split
from vitlora.preprocess.report import Facts, as_metrics, shown_rows, summarise
from vitlora.preprocess.splits import Classes, by_class, cap, carve, roles
from vitlora.storage.blocks import join_blocks, one_file, whole_blocks, write_block
from vitlora.storage.manifest import digest
from vitlora.storage.packed import Item, Packed
from vitlora.storage.squares import create_split, write_square

CHUNK = 256
ALLOWED = {"size_px": f"{SIDES[0]} to {SIDES[1]}", "interpolation": "bilinear or bicubic"}
AFRESH = "; then `dvc repro`, which notices what has changed at data.path"
TOLD = 5  # pictures with a note, printed
DRAWN = 144  # px, the longer side of a picture on the page
TRAIN_COLUMNS = ("path", "label", "sha256", "width", "height", "plain")
Rows = dict[str, list[int]]
Entry = TypeVar("Entry")
Answer = TypeVar("Answer")


def preprocess(
    ingest: Ingest,
    image: Image,
    split: Split,
    raw: Path,
    train: Path,
    val: Path,
    test: Path,
    labels: Path,
    page: Path,
    report: Path,
    own_image: Path | None = None,
    keep: Path | None = None,
) -> None:
    """Write the three splits, the labels, and what is in the data: as numbers, and as a page.

    Args:
        ingest: What to do with pictures that can't be decoded, and with duplicates.
        image: Side of the square and resize filter.
        split: Seed, shares and caps.
        raw: Folder that download wrote.
        train: Gets the training pictures' original bytes, packed.
        val: Gets the validation pictures as uint8 squares.
        test: Likewise.
        labels: Gets class names, image size and filter, which belong to whatever is trained on them.
        page: Gets the report as HTML, with small pictures of what looks alike.
        report: Gets its numbers: images per split and class, sizes, duplicates, files left out and why.
        own_image: File in which download wrote the base model's own size and filter, which `auto` means.
        keep: Folder for what is done so far, from which a run that was killed goes on; None keeps nothing.

    Raises:
        VitloraError: Too few classes, an empty class, colliding class names, or more bad pictures or duplicates than
            allowed.
    """
    source, squares = Packed(raw), settle(image, own_image)
    class_names = check_class_names(read_json(raw / "classes.json"))
    left_out = read_json(raw / "left_out.json")
    refuse_left_out(left_out, ingest)
    with _begun(keep, source, squares) as (workers, kept):
        checked = kept.checked(len(source), partial(_spread, workers, partial(_check, source, squares.side)))
        bad = {source.about(row)["path"]: reason for row, reason in _reasons(checked)}
        refuse_bad(bad, len(source), ingest)
        good = {row: found for row, found in enumerate(checked) if isinstance(found, Inspected)}
        contents = _name_contents(workers, source, good)
        duplicates = settle_duplicates(source, good, contents, split, ingest)
        rows = divide(source, sorted(good.keys() - set(duplicates.left_out)), contents, split, class_names)
        filled = {
            out: _fill_squares(workers, kept, source, rows[name], name, squares)
            for name, out in (("val", val), ("test", test))
        }
        alike, not_compared = _find_alike(workers, kept, good, contents, rows)
        columns = (list(source.texts("path")), _labels(source), source.index["length"].tolist())
        facts = Facts(*columns, good, rows, class_names, bad, left_out, duplicates, alike, not_compared, squares.side)
        numbers = summarise(facts)
        write_json(report, as_metrics(numbers))
        write_text(page, render(numbers, _draw(workers, source, facts)))
        _write_train(kept, source, good, rows["train"], train)
        kept.hand_over(filled)  # last, or a run that is stopped before would fill them again
    write_json(labels, {"class_names": class_names, "image_size": squares.side, "interpolation": squares.interpolation})
    _tell(numbers)


@contextmanager
def _begun(keep: Path | None, source: Packed, squares: "Squares") -> Iterator[tuple[Isolated, Kept]]:
    """Start the processes, and take up what a run before this one has left."""
    with (
        nullcontext(keep) if keep else TemporaryDirectory() as root,
        Isolated(min(cores(), -(-len(source) // CHUNK) or 1)) as workers,
    ):
        yield workers, Kept(Path(root), digest(source.folder), squares.side)


class Squares(NamedTuple):
    """Side in px and resize filter of all squares of a run."""

    side: int
    interpolation: str


def settle(image: Image, own_image: Path | None) -> Squares:
    """Put the base model's own size and filter where the section says `auto`, and say which these are.

    Args:
        image: The section.
        own_image: ``image.json``, as download wrote it; None where nothing is known of a base model.

    Raises:
        VitloraError: The base model's files don't say it, or name a filter or a size that there isn't here.
    """
    own, found = read_json(own_image) if own_image else {}, image.model_dump()
    for key in [key for key, value in found.items() if value == "auto"]:
        found[key] = own.get(key)
        try:
            Image(**{**image.model_dump(), key: found[key]})
        except ValidationError:
            raise VitloraError(
                f"image.{key}: got auto, and the base model's own is {shown(found[key])}; the rule: "
                f"{ALLOWED[key]}; write one of these"
            ) from None
        print(f"image.{key}: {found[key]}, the base model's own")
    return Squares(found["size_px"], found["interpolation"])


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
            hidden = unicodedata.normalize("NFC", seen[key]) == unicodedata.normalize("NFC", name)
            both = " and ".join(json.dumps(each, ensure_ascii=hidden) for each in (seen[key], name))
            raise VitloraError(
                f"class names {both} differ only in case, spaces or Unicode form; rename one, or put their pictures "
                f"together{AFRESH}"
            )
        seen[key] = name
    return list(class_names)


def refuse_bad(bad: dict[str, str], count: int, policy: Ingest) -> None:
    """Name the pictures that can't be used, and stop unless the policy allows them.

    Raises:
        VitloraError: Any with ``on_bad: fail``; more than ``max_bad_fraction`` of all with ``skip``.
    """
    for path, reason in bad.items():
        print(f"bad image: {printable(path)}: {printable(reason)}")
    if bad and policy.on_bad == "fail":
        raise VitloraError(
            f"{len(bad)} of {count} images cannot be used, named above; mend or remove them, or set ingest.on_bad: skip"
            f"{AFRESH}"
        )
    if len(bad) > policy.max_bad_fraction * count:
        raise VitloraError(
            f"{len(bad)} of {count} images cannot be used, more than ingest.max_bad_fraction {policy.max_bad_fraction}"
            f"; named above{AFRESH}"
        )


def refuse_left_out(left_out: Sequence[Mapping[str, Any]], policy: Ingest) -> None:
    """Name what the data has and the run would not use, unless it is what one expects or the policy allows it.

    Args:
        left_out: As download recorded it.
        policy: Of ``ingest``.

    Raises:
        VitloraError: A link, pipe, unlabelled or unnamed split with ``on_left_out: fail``.
    """
    lost = [
        f"{entry['count']:,} ({entry['reason']}): {', '.join(entry['names'][:5])}; {entry['cure']}"
        for entry in left_out
        if entry["cure"]
    ]
    if lost and policy.on_left_out == "fail":
        raise VitloraError(
            f"the data has what the run would not use: {'. '.join(lost)}. Or remove what is not meant, or set "
            f"ingest.on_left_out: skip{AFRESH}"
        )


def settle_duplicates(
    source: Packed, good: Iterable[int], contents: Sequence[str], split: Split, policy: Ingest
) -> Duplicates:
    """Find equal pictures; refuse those in two classes or two of the data's own splits, or say which to leave out."""
    good = list(good)
    own = list(source.texts("split"))
    serve_as = roles({own[row] for row in good}, split.val_from)
    found = find_duplicates(good, contents, _labels(source), [serve_as.get(name, "train") for name in own])
    refuse_duplicates(found, list(source.texts("path")), policy.on_duplicate, AFRESH)
    return found


def divide(
    source: Packed, good: Iterable[int], contents: Sequence[str], split: Split, class_names: Sequence[str]
) -> Rows:
    """Decide which rows are train, val and test, as ``split`` says and the data's own splits allow.

    Returns:
        `train`, `val`, `test`: ascending row numbers. With one official split and ``val_from: official`` it is both
        val and test, as in the tutorial.

    Raises:
        VitloraError: ``val_from: official`` without an official split, a class with no image to train on, or no image
            at all for val or test.
    """
    splits = list(source.texts("split"))
    own = {row: splits[row] for row in good}
    serve_as = roles(set(own.values()), split.val_from)

    def pool(role: str) -> Classes:
        members = [row for row, name in own.items() if serve_as[name] == role]
        return cap(by_class(_labels(source), members), split.max_per_class, split.seed, contents)

    train, val, test = pool("train"), pool("val"), pool("test")
    if split.val_from == "official":
        val = val or test
    elif test:
        _, val, train = carve(train, 0, split.val_fraction, split.seed, contents)
    else:
        test, val, train = carve(train, split.test_fraction, split.val_fraction, split.seed, contents)
    named = {"train": train, "val": val, "test": test}
    rows = {name: sorted(row for chosen in part.values() for row in chosen) for name, part in named.items()}
    _refuse_empty(train, rows, class_names)
    return rows


def _refuse_empty(train: Classes, rows: Rows, class_names: Sequence[str]) -> None:
    empty = [name for label, name in enumerate(class_names) if not train.get(label)]
    if empty:
        raise VitloraError(
            f"no image to train on in {len(empty)} of {len(class_names)} classes: {', '.join(empty[:10])}; the rule: "
            f"at least one for train besides those for val and test; add images or remove the class{AFRESH}"
        )
    for name in ("val", "test"):
        if not rows[name]:
            raise VitloraError(
                f"no image for {name} in any class; the rule: at least one besides one to train on; a class lends one "
                f"to test from two different pictures on, and one to val from three: add some{AFRESH}"
            )


def _check(source: Packed, size: int, row: int) -> Inspected:
    """Tell what a picture is, or raise the reason why it can't be used."""
    found = inspect(source[row])
    scaled_size(found.width, found.height, size)
    return found


def _reasons(checked: Iterable[Inspected | BadImageError]) -> Iterator[tuple[int, str]]:
    for row, found in enumerate(checked):
        if isinstance(found, BadImageError):
            yield row, f"{found.reason}: {found}"


def _labels(source: Packed) -> list[int]:
    labels: list[int] = source.index["label"].tolist()
    return labels


def _name_contents(workers: Isolated, source: Packed, good: Mapping[int, Inspected]) -> list[str]:
    digests = list(source.texts("sha256"))
    rows = need_decoding(digests, good)
    pixels = zip(rows, _spread(workers, partial(_digest_pixels, source), rows), strict=True)
    return name_contents(digests, {row: name for row, name in pixels if isinstance(name, str)})


def _digest_pixels(source: Packed, row: int) -> str:
    return hashlib.sha256(decode(source[row], checked=True).tobytes()).hexdigest()


def _find_alike(
    workers: Isolated, kept: Kept, good: Mapping[int, Inspected], contents: Sequence[str], rows: Rows
) -> tuple[list[Pair], int]:
    """Return the pairs of rows that look alike without being equal, and how many rows could not be compared."""
    used = sorted({row for chosen in rows.values() for row in chosen})
    compared = [row for row in used if min(good[row].width, good[row].height) >= MIN_SIDE]
    shows = has_contrast([good[row].thumbnail for row in compared])
    compared = [row for row, does in zip(compared, shows, strict=True) if does]
    left = len(used) - len(compared)
    compared = sorted({contents[row]: row for row in reversed(compared)}.values())  # equal ones are known
    folder = kept.folder_of("sketches", len(compared))
    search = partial(find_alike, sketch([good[row].thumbnail for row in compared], folder))
    found = _spread(workers, search, range(0, len(compared), ROWS))
    return [
        pair._replace(first=compared[pair.first], second=compared[pair.second])
        for pairs in found
        for pair in _expected(pairs)
    ], left


def _expected(answer: Answer | BadImageError) -> Answer:
    if isinstance(answer, BadImageError):
        raise VitloraError(f"comparing pictures: {answer}; is the machine out of memory or overloaded?")
    return answer


def _draw(workers: Isolated, source: Packed, facts: Facts) -> dict[str, bytes]:
    """Return a small JPEG of every picture that the page shows, by path."""
    rows = sorted(shown_rows(facts))
    drawn = zip(rows, _spread(workers, partial(_draw_one, source), rows), strict=True)
    return {source.about(row)["path"]: data for row, data in drawn if isinstance(data, bytes)}


def _draw_one(source: Packed, row: int) -> bytes:
    image, buffer = decode(source[row], checked=True), io.BytesIO()
    image.thumbnail((DRAWN, DRAWN))
    image.save(buffer, format="JPEG", quality=70)
    return buffer.getvalue()


def _write_train(kept: Kept, source: Packed, good: Mapping[int, Inspected], rows: Sequence[int], folder: Path) -> None:
    """Copy training pictures block by block; those of a run before are there."""
    blocks_folder = kept.folder_of("train", list(rows))
    blocks = list(whole_blocks(blocks_folder))
    while (at := sum(map(len, blocks))) < len(rows):
        items = (_train_item(source, row, good[row]) for row in rows[at:])
        blocks.append(write_block(blocks_folder, len(blocks), TRAIN_COLUMNS, one_file(items)))
    join_blocks(blocks, TRAIN_COLUMNS, folder)


def _train_item(source: Packed, row: int, found: Inspected) -> Item:
    known = source.about(row)
    about = (known["path"], known["label"], known["sha256"], found.width, found.height, int(found.plain))
    return about, source[row]


def _fill_squares(
    workers: Isolated, kept: Kept, source: Packed, rows: Sequence[int], name: str, squares: Squares
) -> Path:
    """Decode in workers that write straight into the file, so that no picture crosses a process border."""
    known = [source.about(row) for row in rows]
    paths, labels = [row["path"] for row in known], [int(row["label"]) for row in known]
    digests = [row["sha256"] for row in known]
    create = partial(create_split, size=squares.side, paths=paths, labels=labels, digests=digests)
    folder, begin = kept.begin(name, [list(rows), squares], create)
    for block in kept.left(folder, len(rows)):
        written = _spread(workers, partial(_fill, source, folder, begin, squares), [(at, rows[at]) for at in block])
        for at, error in zip(block, written, strict=True):
            if error:
                raise VitloraError(
                    f"{paths[at]}: {error}, though it passed its check; is the machine out of memory or overloaded?"
                )
    return folder


def _fill(source: Packed, folder: Path, begin: int, squares: Squares, place: tuple[int, int]) -> None:
    to, row = place
    write_square(
        folder, begin, to, resize_and_crop(decode(source[row], checked=True), squares.side, squares.interpolation)
    )


def _spread(
    workers: Isolated, function: Callable[[Entry], Answer], items: Sequence[Entry]
) -> Iterator[Answer | BadImageError]:
    share = -(-len(items) // (4 * len(workers.children)))  # so that all are done at about the same time
    return workers.map(function, items, max(1, min(CHUNK, share)))


def _tell(numbers: Mapping[str, Any]) -> None:
    totals = ", ".join(f"{name} {numbers[name]:,}" for name in ("train", "val", "test"))
    print(f"{totals} images of {numbers['classes']} classes")
    for split in ("val", "test"):
        absent = [str(entry["class"]) for entry in numbers["images_per_class"] if not entry[split]]
        if absent:
            classes = counted(len(absent), "class", "classes")
            print(f"note: {split} has no image of {classes}: {', '.join(absent[:10])}")
    if numbers["duplicates_left_out"]:
        print(f"note: {numbers['duplicates_left_out']} duplicates are left out")
    for entry in numbers["odd_level_images"][:TOLD]:
        print(f"note: {printable(entry['path'])}: {entry['note']}")
    if numbers["odd_levels"] > TOLD:
        print(f"note: {numbers['odd_levels'] - TOLD:,} more pictures are like these; the data report lists them")
    if numbers["near_duplicates_across_splits"]:
        print(f"note: {numbers['near_duplicates_across_splits']} images of val and test look like one in another split")
