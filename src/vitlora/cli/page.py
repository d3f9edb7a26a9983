"""Write one HTML file with the model in it: it classifies pictures in a browser, on a phone too, without a network."""

import argparse
import sys
from pathlib import Path

from vitlora.cli.exported import note_if_old, refuse_missing
from vitlora.cli.places import refuse_unwritable
from vitlora.core.errors import VitloraError
from vitlora.core.text import counted, shown_bytes

EXPORTED, PREPARED = Path("models/export"), Path("data/prepared")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--model", type=Path, default=EXPORTED, help="exported folder (models/export)")
    parser.add_argument("--out", type=Path, default=Path("page.html"), help="the file (page.html)")
    parser.add_argument(
        "--examples",
        type=int,
        default=10,
        metavar="N",
        help="test pictures to put in (10); 0 where nobody may see them",
    )
    parser.add_argument(
        "--runtime", type=Path, metavar="FILE", help="the packed npm package of the runtime, fetched by other means"
    )


def act(args: argparse.Namespace) -> None:
    """Build the page and say where it is.

    Raises:
        VitloraError: There is no exported model, or the runtime can't be had.
    """
    if args.examples < 0:
        raise VitloraError(f"--examples: got {args.examples}; the rule: 0 or more")
    refuse_unwritable("--out", args.out)
    refuse_missing(args.model)
    note_if_old(args.model)
    from vitlora.page.build import build  # NumPy, Pillow

    own = PREPARED if args.model.resolve() == EXPORTED.resolve() else None
    shown = build(args.model, args.out, own, args.examples, args.runtime, _say)
    if args.examples and not shown:
        place = f"{PREPARED} holds none of this model" if own else f"they are of {EXPORTED} only"
        _say(f"note: no test pictures are put in: {place}")
    inside = f", with {counted(shown, 'test picture')} in it" if shown else ""
    print(f"{args.out}, {shown_bytes(args.out.stat().st_size)}{inside}: open it in a browser, or send it to a phone")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
