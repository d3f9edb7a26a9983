"""Random small data sets with a known truth: splits, nesting, litter, links, tables, odd names, broken pictures.

    PYTHONPATH=src:tests/support python tests/support/data_trees.py 17 FOLDER

writes the tree of one seed, to be looked at.
"""

import io
import random
import sys
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

CLASSES = [
    "cat", "Dog", "été", "grey wolf", "trains", "valley", "2017", "set", "猫", "image", "test tube", "a.b", "-x", "c++",
    "it's", "100%", "#1", "train wreck", "dev ops", "_", "(new)", "a,b", "x=y", "&", "Ärger", "картинка", "no", "null",
]  # fmt: skip
SPLITS = {
    "train": ["train", "Training", "train_images", "seg_train", "training-set", "TRAIN", "train2017", "01_train"],
    "val": ["val", "valid", "Validation", "dev", "val_images", "validation-set"],
    "test": ["test", "Testing", "test_set", "eval", "seg_test", "test2017"],
}
LITTER = [".DS_Store", "Thumbs.db", "desktop.ini", "@eaDir/1.jpg/SYNO_M.jpg", "__MACOSX/._1.jpg", "lost+found/a.jpg"]
LITTER += [".ipynb_checkpoints/1-checkpoint.jpg", "#recycle/b/old.jpg", ".AppleDouble/1.jpg", "$RECYCLE.BIN/x.jpg"]
LOOSE = ["README.txt", "LICENSE", "classes.txt", "cover.jpg", "notes.csv"]
BROKEN = [b"", b"not a picture", b"\x89PNG\r\n\x1a\n\0\0", b"<html></html>"]
FOREIGN = {"gb18030": ["猫", "森林", "大海"], "cp1251": ["картинка", "кошка"], "cp932": ["ソフト", "表示"]}


