"""Pictures beside a table of labels: a row names a picture and its class, as in train.csv or metadata.jsonl.

What a cell names is found by rules that a person can foresee: the path from the table's folder, then from data.path,
then the only file of that name, then the only one of that name without its ending.
"""

import csv
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.download.archives import Reader
from vitlora.download.found import Found, Picture, first_line, list_folder
from vitlora.download.layout import UNLISTED, Files, checked_names, sort_out, split_of

ENDINGS = (".csv", ".tsv", ".jsonl")
TRIED = 20  # tables that are looked at, and rows that tell whether one names pictures
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
LARGEST = 50_000_000  # bytes of such a table; an archive's member can't be larger
Row = Mapping[str, Any]


def from_table(root: Path, tables: Mapping[str, str], image: str, label: str, split: str | None) -> Found:
    """Read the pictures that tables name.

    Args:
        root: Folder that holds all.
        tables: `train`, `val` or `test` to the table's file below it, with or without its ending.
        image: Column of the picture's path or name.
        label: Column of the class.
        split: Column that says train, val or test in any usual spelling; then there is one table.

    Raises:
        VitloraError: A table or column is missing, a row names no picture or has no class, or a picture is named twice.
    """
    files, _, left = sort_out(list_folder(root, "; unpack an archive first"))
    places = _Places(files)
    rows: dict[PurePosixPath, tuple[str, str]] = {}  # split and class
    labelled: list[Row] = []
    for ours, wanted in tables.items():
        table = _find(wanted, ours, files, root)
        for number, row in enumerate(read_rows(table, files[table].read_bytes(), root), 1):
            where = f"data.path: {root}: {table}, row {number}"
            _require(row, table, root, image_column=image, label_column=label, split_column=split)
            path = places.find(_text(row[image], f"{where}: {image}"), table.parent, where)
            if path in rows:
                raise VitloraError(f"{where} names {path} again; the rule: one row and one class a picture")
            labelled.append(row)
            rows[path] = (_split(row[split], where) if split else ours, _text(row[label], f"{where}: {label}"))
    _refuse_one_hot(labelled, label, root)
    if not rows:
        raise VitloraError(
            f"data.path: {root}: {', '.join(tables.values())} has no row; the rule: one for each picture"
        )
    names = checked_names(_in_order({name for _, name in rows.values()}), root)
    labels = {name: number for number, name in enumerate(names)}
    left[UNLISTED] = [str(path) for path in sorted(files) if path not in rows and not _is_table(path)]

    def pictures() -> Iterator[Picture]:
        for path, (part, name) in sorted(rows.items()):
            try:
                data = files[path].read_bytes()
            except OSError as error:
                raise VitloraError(f"{root}: cannot read {path}: {first_line(error)}") from None
            yield Picture(str(path), part, labels[name], data)

    return Found(names, pictures(), {reason: found for reason, found in left.items() if found})


def find_table(files: Files, read: Reader) -> tuple[PurePosixPath, str, list[str]] | None:
    """Return the first table that names pictures and says more than the folders: other classes, or splits.

    Args:
        files: Handles by path.
        read: Returns the bytes behind a handle.

    Returns:
        Its path, the column that names pictures, and the others; None if there is none.
    """
    places = _Places(files)
    held = ("val", "test")  # last, so that what is proposed to train on isn't a test
    tables = sorted(filter(_is_table, files), key=lambda path: (len(path.parts), split_of(path.stem) in held, path))
    for table in tables[:TRIED]:
        handle = files[table]
        if isinstance(handle, Path) and handle.stat().st_size > LARGEST:
            continue
        try:
            whole = read_rows(table, read(handle), Path())
        except (VitloraError, OSError, ValueError):
            continue  # no table that could be meant
        rows, tells_split = whole[:TRIED], _tells_split(table, whole)
        meant = {
            column: [places.look_up(str(row.get(column, "")), table.parent) for row in rows]
            for column in (rows[0] if rows else ())
        }
        naming = {
            column: [found[0] for found in named]
            for column, named in meant.items()
            if all(len(found) == 1 for found in named)
        }
        if naming and (tells_split or not any(_folders_agree(rows, paths) for paths in naming.values())):
            column = next(iter(naming))
            return table, column, [other for other in rows[0] if other != column]
    return None


