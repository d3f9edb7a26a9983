"""What every reader of pictures gives, and how a folder is listed."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from vitlora.core.errors import VitloraError
from vitlora.download.archives import Entry, kind_of
from vitlora.download.layout import Left


@dataclass(frozen=True)
class Picture:
    """One labelled picture: a name unique in its source, `train`, `val` or `test`, label, and the file's bytes."""

    path: str
    split: str
    label: int
    data: bytes


@dataclass(frozen=True)
class Found:
    """What a source holds: class names (position = label), pictures in a fixed order; what is not used, by reason."""

    class_names: list[str]
    pictures: Iterable[Picture]
    left_out: Left


def list_folder(root: Path, hint: str) -> Iterator[Entry]:
    """Yield everything below a folder, as an archive lists its members; each one's handle is its path.

    Args:
        root: The folder.
        hint: What to do instead where it is a file.

    Raises:
        VitloraError: The root is not a folder, or can't be read in full.
    """
    if not os.path.isdir(root):  # unlike Path.is_dir, no error where permission is missing
        hint = hint if os.path.isfile(root) else ""
        raise VitloraError(f"data.path: got {root}, which is not a folder; the rule: a folder of pictures{hint}")
    for place, folders, files in os.walk(root, onerror=_refuse_unread):  # links to folders are not followed
        for name in [*folders, *files]:
            path = Path(place, name)
            try:
                kind = kind_of(path.lstat().st_mode)
            except OSError as error:
                _refuse_unread(error)
            yield str(path.relative_to(root)), kind, path


def first_line(error: BaseException) -> str:
    """Return what another library says, without what it adds below."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _refuse_unread(error: OSError) -> NoReturn:
    raise VitloraError(f"data.path: cannot read {error.filename}: {error.strerror}")
