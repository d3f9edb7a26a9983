"""Byte-stable text files: the same content gives the same bytes on every machine."""

import csv
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write sorted, indented JSON that ends in one newline; text outside UTF-8 is escaped and survives a round trip.

    Raises:
        ValueError: A number is NaN or infinite, which JSON can't carry.
    """
    write_text(path, json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8 with LF line ends; what is outside UTF-8 is escaped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def read_json(path: Path) -> Any:
    """Read a file that ``write_json`` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a header and rows with LF line ends; text outside UTF-8 (odd file names) survives a round trip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(_line(header))
        file.writelines(map(_line, rows))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a file that ``write_csv`` wrote, one mapping from column to text a row."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def _line(row: Sequence[object]) -> str:
    return ",".join(map(_cell, row)) + "\n"


def _cell(value: object) -> str:
    # csv.writer leaves a lone carriage return, which macOS has in the name of its icon files, bare.
    text = "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\r\n]', text) else text


def significant(value: float | None, digits: int = 4) -> float | None:
    """Return a figure with the digits that mean something: another kind of processor moves those behind them."""
    return None if value is None else float(f"{value:.{digits}g}")


def make_readable(path: Path) -> None:
    """Give a file, or all files below a folder, ordinary modes: safetensors writes what only its owner may open."""
    mask = os.umask(0)
    os.umask(mask)
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(0o666 & ~mask)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