def read_rows(table: PurePosixPath, data: bytes, root: Path) -> list[Row]:
    """Return a table's rows, one mapping from column to value each.

    Raises:
        VitloraError: It is not UTF-8, or a row doesn't fit; names the line.
    """
    where = f"data.path: {root}: {table}"
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise VitloraError(f"{where} is not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
    if table.suffix.lower() == ".jsonl":
        return list(_json_rows(text, where))
    lines = text.splitlines()
    head = lines[0] if lines else ""
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise VitloraError(f"{where}, line {reader.line_num}: {error}") from None
    columns = [column.strip() for column in reader.fieldnames or []]
    if len(set(columns)) < len(columns):
        raise VitloraError(f"{where} names a column twice: {', '.join(columns)}")
    for number, row in enumerate(rows, 1):
        if None in row or None in row.values():
            raise VitloraError(f"{where}, row {number}: the rule: {len(columns)} cells, as the first line has names")
    return [{column.strip(): value for column, value in row.items()} for row in rows]


def _json_rows(text: str, where: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise VitloraError(f"{where}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise VitloraError(f"{where}, line {number}: the rule: an object with a picture and its class")
        yield row


def _refuse_one_hot(rows: Sequence[Row], label: str, root: Path) -> None:
    """Refuse a column that only says yes or no beside others that do, of which each row has one: a column a class."""
    flags = [name for name in (rows[0] if rows else ()) if all(_text_of(row, name) in FLAGS for row in rows)]
    if (
        label in flags
        and len(flags) > 1
        and all(sum(FLAGS[_text_of(row, name)] for name in flags) == 1 for row in rows)
    ):
        raise VitloraError(
            f"data.label_column: {root}: {label} is one of the columns {', '.join(flags)}, of which each row has one "
            "1; the rule: one column that names the class; write the name of the 1's column into a column of its own"
        )


def _text_of(row: Row, name: str) -> str:
    return str(row.get(name)).strip()


class _Places:
    """Which file a cell means."""

    def __init__(self, files: Iterable[PurePosixPath]) -> None:
        self.files = {path for path in files if not _is_table(path)}
        self.ends: dict[str, list[PurePosixPath]] = defaultdict(list)
        for path in sorted(self.files):
            for name in {path.name, path.stem}:
                self.ends[name].append(path)

    def look_up(self, cell: str, beside: PurePosixPath) -> Sequence[PurePosixPath]:
        """Return the files that a cell may mean: one where it is clear, several or none where it is not."""
        wanted = PurePosixPath(cell.strip().replace("\\", "/"))
        for path in (beside / wanted, wanted):
            if path in self.files:
                return [path]
        below = [path for path in self.ends.get(wanted.name, ()) if _ends_in(path.parent, wanted.parent)]
        return [path for path in below if path.name == wanted.name] or below

    def find(self, cell: str, beside: PurePosixPath, where: str) -> PurePosixPath:
        """Return the one file that a cell means.

        Raises:
            VitloraError: There is none, or several.
        """
        found = self.look_up(cell, beside)
        if len(found) != 1:
            what = f"{len(found)} files: {found[0]}, {found[1]}; write its path" if found else "no file below data.path"
            raise VitloraError(f"{where} names {cell}, which is {what}")
        return found[0]


def _ends_in(path: PurePosixPath, end: PurePosixPath) -> bool:
    return not end.parts or path.parts[-len(end.parts) :] == end.parts


def _folders_agree(rows: Sequence[Row], paths: Sequence[PurePosixPath]) -> bool:
    """Whether some column says what the folders say already, so that nothing is lost without the table."""
    return any(
        all(str(row.get(column)) in path.parts[:-1] for row, path in zip(rows, paths, strict=True))
        for column in rows[0]
    )


def _tells_split(table: PurePosixPath, rows: Sequence[Row]) -> bool:
    """Whether a table is of val or test, or some column divides its rows into splits."""
    columns = ({split_of(_text_of(row, name)) for row in rows} for name in (rows[0] if rows else ()))
    return split_of(table.stem) in ("val", "test") or any(len(found) > 1 and None not in found for found in columns)


def _is_table(path: PurePosixPath) -> bool:
    return path.suffix.lower() in ENDINGS


def _find(wanted: str, split: str, files: Files, root: Path) -> PurePosixPath:
    given = PurePosixPath(wanted)
    found = [path for path in (given, *(given.with_name(given.name + end) for end in ENDINGS)) if path in files]
    if not found:
        there = [str(path) for path in sorted(files) if _is_table(path)]
        has = f"has the tables {', '.join(there[:10])}" if there else f"has no {', '.join(ENDINGS)}"
        raise VitloraError(f"data.{split}_split: got {wanted}; {root} {has}; the rule: a table's path below data.path")
    return found[0]


def _require(row: Row, table: PurePosixPath, root: Path, **columns: str | None) -> None:
    for key, column in columns.items():
        if column is not None and column not in row:
            raise VitloraError(f"data.{key}: got {column}; {root / table} has the columns {', '.join(row)}")


def _text(value: object, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise VitloraError(f"{where} is {json.dumps(value)}; the rule: text or a whole number in every row")
    return str(value).strip()


def _split(value: object, where: str) -> str:
    split = split_of(str(value).strip())
    if split is None:
        raise VitloraError(f"{where}: got the split {value}; the rule: train, val or test, in any usual spelling")
    return split


def _in_order(names: Iterable[str]) -> list[str]:
    """Return class names in order, numbers by their value."""
    found = sorted(names)
    return sorted(found, key=int) if all(name.isdecimal() for name in found) else found
