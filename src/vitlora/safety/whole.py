"""A file that is there whole or not at all, and not in place of another one before it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a place beside a file to write to, which takes its name in the end; after an error nothing of it is left.

    Args:
        path: Of the file; of a link, what it leads to is replaced: others may read it there.
    """
    place = path.resolve()
    aside = place.with_name(f".{place.name}.part")
    try:
        yield aside
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)
