"""Classify pictures (files, folders or http(s) addresses) with the exported model."""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import numpy as np
from numpy.typing import NDArray

from vitlora.containers import BadImageError
from vitlora.errors import VitloraError
from vitlora.files import read_json
from vitlora.images import decode, read_picture, resize_and_crop
from vitlora.isolated import Isolated
from vitlora.onnx_runtime import OnnxClassifier
from vitlora.scores import softmax

BATCH = 32
URL_BYTES = 20_000_000
URL_TIMEOUT_S = 15.0


class Loaded(NamedTuple):
    """One input: its name, and its square, uint8 (3, H, W), or the reason there is none."""

    name: str
    square: NDArray[np.uint8] | None
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder (all files below it) or http(s) address"
    )
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="exported folder (models/export)")
    parser.add_argument("--top", type=int, default=3, help="classes to show for each picture (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")


def act(args: argparse.Namespace) -> None:
    """Print the likeliest classes of every picture; a bad picture is named and the others go on.

    Raises:
        VitloraError: There is no exported model, or at least one picture could not be read.
    """
    if not (args.model / "model.onnx").is_file():
        raise VitloraError(f"{args.model} holds no model.onnx; `dvc repro` makes it, or name another with --model")
    if args.top < 1:
        raise VitloraError(f"--top: got {args.top}; the rule: at least 1")
    bundle = read_json(args.model / "vitlora.json")
    classifier = OnnxClassifier(args.model / "model.onnx", bundle["image_mean"], bundle["image_std"])
    failed = 0
    with Isolated() as child:
        inputs = (load(child, name, bundle["image_size"], bundle["interpolation"]) for name in names(args.images))
        while batch := list(islice(inputs, BATCH)):
            failed += sum(item.square is None for item in batch)
            _print(batch, classifier, bundle["class_names"], args)
    if failed:
        raise VitloraError(f"{failed} picture{'s' if failed > 1 else ''} could not be read; named above")


def names(given: Iterable[str]) -> Iterator[str]:
    """Yield every input, a folder as all files below it in name order, hidden ones left out."""
    for name in given:
        if not is_url(name) and Path(name).is_dir():
            files = (path for path in Path(name).rglob("*") if path.is_file())
            yield from sorted(str(path) for path in files if not path.name.startswith("."))
        else:
            yield name


def load(child: Isolated, name: str, size: int, interpolation: str) -> Loaded:
    """Read one picture here, and let another process make it a square just as preprocess does."""
    try:
        data = fetch(name) if is_url(name) else read_picture(name)
        return Loaded(name, child.call(partial(_square, size, interpolation), data), "")
    except (OSError, BadImageError, ValueError) as error:
        return Loaded(name, None, getattr(error, "strerror", None) or str(error))


def _square(size: int, interpolation: str, data: bytes) -> NDArray[np.uint8]:
    return resize_and_crop(decode(data), size, interpolation)


def is_url(name: str) -> bool:
    """Whether a name has a scheme, such as http."""
    return "://" in name


def fetch(url: str) -> bytes:
    """Read an http(s) address, at most 20 MB, waiting at most 15 s for any answer.

    Raises:
        ValueError: Another scheme, or a longer answer.
        OSError: No answer, or not one of success.
    """
    if urlparse(url).scheme not in ("http", "https"):
        raise ValueError("only http and https addresses are read")
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_S) as answer:  # noqa: S310 - checked above
            data: bytes = answer.read(URL_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise OSError(f"the server answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"no answer from {urlparse(url).netloc}: {error.reason}") from None
    if len(data) > URL_BYTES:
        raise ValueError(f"longer than {URL_BYTES:,} bytes")
    return data


def _print(batch: list[Loaded], classifier: OnnxClassifier, class_names: list[str], args: argparse.Namespace) -> None:
    squares = [item.square for item in batch if item.square is not None]
    scored = iter(softmax(classifier.score(np.stack(squares), BATCH))) if squares else iter(())
    for item in batch:
        if item.square is None:
            _print_bad(item, args.json)
            continue
        shares: NDArray[np.float32] = next(scored)
        best = np.argsort(-shares, kind="stable")[: args.top]
        found = [(class_names[label], float(shares[label])) for label in best]
        if args.json:
            classes = [{"class": name, "confidence": round(share, 6)} for name, share in found]
            print(json.dumps({"image": item.name, "predictions": classes}, ensure_ascii=False))
        else:
            print(f"{item.name}: " + ", ".join(f"{name} {share:.1%}" for name, share in found))


def _print_bad(item: Loaded, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": item.name, "error": item.reason}, ensure_ascii=False))
    else:
        print(f"{item.name}: {item.reason}", file=sys.stderr)
