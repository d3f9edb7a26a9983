"""What the five stage scripts share: arguments, checked parameters, and one-line errors."""

import argparse
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.text import printable

if TYPE_CHECKING:
    from vitlora.core.params import Section

BASE = Path("models/base")
Check = Callable[[dict[str, Any], Path, Path | None], None]


@dataclass(frozen=True)
class Places:
    """Where a stage reads and writes, by option name without dashes: what earlier stages made, what DVC caches, and
    small results that Git keeps.
    """

    inputs: dict[str, Path]
    outputs: dict[str, Path]
    records: dict[str, Path]


def stage_arguments(
    stage: "type[Section]",
    description: str | None,
    check: Check,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    records: Sequence[str] = (),
) -> "tuple[Section, Places]":
    """Parse a stage's command line and check its parameters before anything heavy is imported.

    The whole file is checked, other stages' sections too: a typing error in ``export`` should not show after hours of
    training.

    Args:
        stage: Class whose fields are the sections to read.
        description: Text for ``--help``.
        check: Refuses a document that holds a mistake in any section. It is handed in, since it knows all stages.
        inputs, outputs, records: Names of the required path options, without dashes; see ``Places``.

    Returns:
        The stage's parameters, and its paths.

    Raises:
        VitloraError: params.yaml holds a mistake.
    """
    # Here, so that a verb begins without what parameters need: `predict` runs where that is not installed.
    from vitlora.core.params import load_params, read_document

    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for name in (*inputs, *outputs, *records):
        parser.add_argument(f"--{name}", type=Path, required=True)
    given = vars(parser.parse_args())
    path = given.pop("params")
    document = read_document(path)
    # The stage that fetches the base model may find the one of an earlier choice.
    base = None if "model" in stage.model_fields else BASE
    check(document, path, base)
    groups = (
        {name: given[name] for name in (key.replace("-", "_") for key in keys)} for keys in (inputs, outputs, records)
    )
    return load_params(stage, document, path), Places(*groups)


@contextmanager
def importing() -> Iterator[None]:
    """Look for no garbage while modules are imported, and never among what they hold.

    torch, transformers and PEFT make a million objects that stay. Python looks through them again and again while they
    become more, and finds nothing: a sixth of the time that importing takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def run(main: Callable[[], None]) -> None:
    """Run ``main``; show a ``VitloraError`` without a traceback and exit 1."""
    _ensure_utf8()
    _spin_briefly()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be UTF-8
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see stages/__init__.py
            signal.signal(signal.SIGINT, signal.default_int_handler)
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # as by `| head`: whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python flushes when it ends
        sys.exit(128 + signal.SIGPIPE)
    except VitloraError as error:
        for line in str(error).split("\n"):
            print(f"error: {printable(line)}", file=sys.stderr)
        sys.exit(1)
    except StoppedError as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _spin_briefly() -> None:
    """Let PyTorch's threads on a CPU wait for each other by spinning for microseconds, not milliseconds, then sleep.

    Where another program wants a core too, a thread that spins keeps the one that it waits for from running: a step of
    training takes up to twenty times as long. 3,000 turns cost nothing where the cores are free.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "3000"  # GNU's OpenMP, which PyTorch's wheels bring, reads it when it is loaded


def _ensure_utf8() -> None:
    """Begin again in UTF-8 where the locale says otherwise: the same files would have other names, hence other bytes.

    The process stays the same one, so whoever watches it notices nothing.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command line
