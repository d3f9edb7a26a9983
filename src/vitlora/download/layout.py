"""From the names below a folder or in an archive to splits and classes, by rules that a person can foresee.

* A folder of pictures is a class. Folders inside it group its pictures.
* Folders named train, val and test, in any usual spelling, are splits where they hold folders and nothing lies beside
  them.
* A lone folder around everything is looked through, and so is one inside a split that only repeats its name.
* What systems and programs leave behind is passed over. Everything that is not used is listed with its reason.
* What could be read in two ways is refused by name.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.download.archives import Entry

SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
# Words that add nothing to a split's name: train_images, seg_test, training-set.
FILLERS = {"", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "seg", "set", "split"}
LITTER = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__",
    "@eadir", "@tmp", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@__thumb",
    "$recycle.bin", "recycler", "system volume information", "lost+found", "network trash folder", "temporary items",
}  # fmt: skip
# Why something is not used.
LITTERED, LOOSE, UNLABELLED = "of a system or program", "in no class folder", "in a split without class folders"
ODD, OUTSIDE, UNUSED = "a link, pipe, socket or device", "out of the archive", "a split that no parameter names"
UNLISTED, UNREAD = "in no row of the table", "a table of other classes or splits than the folders"
# What somebody may count on, and what to do about it; preprocess refuses these, and not what is of a program or loose.
CURES = {
    UNLABELLED: "sort them into class folders, or name the split's table with data.source: table",
    ODD: "put files in place of links (cp -rL)",
    OUTSIDE: "pack the archive anew",
    UNUSED: "name it in data.train_split, val_split or test_split",
    UNLISTED: "name them in the table, or its file in data.val_split or test_split",
    UNREAD: "read it with data.source: table",
}
NAMED = 20  # of each reason, in left_out.json
Left = dict[str, list[str]]
Files = dict[PurePosixPath, Any]
Sorted = tuple[Files, list[PurePosixPath], defaultdict[str, list[str]]]  # files, folders, what is not used


@dataclass(frozen=True)
class Layout:
    """What lies where.

    Attributes:
        depth: Folders above the classes: 1 where these are splits, else 0.
        class_names: In order; position = label.
        files: What a reader needs, by the path that names the picture; in order.
        left_out: Names of what is not used, by reason.
    """

    depth: int
    class_names: list[str]
    files: Files
    left_out: Left

    def split(self, path: PurePosixPath) -> str:
        """Return the split of a picture."""
        return (split_of(path.parts[0]) or "train") if self.depth else "train"


def sort_out(entries: Iterable[Entry]) -> Sorted:
    """Part files and folders from litter, from what is neither, and from names that lead out of an archive.

    Raises:
        VitloraError: Two members of an archive have one name, so that one picture would silently go.
    """
    files: Files = {}
    folders: list[PurePosixPath] = []
    left: defaultdict[str, list[str]] = defaultdict(list)
    for name, kind, handle in sorted(entries, key=lambda entry: entry[0]):
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", ".")]
        path = PurePosixPath(*parts)
        if ".." in parts:
            left[OUTSIDE].append(name)
        elif not parts:
            continue
        elif is_litter(parts):
            left[LITTERED] += [name] * (kind == "file")
        elif kind == "other":
            left[ODD].append(name)
        elif kind == "folder":
            folders.append(path)
        elif path in files:
            raise VitloraError(f"data.path: the archive holds {path} twice; pack it anew")
        else:
            files[path] = handle
    return files, folders, left


def arrange(entries: Sorted, root: Path) -> Layout:
    """Turn names into splits and classes.

    Args:
        entries: Everything there is, sorted out.
        root: Where, for messages.

    Raises:
        VitloraError: There is no class folder, a name is there twice, or the layout could be read in two ways.
    """
    files, folders, left = entries
    while _is_wrapped(files, folders):
        root /= next(path.parts[0] for path in files if len(path.parts) > 1)
        left[LOOSE] += [str(path) for path in sorted(files) if len(path.parts) == 1]
        files = {PurePosixPath(*path.parts[1:]): handle for path, handle in files.items() if len(path.parts) > 1}
        folders = [PurePosixPath(*path.parts[1:]) for path in folders if len(path.parts) > 1]
    depth = _split_depth(files, root)
    if depth:
        repeated = {top for top in {path.parts[0] for path in files} if _repeats(top, files)}
        files = {_without_repeat(path, repeated) if len(path.parts) > 2 else path: files[path] for path in files}
        folders = [_without_repeat(path, repeated) for path in folders]
    labelled = {path.parts[0] for path in files if len(path.parts) > depth + 1}
    for path in sorted(files):
        if len(path.parts) <= depth + 1:
            left[LOOSE if len(path.parts) == 1 or path.parts[0] in labelled else UNLABELLED].append(str(path))
    inside = {path: files[path] for path in sorted(files) if len(path.parts) > depth + 1}
    names = sorted({path.parts[depth] for path in [*inside, *folders] if len(path.parts) > depth})
    if not inside:
        raise VitloraError(f"data.path: {root} holds no class folder with files; the rule: {root.name}/CLASS/PICTURE")
    _refuse_two_readings(inside, depth, root)
    return Layout(depth, checked_names(names, root), inside, {reason: found for reason, found in left.items() if found})


def is_litter(parts: Iterable[str]) -> bool:
    """Whether a path, given as its folders and its name, is what systems and programs leave behind; or hidden.

    All that walk through a folder of pictures ask here: download, `vitlora predict`, and dvc's wrapper.
    """
    return any(part.lower() in LITTER or part.startswith(".") for part in parts)


def split_of(name: str) -> str | None:
    """Return `train`, `val` or `test` if a folder's name says so: Training, valid, test_images, seg_train, dev-set."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.findall(r"[^\W\d_]+", spaced.lower()) if word not in FILLERS]
    if len(words) != 1:
        return None
    for split, spellings in SPELLINGS.items():
        if any(words[0].startswith(each) and words[0].removeprefix(each) in FILLERS for each in spellings):
            return split
    return None


