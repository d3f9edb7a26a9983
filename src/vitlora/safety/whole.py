"""A file that is there whole or not at all, and not in place of another one before it is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp

from vitlora.core.files import make_readable


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a place beside a file to write to, which takes its name in the end; after an error nothing of it is left.

    The place has a name of its own: a second run to the same file writes into another one.

    Args:
        path: Of the file; of a link, what it leads to is replaced: others may read it there.
    """
    place = path.resolve()
    handle, name = mkstemp(".part", f".{place.name}.", place.parent)
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        make_readable(aside)  # mkstemp's are their owner's alone
        aside.replace(place)
    finally:
        aside.unlink(missing_ok=True)
