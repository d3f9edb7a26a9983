"""Fail where a run is worse than another, for a pull request.

    vitlora gate --against main              the workspace against main
    vitlora gate --against main HEAD --tolerance 0.3 --class-floor 0.8 --class-floor cat=0.9

Exit codes: 0 not worse, or undecided where that passes; 1 the two can't be compared, or a value is out of range;
2 a mistake on the command line;
3 worse; 4 undecided, with --undecided fail; 5 a class is below its floor. docs/compare.md says what is tested.
"""

import argparse
import sys
import textwrap

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable

TOLERANCE, MARGIN = 0.0, 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("run", nargs="?", default="workspace", metavar="RUN", help="the new run (workspace)")
    parser.add_argument("--against", required=True, metavar="RUN", help="the run in place")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="POINTS", help="a drop of so much is accepted (0)"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help=f"not worse means that a drop of so much is ruled out ({MARGIN}, or the tolerance if that is more)",
    )
    parser.add_argument(
        "--class-floor",
        action="append",
        default=[],
        metavar="[NAME=]SHARE",
        help="share of a class's test pictures, or of every class's, that must be right; may stand several times",
    )
    parser.add_argument(
        "--undecided",
        choices=("pass", "fail"),
        default="pass",
        help="what becomes of a run that is neither shown to be worse nor shown not to be (pass)",
    )


def act(args: argparse.Namespace) -> None:
    """Say whether the new run is worse, and exit accordingly.

    Raises:
        VitloraError: The two can't be compared, or a floor names no class.
    """
    if not 0 <= args.tolerance < 100:
        raise VitloraError(f"--tolerance: got {args.tolerance:g}; the rule: points of accuracy, from 0 to below 100")
    if not 0 < args.margin <= 100:
        raise VitloraError(f"--margin: got {args.margin:g}; the rule: points of accuracy, above 0 and up to 100")
    from vitlora.compare import gate
    from vitlora.compare.runs import LOCK, SCORED, WORKSPACE, load_run
    from vitlora.compare.two import compare_two
    from vitlora.safety.current import changed_code
    from vitlora.safety.workspace import read_lock

    limits = {"tolerance": args.tolerance / 100, "margin": max(args.margin, args.tolerance) / 100}
    before, after = load_run(args.against), load_run(args.run)
    if after.notes:  # another run than the one that params.yaml asks for
        raise VitloraError("\n".join(after.notes))
    if args.run == WORKSPACE and not read_lock():
        raise VitloraError(
            f"{args.run}: no {LOCK} says what these results come from; `git checkout {LOCK}` brings it back"
        )
    if args.run == WORKSPACE and (code := changed_code(("download", *SCORED))):
        raise VitloraError(f"{args.run}: these results were made before {code} changed; `dvc repro` makes them anew")
    found = compare_two(before, after, limits["margin"])
    gate.require_same_pictures(found, before)
    verdict = gate.gate_verdict(found, **limits)
    floors = gate.check_floors(args.class_floor, after, before)
    for line in gate.lines(found, verdict, floors, limits, args.undecided):
        print(textwrap.fill(printable(line), 100, subsequent_indent="  ", break_on_hyphens=False))
    sys.exit(gate.exit_code(verdict, floors, args.undecided))
