"""Answer over HTTP with exported models or several adapters on one base: a page for people, routes for programs.

Listens on this machine only, unless --host says otherwise. SIGTERM finishes the requests under way. Exit code 0: it
was told to end. 1: nothing could be served. 130: Ctrl-C.
"""

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vitlora.cli.exported import note_if_old, refuse_missing
from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.core.text import is_address, printable
from vitlora.images.formats import MAX_PIXELS

if TYPE_CHECKING:
    from vitlora.serve.limits import Limits
    from vitlora.serve.models import Served

EXPORT = "models/export"
DECODERS = 8  # at most where none are asked for; each takes some 50 MB, and up to 600 for a moment
PACKAGES = {
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
KEY = "VITLORA_API_KEY"
HERE = ("127.0.0.1", "localhost", "::1")
MB = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    add = parser.add_argument
    add("models", nargs="*", metavar="[NAME=]FOLDER", help=f"exported folders, side by side by name ({EXPORT})")
    add("--base", type=Path, metavar="FOLDER", help="base model of the adapters, such as models/base")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="[NAME=]FOLDER",
        help="an adapter on --base, such as models/adapter; may be given several times",
    )
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1); 0.0.0.0 is every network")
    add("--port", type=int, default=8000, help="port (8000); 0 takes a free one")
    add(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"a key a line; requests must bring one of them. The variable {KEY} holds one too",
    )
    add("--allow-private", action="store_true", help="read addresses inside your own network too, such as 192.168.0.9")
    add(
        "--decoders",
        type=int,
        metavar="N",
        help=f"processes that decode pictures, 1 to 64 (by itself one for two cores, and not more than {DECODERS})",
    )
    add("--max-mb", type=float, default=20, metavar="N", help="megabytes of a request (20)")
    add("--max-pictures", type=int, default=32, metavar="N", help="pictures of a request (32)")
    add("--max-pixels", type=int, default=MAX_PIXELS, metavar="N", help=f"pixels of a picture ({MAX_PIXELS:,})")
    add("--max-read-seconds", type=float, default=10, metavar="N", help="for a request to arrive (10)")
    add("--max-seconds", type=float, default=30, metavar="N", help="for the answer, from then on (30)")
    add("--max-requests", type=int, default=64, metavar="N", help="requests at work or waiting (64)")
    add("--quiet", action="store_true", help="no line for each request on standard error")


def act(args: argparse.Namespace) -> None:
    """Serve until told to end.

    Raises:
        VitloraError: A package is missing, a value is out of range, a model can't be loaded, or the port is taken.
    """
    refuse_uninstalled()
    from vitlora.serve.app import application
    from vitlora.serve.listen import listen, listener
    from vitlora.serve.service import Service

    limits, decoders, keys = _limits(args), _decoders(args.decoders), _keys(args.api_key_file)
    models = _models(args, limits)
    with listener(args.host, args.port) as line, Service(models, limits, decoders, args.allow_private, keys) as service:
        host, port = line.getsockname()[:2]
        if args.host not in HERE and not keys:
            print(f"note: whoever reaches {host} may ask; --api-key-file or {KEY} sets a key", file=sys.stderr)
        shown = f"[{host}]" if ":" in host else host
        print(f"{', '.join(models)}: http://{shown}:{port} (Ctrl-C ends it)", flush=True)
        listen(application(service), line, limits, not args.quiet)


def refuse_uninstalled() -> None:
    """Refuse to begin without the packages of the extra.

    Raises:
        VitloraError: One is missing.
    """
    missing = [package for name, package in PACKAGES.items() if not find_spec(name)]
    if missing:
        raise VitloraError(
            f"`vitlora serve` needs {', '.join(missing)}, not installed here; the rule: the wheel with its extra, "
            '`pip install "vitlora[serve]"`; in a clone, `make setup`'
        )


def _limits(args: argparse.Namespace) -> "Limits":
    from vitlora.serve.limits import Limits

    ranges = {"max_mb": (0.001, 2_000), "max_pictures": (1, 10_000), "max_pixels": (4, MAX_PIXELS)}
    ranges |= {"max_read_seconds": (0.1, 3_600), "max_seconds": (0.1, 3_600), "max_requests": (1, 10_000)}
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if not least <= value <= most:
            raise VitloraError(f"--{name.replace('_', '-')}: got {value:g}; the rule: {least:g} to {most:,}")
    return Limits(
        int(args.max_mb * MB),
        args.max_pictures,
        args.max_pixels,
        args.max_read_seconds,
        args.max_seconds,
        args.max_requests,
    )


def _decoders(given: int | None) -> int:
    if given is not None and not 1 <= given <= 64:
        raise VitloraError(f"--decoders: got {given}; the rule: 1 to 64")
    # More would want the model's own cores: the same rate, and later answers (benchmarks/results/serve.json).
    return given or min(DECODERS, max(1, cores() // 2))


def _keys(path: Path | None) -> list[str]:
    """Return the keys; none where nobody set one."""
    found, place = [], KEY
    if path:
        place = f"--api-key-file {path}"
        try:
            found = path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise VitloraError(
                f"{place}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'}); the rule: a file with a "
                "key a line, as `openssl rand -hex 32` makes one"
            ) from None
    elif KEY in os.environ:
        found = [os.environ[KEY]]
    else:
        return []
    keys = [line.strip() for line in found if line.strip()]
    odd = [key for key in keys if not key.isascii() or not key.isprintable() or " " in key]
    if not keys or odd:
        raise VitloraError(
            f"{place}: got {'a key with spaces or letters outside ASCII' if odd else 'no key'}; the rule: one key a "
            "line, of letters, digits and marks, as `openssl rand -hex 32` makes one"
        )
    return keys


def _models(args: argparse.Namespace, limits: "Limits") -> "dict[str, Served]":
    from vitlora.serve.models import exported, named, refuse_double

    if bool(args.base) != bool(args.adapter):
        raise VitloraError(
            "--base and --adapter: got one of them; the rule: both, as in --base models/base --adapter models/adapter"
        )
    for each in args.models:
        _refuse_address(each)
    if not args.models and not args.adapter and not Path(EXPORT, "model.onnx").is_file():
        raise VitloraError(
            f"{EXPORT} holds no model.onnx; `dvc repro` makes it in a clone, or name the folder: `vitlora serve FOLDER`"
        )
    given = [named(each) for each in args.models or ([] if args.adapter else [EXPORT])]
    adapters = [named(each) for each in args.adapter]
    refuse_double([name for name, _ in [*given, *adapters]])
    for _, folder in given:
        refuse_missing(folder)
    models = [exported(name, folder, limits.pixels) for name, folder in given]
    for _, folder in given:
        note_if_old(folder)
    if adapters:
        from vitlora.serve.adapters import on_one_base

        models += on_one_base(args.base, adapters, limits.pixels)
    return {model.name: model for model in models}


def _refuse_address(given: str) -> None:
    """Refuse `hf://...` and other addresses, whose slashes a path would lose."""
    if not is_address(given):
        return
    address = given.split("=", 1)[-1]
    owner, _, rest = address.removeprefix("hf://").partition("/")
    name, _, commit = rest.partition("@")
    cure = "download it first"
    if address.startswith("hf://") and owner and name:
        cure = f"`hf download {owner}/{name}{f' --revision {commit}' if commit else ''} --local-dir {name}` gets one"
    raise VitloraError(printable(f"{given}: got an address; the rule: a folder of this machine; {cure}"))