def checked_names(names: Iterable[str], root: Path | str) -> list[str]:
    """Refuse class names that would break a path, a table or a terminal; all others are kept as they are."""
    kept = list(names)
    for name in kept:
        odd = [char for char in name if char in "/\\" or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")]
        if odd or not name:
            raise VitloraError(
                f"data.path: {root} has the class {name!r}; the rule: a name in UTF-8, without slashes and control "
                "characters"
            )
    return kept


def _is_wrapped(files: Iterable[PurePosixPath], folders: Iterable[PurePosixPath]) -> bool:
    """Whether a single folder lies around everything, as in archives; alone, it can't be a class."""
    tops = {path.parts[0] for path in files if len(path.parts) > 1} | {path.parts[0] for path in folders}
    return len(tops) == 1 and any(len(path.parts) > 2 for path in files) and "train" not in map(split_of, tops)


def _split_depth(files: Iterable[PurePosixPath], root: Path) -> int:
    """Return 1 where folders such as train and test lie above the classes, else 0."""
    tops = {path.parts[0] for path in files if len(path.parts) > 1}
    splits = {top: split for top in sorted(tops) if (split := split_of(top))}
    twice = len(set(splits.values())) < len(splits)
    if splits.keys() == tops and "train" in splits.values() and not twice:
        return 1
    _refuse_joined(tops, root)
    # One alone may be a class, such as vehicles of kind "train".
    if len(splits) > 1:
        raise VitloraError(
            f"data.path: {root} holds the folders {', '.join(sorted(tops))}; the rule: train, with or without val "
            "and test, one folder each, and nothing beside them; or classes only"
        )
    return 0


def _refuse_joined(tops: Iterable[str], root: Path) -> None:
    """Refuse folders whose names hold split and class, such as train_cat and test_cat."""
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for top in sorted(tops):
        words = re.findall(r"[^\W_]+", top.lower())
        for word, rest in ((words[0], words[1:]), (words[-1], words[:-1])) if len(words) > 1 else ():
            split = split_of(word)
            other, its = seen.setdefault(tuple(rest), (top, split)) if split else (top, split)
            if its != split:
                raise VitloraError(
                    f"data.path: {root} holds {other} and {top}, whose names hold split and class; the rule: a folder "
                    f"for each split, and the classes in it, such as {split}/{' '.join(rest)}"
                )


def _repeats(top: str, files: Iterable[PurePosixPath]) -> bool:
    """Whether a split holds one folder only, which is no class but says the same again: train/train, test/images."""
    below = [path.parts[1:] for path in files if path.parts[0] == top and len(path.parts) > 2]
    names = {parts[0] for parts in below}
    if len(names) != 1:
        return False
    (name,) = names
    words = set(re.findall(r"[a-z]+", name.lower()))
    if not any(len(parts) > 2 for parts in below):  # val/images of a split that was never sorted into classes
        known = {path.parts[1] for path in files if split_of(path.parts[0]) == "train" and len(path.parts) > 2}
        return bool(words) and words <= FILLERS and split_of(top) != "train" and name not in known
    return name == top or split_of(name) == split_of(top) or words <= FILLERS


def _without_repeat(path: PurePosixPath, repeated: set[str]) -> PurePosixPath:
    return PurePosixPath(path.parts[0], *path.parts[2:]) if path.parts[0] in repeated else path


def _refuse_two_readings(files: Iterable[PurePosixPath], depth: int, root: Path) -> None:
    """Refuse classes that hold several folders and no picture, and the same folder beside the pictures of every class.

    The first may be splits or groups of classes, the second thumbnails or masks.
    """
    loose: defaultdict[str, int] = defaultdict(int)
    grouped: defaultdict[str, set[str]] = defaultdict(set)
    deeper: set[str] = set()
    for path in files:
        name, *groups = path.parts[depth:-1]
        loose[name] += not groups
        grouped[name].update(groups[:1])
        deeper.update([name] if len(groups) > 1 else [])
    alike = len(set(map(frozenset, grouped.values()))) == 1  # as cat/images, dog/images
    odd = [
        name
        for name, inner in grouped.items()
        if inner and not loose[name] and (len(inner) > 1 or name in deeper or not (alike or any(loose.values())))
    ]
    if odd:
        name, inner = odd[0], grouped[odd[0]]
        one = f"set data.path: {root / _above(name, depth, files)}"
        many = f"put them side by side into one folder ({_some(odd)} are like that)"
        cure = f"If these are the classes, {one if len(odd) == 1 else many}; else move the pictures up into {name}"
        if len(odd) == len(grouped) > 1 and alike:  # images and masks in each
            cure = (
                f"Every class holds them; move all but those of the pictures elsewhere, or the pictures up into {name}"
            )
        raise VitloraError(
            f"data.path: {root}: {name} holds no pictures, only the folders {_some(inner)}; the rule: a folder of "
            f"pictures is a class. {cure}"
        )
    common = set.intersection(*grouped.values())
    if common and len(grouped) > 1 and all(loose.values()):
        raise VitloraError(
            f"data.path: {root}: every class holds a folder {sorted(common)[0]} beside its pictures, as thumbnails or "
            "masks are kept; the rule: a class holds pictures; move these folders elsewhere, or their pictures up"
        )


def _above(name: str, depth: int, files: Iterable[PurePosixPath]) -> PurePosixPath:
    """Return the folder right above those that hold a class's pictures."""
    holders = [path.parent.parent.parts for path in files if path.parts[depth] == name]
    return PurePosixPath(*(parts[0] for parts in zip(*holders, strict=False) if len(set(parts)) == 1))


def _some(names: Iterable[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def told(left_out: Mapping[str, list[str]]) -> list[str]:
    """Return a line for each reason why something is not used."""
    return [
        printable(f"note: {len(names):,} not used ({reason}): {_some(names)}")
        for reason, names in sorted(left_out.items())
    ]


def recorded(left_out: Mapping[str, list[str]]) -> list[dict[str, Any]]:
    """Return what the next stage is told: reason, count, names of the first, and the cure, None where it needs none."""
    return [
        {"reason": reason, "count": len(names), "names": sorted(names)[:NAMED], "cure": CURES.get(reason)}
        for reason, names in sorted(left_out.items())
    ]
