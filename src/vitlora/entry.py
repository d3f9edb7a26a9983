"""What the five stage scripts share: arguments, checked parameters, and one-line errors."""

import argparse
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vitlora.errors import VitloraError
from vitlora.params import Section, load_params, read_document
from vitlora.text import printable

BASE = Path("models/base")


def stage_arguments(
    stage: type[Section], description: str | None, paths: Sequence[str]
) -> tuple[Section, dict[str, Path]]:
    """Parse a stage's command line and check its parameters before anything heavy is imported.

    The whole file is checked, other stages' sections too: a typing error in ``export`` should not show after hours of
    training. ``vitlora.check`` is loaded by name because it can only refuse, never change an output, so the stages'
    cached results must not depend on it.

    Args:
        stage: Class whose fields are the sections to read.
        description: Text for ``--help``.
        paths: Names of the required path options, without dashes.

    Returns:
        The stage's parameters, and its paths by option name.

    Raises:
        VitloraError: params.yaml holds a mistake.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name in paths:
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = vars(parser.parse_args())
    path = given.pop("params")
    document = read_document(path)
    # The stage that fetches the base model may find the one of an earlier choice.
    base = None if "model" in stage.model_fields else BASE
    importlib.import_module("vitlora.check").check_document(document, path, base)
    return load_params(stage, document, path), given


def run(main: Callable[[], None]) -> None:
    """Run ``main``; show a ``VitloraError`` without a traceback and exit 1."""
    _ensure_utf8()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    try:
        main()
    except VitloraError as error:
        for line in str(error).split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _ensure_utf8() -> None:
    """Begin again in UTF-8 where the locale says otherwise: the same files would have other names, hence other bytes.

    The process stays the same one, so whoever watches it notices nothing.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
