"""Notice what was added, changed or removed where the images and the base model come from.

DVC knows the download stage by ``data.path``, not by what lies there. So dvc's wrapper writes that down before it
starts, in ``source.yaml``, which is a parameter of the stage: Git keeps it, and experiments carry it along.
"""

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitlora.core.files import sha256_file, write_text
from vitlora.core.text import counted, is_address
from vitlora.download.layout import is_litter
from vitlora.safety.workspace import PARAMS, read_yaml

SOURCE = Path("source.yaml")
HASHES = Path(".work/source_hashes.json")  # of files, by place, size and times, so that only new ones are read
HEAD = "# What lay at data.path and model.path when dvc last looked; a change reruns download. Made by dvc's wrapper.\n"
LOCAL = ("folder", "archive", "hub_folder", "table", "timm")  # timm's may be on the Hub too, by its commit
Known = dict[str, list[Any]]


def write_source() -> None:
    """Bring source.yaml up to date; it stays as it is where nothing has changed."""
    document = read_yaml(PARAMS)  # what is wrong with it has been said
    before = _read_hashes()
    known: Known = {}
    noted = read_yaml(SOURCE)  # nothing where it is not there yet, or has the marks of a merge
    seen = {name: _seen(document.get(name), noted.get(name), before, known) for name in ("data", "model")}
    if seen != noted:
        write_text(SOURCE, HEAD + "".join(f"{name}: {json.dumps(value)}\n" for name, value in seen.items()))
    if known != before:
        write_text(HASHES, json.dumps(known))


def local_path(section: Any) -> str | None:
    """Return the path of a section, `data` or `model`, whose source lies on this machine; None for all others."""
    values = section if isinstance(section, Mapping) else {}
    place = values.get("path")
    if values.get("source") not in LOCAL or not isinstance(place, str) or is_address(place):
        return None
    return None if values["source"] == "timm" and values.get("revision") is not None else place


def _seen(section: Any, noted: str | None, before: Known, known: Known) -> str | None:
    """Return the number of files at a section's path and a hash of their names and bytes; None where it is not local.

    Where the path isn't there, as on a colleague's machine that has the outputs only, what was noted stays.
    """
    place = local_path(section)
    if place is None:
        return None
    root = Path(place).expanduser()
    if not root.exists():
        return noted
    digest, count = hashlib.sha256(), 0
    is_folder = section["source"] in ("folder", "table")  # of which download passes litter over
    linked = section["source"] == "hub_folder"  # in which `datasets` follows links to folders
    whole = os.path.abspath(root)
    for path in _files(whole, linked):  # plain text: a million paths of pathlib take a minute
        name = path[len(whole) :].lstrip(os.sep) or "."
        if is_folder and name != "." and is_litter(name.split(os.sep)):
            continue
        count += 1
        content = _hash(path, before, known)
        digest.update(f"{name}\0{content}\n".encode("utf-8", "surrogateescape"))
    return f"{counted(count, 'file')}, {digest.hexdigest()[:16]}"


def _files(root: str, linked: bool) -> Iterator[str]:
    """Yield all files below a folder, links too, in name order; or the file itself.

    Args:
        root: The folder or file, absolute.
        linked: Whether files behind links to folders are among them.
    """
    if os.path.isfile(root):
        yield root
    for place, folders, files in os.walk(root, followlinks=linked):
        folders.sort()
        links = (name for name in folders if os.path.islink(os.path.join(place, name)))
        yield from (os.path.join(place, name) for name in sorted([*files, *links]))


def _hash(path: str, before: Known, known: Known) -> str:
    """Return the SHA-256 of a file or of what a link leads to, from memory if size and times are as before.

    The time of the last change is one of them: programs that put a file's own time back leave that one new.

    Args:
        path: Absolute.
        before, known: What was in memory, and what will be.
    """
    try:
        about, link = os.lstat(path), ""
        if stat.S_ISLNK(about.st_mode):
            link = os.readlink(path)
            about = os.stat(path) if os.path.isfile(path) else about
        if not stat.S_ISREG(about.st_mode):
            return f"mode {about.st_mode:o} {link}"
        stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns]
        kept = before.get(path, [])
        known[path] = kept if kept[:-1] == stamp else [*stamp, sha256_file(Path(path))]
    except OSError as error:  # download will name it
        return str(error.strerror)
    return f"{known[path][-1]} {link}".rstrip()


def _read_hashes() -> Known:
    try:
        found: Known = json.loads(HASHES.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found
