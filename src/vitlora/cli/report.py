"""Write a report of a run, or of two side by side: one HTML file that needs no network."""

import argparse
import sys
from pathlib import Path

from vitlora.cli.places import refuse_unwritable
from vitlora.core.errors import VitloraError
from vitlora.core.text import shown_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="commit, branch, experiment, folder or `workspace` (the default); two are shown side by side",
    )
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the file (report.html)")
    parser.add_argument(
        "--quick", action="store_true", help="leave out what needs the model: heat maps and suspect labels"
    )
    parser.add_argument(
        "--labels", action="store_true", help="look for suspect labels also among more than 20,000 pictures"
    )
    parser.add_argument(
        "--margin", type=float, default=0.5, help="points of accuracy that count as no difference (0.5)"
    )


def act(args: argparse.Namespace) -> None:
    """Build the report and say where it is.

    Raises:
        VitloraError: More than two runs are named, or one has no results.
    """
    if len(args.runs) > 2:
        raise VitloraError(
            f"got {len(args.runs)} runs; the rule: one or two. `vitlora compare A1,A2 B1,B2` takes more, and "
            "`vitlora compare --all` all"
        )
    if not 0 <= args.margin <= 100:
        raise VitloraError(f"--margin: got {args.margin:g}; the rule: points of accuracy, 0 to 100")
    refuse_unwritable("--out", args.out)
    from vitlora.report.build import build  # Jinja2, SciPy's clusters

    build(args.runs or ["workspace"], args.out, args.margin / 100, args.quick, _say, args.labels)
    print(f"{args.out}, {shown_bytes(args.out.stat().st_size)}: open it in a browser")


def _say(line: str) -> None:
    print(line, file=sys.stderr)