@dataclass
class Tree:
    """What lies there, what is to come of it, and the parameters.

    Attributes:
        files: Bytes by path.
        links: Paths that are links.
        truth: Split and class of each picture by its path; broken ones too.
        broken: Paths of pictures that can't be used.
        doubled: Paths of pictures that are in two classes.
        unused: How many files and links count as not used.
        culprits: A refusal must name one of them; empty where nothing may be refused.
        data: Changes of the section `data`; `path` is filled in.
        ingest: Changes of the section `ingest`.
        encoding: Of names in the archive.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    truth: dict[str, tuple[str, str]] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unused: int = 0
    culprits: list[str] = field(default_factory=list)
    data: dict[str, object] = field(default_factory=dict)
    ingest: dict[str, object] = field(default_factory=dict)
    encoding: str = "utf-8"


def grow(seed: int) -> Tree:
    """Return the tree of a seed."""
    chance = random.Random(seed)
    tree = Tree()
    tree.data["source"] = chance.choice(["folder", "folder", "zip", "tar", "table"])
    for key in ("on_bad", "on_left_out", "on_duplicate"):
        tree.ingest[key] = chance.choice(["fail", "skip"])
    tree.ingest["max_bad_fraction"] = 1.0
    if tree.data["source"] == "table":
        _table(tree, chance, seed)
    else:
        _folders(tree, chance, seed)
    _broken(tree, chance)
    _doubled(tree, chance)
    return tree


def picture(seed: int, number: int) -> bytes:
    """Return a small picture of its own noise."""
    numbers = np.random.default_rng([seed, number])
    size = (int(numbers.integers(9, 16)), int(numbers.integers(9, 16)), 3)
    buffer = io.BytesIO()
    Image.fromarray(numbers.integers(0, 256, size, np.uint8)).save(buffer, format="PNG" if number % 3 else "JPEG")
    return buffer.getvalue()


def _folders(tree: Tree, chance: random.Random, seed: int) -> None:
    classes = chance.sample(CLASSES, chance.randint(2, 4))
    if tree.data["source"] != "folder" and chance.random() < 0.2:
        tree.encoding = chance.choice(list(FOREIGN))
        classes = FOREIGN[tree.encoding][:2]
        given = chance.choice([None, tree.encoding])
        tree.data["name_encoding"] = given
        tree.culprits += [] if given else ["data.name_encoding"]
    splits = {"train": ""}
    if chance.random() < 0.5:
        kept = ["train", *chance.sample(["val", "test"], chance.randint(0, 2))]
        splits = {split: chance.choice(SPLITS[split]) + "/" for split in kept}
    wrap = chance.choice(["", "", "pets/", "a/b/"])
    for split, top in splits.items():
        again = chance.choice(["", "", top]) if top else ""
        for name in classes:
            for number in range(5 if split == "train" else chance.randint(1, 2)):
                group = chance.choice(["", "", "more/"]) if number and name == classes[0] else ""
                path = f"{wrap}{top}{again}{name}/{group}{number}.jpg"
                tree.files[path], tree.truth[path] = picture(seed, len(tree.files)), (split, name)
        _extras(tree, chance, f"{wrap}{top}{again}{chance.choice(classes)}/")
    if chance.random() < 0.3:
        tree.files[f"{wrap}{chance.choice(LOOSE)}"] = b"loose"
        tree.unused += 1
    if tree.data["source"] != "zip" and chance.random() < 0.2:
        tree.links.append(f"{wrap}{next(iter(splits.values()))}{chance.choice(classes)}/linked.jpg")
        tree.unused += 1
        tree.culprits += ["linked.jpg"] if tree.ingest["on_left_out"] == "fail" else []
    _trouble(tree, chance, [f"{wrap}{top}" for top in splits.values()], classes, splits["train"] != "")


def _extras(tree: Tree, chance: random.Random, place: str) -> None:
    if chance.random() < 0.4:
        tree.files[place + chance.choice(LITTER)] = b"litter"
        tree.unused += 1


def _trouble(tree: Tree, chance: random.Random, tops: list[str], classes: list[str], splits: bool) -> None:
    """Add what could be read in two ways, now and then."""
    kind = chance.choice([None] * 12 + ["folds", "thumbnails", "case", "hidden split"])
    pictures = list(tree.truth)
    if kind == "folds":  # every class would be a fold
        moved = {path: f"fold_{number % 2}/{path}" for number, path in enumerate(sorted(tree.files))}
        tree.files = {moved[path]: data for path, data in tree.files.items()}
        tree.truth = {moved[path]: value for path, value in tree.truth.items()}
        tree.links = [f"fold_0/{path}" for path in tree.links]
        tree.culprits += ["fold_0", "fold_1"]
    elif kind == "thumbnails":
        for path in pictures:
            parent, _, name = path.rpartition("/")
            tree.files[f"{parent.removesuffix('/more')}/thumbs/{name}"] = b"thumb"
        tree.culprits += ["thumbs"]
    elif kind == "case":
        name = next((name for name in classes if name != name.upper()), None)
        if name is not None and classes.count(name.upper()) == 0:
            for top in tops[:1]:
                tree.files[f"{top}{name.upper()}/x.jpg"] = picture(len(pictures), 99)
            tree.culprits += [name, name.upper()]
    elif kind == "hidden split" and splits:
        top = f"{tops[0].rpartition('/')[0].rpartition('/')[0]}/holdout".lstrip("/")
        tree.files[f"{top}/{classes[0]}/x.jpg"] = picture(len(pictures), 98)
        tree.culprits += ["holdout", tops[0].split("/")[-2]]


def _table(tree: Tree, chance: random.Random, seed: int) -> None:
    classes = chance.sample([name for name in CLASSES if name == name.strip()], chance.randint(2, 4))
    whole = chance.random() < 0.6
    cell = chance.choice(["{0}", "{1}", "{2}"])
    rows: dict[str, list[tuple[str, str]]] = {}
    for split in ["train"] if whole else ["train", "test"]:
        for number in range(5 * len(classes)):
            path = f"{chance.choice(['images', 'more/pictures'])}/{split}{number}.jpg"
            name = classes[number % len(classes)]
            tree.files[path], tree.truth[path] = picture(seed, len(tree.files)), (split, name)
            pure = PurePosixPath(path)
            rows.setdefault(split, []).append((cell.format(pure, pure.name, pure.stem), name))
    for split, entries in rows.items():
        lines = ["picture,kind", *(f'"{cell}","{name}"' for cell, name in entries)]
        tree.files[f"{split}.csv"] = "\n".join([*lines, ""]).encode()
    tree.data |= {"image_column": "picture", "label_column": "kind", "test_split": None if whole else "test"}
    if chance.random() < 0.3:
        tree.files["images/spare.jpg"] = picture(seed, 999)
        tree.unused += 1
        tree.culprits += ["spare.jpg"] if tree.ingest["on_left_out"] == "fail" else []
    if chance.random() < 0.2:
        tree.data["source"], tree.ingest["on_left_out"] = "folder", "fail"  # which the table contradicts
        tree.culprits += ["data.source: table"]
    _extras(tree, chance, "images/")


def _broken(tree: Tree, chance: random.Random) -> None:
    if chance.random() < 0.2:
        path = chance.choice([path for path, (split, _) in sorted(tree.truth.items())])
        others = [other for other, truth in tree.truth.items() if truth == tree.truth[path] and other != path]
        if len(others) < 2:
            return
        tree.files[path] = chance.choice(BROKEN)
        tree.broken.append(path)
        tree.culprits += [_end(path)] if tree.ingest["on_bad"] == "fail" else []


def _doubled(tree: Tree, chance: random.Random) -> None:
    if chance.random() < 0.1:
        trains = [
            path for path, (split, _) in sorted(tree.truth.items()) if split == "train" and path not in tree.broken
        ]
        first = chance.choice(trains)
        other = next((path for path in trains if tree.truth[path] != tree.truth[first]), None)
        if other is not None:
            tree.files[other] = tree.files[first]
            tree.doubled += [first, other]
            tree.culprits += [_end(first), _end(other)] if tree.ingest["on_duplicate"] == "fail" else []


def _end(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def write(tree: Tree, root: Path) -> Path:
    """Write a tree as a folder or an archive, as its source says; return what `data.path` is to be."""
    if tree.data["source"] in ("zip", "tar"):
        kind = str(tree.data["source"])
        tree.data["source"] = "archive"
        return (_zip if kind == "zip" else _tar)(tree, root / f"data.{kind}")
    for name, data in tree.files.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name in tree.links:
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(root / "elsewhere")
    return root / "data"


class _Raw(zipfile.ZipInfo):
    """A member whose name is packed in another encoding, without the flag, as old systems do."""

    encoding = "utf-8"

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:  # noqa: N802 - Python's name
        return self.filename.encode(self.encoding), self.flag_bits & ~0x800


def _zip(tree: Tree, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in tree.files.items():
            info = zipfile.ZipInfo(name) if tree.encoding == "utf-8" else _Raw(name)
            if isinstance(info, _Raw):
                info.encoding, info.create_system = tree.encoding, 0
            archive.writestr(info, data)
    return path


def _tar(tree: Tree, path: Path) -> Path:
    form = tarfile.PAX_FORMAT if tree.encoding == "utf-8" else tarfile.GNU_FORMAT
    with tarfile.open(path, "w", format=form, encoding=tree.encoding) as archive:
        for name, data in tree.files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name in tree.links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, "elsewhere"
            archive.addfile(info)
    return path


if __name__ == "__main__":
    shown = grow(int(sys.argv[1]))
    print(write(shown, Path(sys.argv[2])), shown.culprits, shown.data, shown.ingest)
