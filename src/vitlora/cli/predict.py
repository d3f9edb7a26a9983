"""Classify pictures (files, folders, patterns or http(s) addresses) with the exported model.

Exit code 0: all were classified. 1: a picture could not be read, the others were classified; or nothing could be done,
as without a model. 2: the command line has a mistake. 130: Ctrl-C. 141: the reader of the output left.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TextIO

from vitlora.cli.exported import note_if_old, refuse_missing
from vitlora.cli.places import refuse_unwritable
from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, printable, shown_seconds
from vitlora.predict.classifier import CHUNK, Classifier, Prediction
from vitlora.predict.exported import FILES as PRECISIONS
from vitlora.predict.hub import located
from vitlora.predict.inputs import STDIN, listed, names
from vitlora.predict.pictures import Unreadable
from vitlora.predict.shown import Wanted, as_cells, as_json, as_table, as_text, csv_header, csv_line
from vitlora.safety.whole import written_whole

FORMATS = ("text", "table", "csv", "jsonl")
PROCESSES = 8  # at most; each takes some 50 MB
MANY = 64  # pictures from which on progress is shown
STEP_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGE",
        help="file, folder (all pictures below it), quoted pattern, http(s) address; - is a picture on standard input",
    )
    parser.add_argument(
        "--from-file", type=Path, metavar="LIST", help="a file that names such inputs, one a line; - is standard input"
    )
    parser.add_argument(
        "--allow-private", action="store_true", help="read addresses inside your own network too, such as 192.168.0.9"
    )
    parser.add_argument(
        "--model", default="models/export", help="exported folder (models/export), or hf://owner/name@commit of the Hub"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="which of its ONNX files (fp32)")
    parser.add_argument("--top", type=int, default=3, help="classes to show for each picture (3)")
    parser.add_argument(
        "--threshold", type=float, metavar="P", help='below this confidence, 0 to 1, the answer is "don\'t know"'
    )
    parser.add_argument(
        "--set",
        action="store_true",
        help="show the prediction set too, which holds the true class as often as promised",
    )
    parser.add_argument("--format", choices=FORMATS, help="a line each (text), an aligned table, CSV, JSON Lines")
    parser.add_argument("--json", action="store_true", help="the same as --format jsonl")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write there; the file appears when all is done")


def act(args: argparse.Namespace) -> None:
    """Print the likeliest classes of every picture; a bad picture is named and the others go on.

    Raises:
        VitloraError: A mistake in the options, no exported model, or at least one picture could not be read.
    """
    wanted, form = _checked(args)
    if args.out is not None:
        refuse_unwritable("--out", args.out)
    given = [*args.images, *(listed(args.from_file) if args.from_file else [])]
    found = list(names(given))
    if not found:
        raise VitloraError(f"{printable(', '.join(given))}: no picture there; the rule: pictures, or folders of them")
    folder = located(args.model, args.precision)
    if folder == Path(args.model):
        refuse_missing(folder)
    workers = min(PROCESSES, cores(), math.ceil(len(found) / CHUNK))
    own = {"workers": workers, "allow_private": args.allow_private, "precision": args.precision}
    with Classifier(folder, **own) as model:
        note_if_old(folder)
        if args.set and model.threshold is None:
            raise VitloraError(
                f"--set: {args.model}/vitlora.json keeps no threshold of prediction sets; leave --set out, or "
                "`dvc repro` makes a model that keeps one"
            )
        with _destination(args.out) as out:
            answers = model.each(_told(found, args.out is not None or form == "table"))
            failed = _write(answers, wanted, form, out)
    if failed:
        raise VitloraError(f"{counted(failed, 'picture')} could not be read; named above")


def _checked(args: argparse.Namespace) -> tuple[Wanted, str]:
    if args.top < 1:
        raise VitloraError(f"--top: got {args.top}; the rule: at least 1")
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise VitloraError(f"--threshold: got {args.threshold:g}; the rule: 0 to 1, such as 0.8")
    if args.json and args.format not in (None, "jsonl"):
        raise VitloraError(f"--json and --format: got {args.format}; the rule: one of the two")
    if not args.images and not args.from_file:
        raise VitloraError(
            "no IMAGE; the rule: a file, folder, pattern or address, - for standard input, or --from-file"
        )
    asked = args.images.count(STDIN) + (str(args.from_file) == STDIN)
    if asked and sys.stdin is None:
        raise VitloraError("-: standard input is closed; the rule: one picture, or one list, as after `curl ... |`")
    if asked > 1:
        raise VitloraError("-: standard input is named twice; the rule: it is one picture, or one list")
    return Wanted(args.top, args.threshold, args.set), "jsonl" if args.json else args.format or "text"


def _write(answers: Iterable[Prediction | Unreadable], wanted: Wanted, form: str, out: TextIO) -> int:
    """Write every answer and return how many pictures could not be read."""
    failed, kept = 0, []
    if form == "csv":
        print(csv_line(csv_header(wanted)), file=out)
    for answer in answers:
        is_bad = isinstance(answer, Unreadable)
        failed += is_bad
        if isinstance(answer, Unreadable) and (form in ("text", "table") or out is not sys.stdout):
            print(printable(f"{answer.name}: {answer.reason}"), file=sys.stderr)
        if form == "jsonl":
            print(as_json(answer, wanted), file=out)
        elif form == "csv":
            line = csv_line(as_cells(answer, wanted))
            print(printable(line) if out.isatty() else line, file=out)
        elif isinstance(answer, Prediction):
            if form == "table":
                kept.append(answer)
            else:
                print(as_text(answer, wanted), file=out)
    if kept:
        print("\n".join(as_table(kept, wanted)), file=out)
    return failed


@contextmanager
def _destination(path: Path | None) -> Iterator[TextIO]:
    """Yield where to write: standard output, or a file beside the one named, which takes its place when it is whole."""
    if path is None:
        yield sys.stdout
        return
    try:
        with (
            written_whole(path) as aside,
            aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise VitloraError(f"--out: cannot write {path}: {error.strerror}") from None


def _told(found: Sequence[str], is_quiet: bool) -> Iterator[str]:
    """Yield the names, and tell on a terminal how far it is, unless the answers that run by tell it."""
    is_told = len(found) >= MANY and sys.stderr.isatty() and (is_quiet or not sys.stdout.isatty())
    begun = shown = monotonic()
    for number, name in enumerate(found):
        yield name
        if is_told and monotonic() > shown + STEP_S:
            shown = monotonic()
            left = (shown - begun) / (number + 1) * (len(found) - number - 1)
            text = f"{number + 1:,} of {counted(len(found), 'picture')}, {shown_seconds(left)} left"
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
    if is_told:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
