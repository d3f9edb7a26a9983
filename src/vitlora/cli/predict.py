"""Classify pictures (files, folders or http(s) addresses) with the exported model."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.text import is_address, printable
from vitlora.download.layout import is_litter
from vitlora.evaluate.scores import softmax
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, read_picture, resize_and_crop
from vitlora.images.sandbox import Isolated
from vitlora.net.fetch import PICTURE, FetchError, PrivateError, Rules, read_url
from vitlora.safety.current import why_not_current
from vitlora.safety.workspace import has_remote
from vitlora.storage.manifest import problems

BATCH = 32
# Lets an address lead into one's own network, where other people's servers have no business.
ANYWHERE = replace(PICTURE, allowed=lambda address: True)


class Loaded(NamedTuple):
    """One input: its name, and its square, uint8 (3, H, W), or the reason there is none."""

    name: str
    square: NDArray[np.uint8] | None
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="file, folder (all pictures below it) or http(s) address"
    )
    parser.add_argument(
        "--allow-private", action="store_true", help="read addresses inside your own network too, such as 192.168.0.9"
    )
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="exported folder (models/export)")
    parser.add_argument("--top", type=int, default=3, help="classes to show for each picture (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, for machines")


def act(args: argparse.Namespace) -> None:
    """Print the likeliest classes of every picture; a bad picture is named and the others go on.

    Raises:
        VitloraError: There is no exported model, or at least one picture could not be read.
    """
    if args.top < 1:
        raise VitloraError(f"--top: got {args.top}; the rule: at least 1")
    classifier, bundle = open_exported(args.model)
    rules = ANYWHERE if args.allow_private else PICTURE
    failed = seen = 0
    with Isolated() as child:
        inputs = (
            load(child, name, bundle["image_size"], bundle["interpolation"], rules) for name in names(args.images)
        )
        while batch := list(islice(inputs, BATCH)):
            seen += len(batch)
            failed += sum(item.square is None for item in batch)
            _print(batch, classifier, bundle["class_names"], args)
    if not seen:
        raise VitloraError(
            f"{printable(', '.join(args.images))}: no picture there; the rule: pictures, or folders of them"
        )
    if failed:
        raise VitloraError(f"{failed} picture{'s' if failed > 1 else ''} could not be read; named above")


def open_exported(model: Path) -> tuple[OnnxClassifier, dict[str, Any]]:
    """Return the exported classifier and its vitlora.json, and say so where it is not of today's parameters.

    Raises:
        VitloraError: There is no exported model, or it is damaged.
    """
    if not (model / "model.onnx").is_file():
        pull = f"`dvc pull {model}` fetches it, or " if has_remote() else ""
        raise VitloraError(f"{model} holds no model.onnx; {pull}`dvc repro` makes it, or name another with --model")
    damage = next(problems(model, only=("model.onnx", "vitlora.json")), None)
    if damage:
        raise VitloraError(f"{damage}; `vitlora recover && dvc repro` makes it anew, or copy the folder anew")
    try:
        bundle = read_json(model / "vitlora.json")
    except (OSError, ValueError) as error:
        raise VitloraError(f"{model}/vitlora.json cannot be read ({error}); `dvc repro` makes it anew") from None
    if reason := why_not_current(model):
        print(printable(f"note: {model}: {reason}; `dvc repro` makes it anew"), file=sys.stderr)
    return OnnxClassifier(model / "model.onnx", bundle["image_mean"], bundle["image_std"]), bundle


def names(given: Iterable[str]) -> Iterator[str]:
    """Yield every input, a folder as all that lies below it in name order, but for what download passes over too.

    Links to folders are not followed, so none leads round in a circle; they are yielded themselves, and so are pipes
    and the like, so that each is read or named.

    Raises:
        VitloraError: A folder can't be read.
    """
    for name in given:
        if is_address(name) or not os.path.isdir(name):
            yield name
        else:
            yield from sorted(_below(name))


def _below(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not is_litter([name])]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (os.path.join(place, name) for name in [*files, *links] if not is_litter([name]))


def load(child: Isolated, name: str, size: int, interpolation: str, rules: Rules = PICTURE) -> Loaded:
    """Read one picture here, and let another process make it a square just as preprocess does."""
    if not is_address(name) and os.path.isdir(name):
        return Loaded(name, None, "a link to a folder, which is not followed; name it itself to read what lies there")
    try:
        data = read_url(name, rules) if is_address(name) else read_picture(name)
        return Loaded(name, child.call(partial(_square, size, interpolation), data), "")
    except PrivateError as error:
        return Loaded(name, None, f"{error}; --allow-private reads it all the same")
    except (OSError, BadImageError, FetchError, ValueError) as error:
        return Loaded(name, None, getattr(error, "strerror", None) or str(error))


def _square(size: int, interpolation: str, data: bytes) -> NDArray[np.uint8]:
    return resize_and_crop(decode(data), size, interpolation)


def _refuse(error: OSError) -> NoReturn:
    raise VitloraError(f"cannot read {error.filename}: {error.strerror}")


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
            print(json.dumps({"image": item.name, "predictions": classes}))
        else:
            print(printable(f"{item.name}: " + ", ".join(f"{name} {share:.1%}" for name, share in found)))


def _print_bad(item: Loaded, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"image": item.name, "error": item.reason}))
    else:
        print(printable(f"{item.name}: {item.reason}"), file=sys.stderr)
