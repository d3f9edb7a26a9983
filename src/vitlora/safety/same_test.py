"""Whether accuracies can be compared: how many of the test pictures are those of the run before, in this folder."""

from pathlib import Path

from vitlora.core.files import read_csv, write_text
from vitlora.core.text import counted


def tell_same_test(index: Path, note: Path) -> None:
    """Print what has changed among the test pictures since the note was written, if anything; write it anew.

    Args:
        index: Table of the test pictures, with the SHA-256 of each one's file.
        note: One digest a line; outside what DVC keeps, so that no result depends on it.
    """
    now = {row["sha256"] for row in read_csv(index)}
    before = set(note.read_text(encoding="utf-8").split()) if note.is_file() else now
    if before != now:
        kept = len(now & before)
        changes = f"{len(now) - kept:,} new, {len(before) - kept:,} gone"
        hint = "compare over those" if kept else "accuracies of the two tell nothing of each other"
        print(f"test: {kept:,} of {counted(len(now), 'picture')} as in the run before, {changes}; {hint}")
    write_text(note, "".join(f"{digest}\n" for digest in sorted(now)))
