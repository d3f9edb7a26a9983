"""Which pictures an adapter has met, so that a test that holds one of them says so.

A mixture has met what its adapters have, whose splits may be others than today's.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from vitlora.core.files import read_csv, sha256_file, write_csv

SEEN = "pictures.csv"
PICTURES = "pictures"  # in an exported model's vitlora.json: ``pictures_met``
DIGITS = 16  # of a picture's SHA-256: two of a million are equal once in 40 million sets


def write_seen(folder: Path, train: Iterable[str], val: Iterable[str], adapters: Iterable[Path]) -> bool:
    """Record what an adapter was trained on, and what its epoch was chosen by.

    Args:
        folder: The adapter's; gets pictures.csv.
        train: SHA-256 of the training pictures' files.
        val: Of the validation pictures'.
        adapters: Folders of the adapters that it is made of.

    Returns:
        False, and nothing is written, where one of those doesn't say what it has met.
    """
    used = dict.fromkeys(_short(val), "val") | dict.fromkeys(_short(train), "train")
    for adapter in adapters:
        if not (adapter / SEEN).is_file():
            return False
        used = {row["picture"]: row["used"] for row in read_csv(adapter / SEEN)} | used
    write_csv(folder / SEEN, ("picture", "used"), sorted(used.items()))
    return True


def count_seen(folder: Path, pictures: Sequence[str]) -> int | None:
    """Return how many pictures, given by the SHA-256 of their files, an adapter has met; None if it doesn't say."""
    if not (folder / SEEN).is_file():
        return None
    known = {row["picture"] for row in read_csv(folder / SEEN)}
    return sum(name in known for name in _short(pictures))


def pictures_met(folder: Path) -> str | None:
    """Return a SHA-256 that is the same for adapters that have met the same pictures; None if one doesn't say."""
    return sha256_file(folder / SEEN) if (folder / SEEN).is_file() else None


def _short(digests: Iterable[str]) -> list[str]:
    return [digest[:DIGITS] for digest in digests]
