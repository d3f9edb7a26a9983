"""Tell whether one run is better than another, with its uncertainty, picture by picture.

    vitlora compare                      the last commit against the workspace
    vitlora compare A                    A against the workspace
    vitlora compare A B                  commits, branches, tags, experiments, `workspace` or folders
    vitlora compare A1,A2,A3 B1,B2,B3    two recipes, several seeds of each
    vitlora compare --all                every commit and experiment, the best first
    vitlora compare --all --by lora.r    the same by a parameter, seeds summarised

docs/compare.md says what each verdict means, and what is not tested.
"""

import argparse
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError

MARGIN, SHOWN, LISTED = 0.5, 10, 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("runs", nargs="*", metavar="RUN", help="HEAD and workspace, where none is named")
    parser.add_argument(
        "--margin",
        type=float,
        default=MARGIN,
        metavar="POINTS",
        help=f"a difference below it counts as none ({MARGIN})",
    )
    parser.add_argument(
        "--show", type=int, default=SHOWN, metavar="N", help=f"at most so many changed pictures of each kind ({SHOWN})"
    )
    parser.add_argument("--all", action="store_true", help="list every commit and experiment that has results")
    parser.add_argument("--metric", default="accuracy", help="with --all: the score to sort by (accuracy)")
    parser.add_argument(
        "--by", metavar="KEY", help="with --all: one line a value, such as lora.r or lora.r,lora.method"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="with --all --by KEY: a picture, .png or .svg")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all of it, for machines")
    form.add_argument("--md", action="store_true", help="Markdown, for a pull request")


def act(args: argparse.Namespace) -> None:
    """Compare and print.

    Raises:
        VitloraError: A run is unknown, damaged, without results, or shares too few pictures with the other.
    """
    if not 0 <= args.margin <= 100:
        raise VitloraError(f"--margin: got {args.margin:g}; the rule: points of accuracy, 0 to 100")
    if args.show < 0:
        raise VitloraError(f"--show: got {args.show}; the rule: not below 0")
    if args.all:
        _list_all(args)
        return
    if args.by or args.plot or args.metric != "accuracy":
        raise VitloraError("--by, --plot and --metric belong to --all; the rule: `vitlora compare --all --by lora.r`")
    sides = sides_of(args.runs)
    from vitlora.compare.runs import load_run
    from vitlora.compare.two import compare_two
    from vitlora.compare.wording import as_json

    if any(len(side) > 1 for side in sides):
        _compare_recipes(args, sides)
        return
    found = compare_two(load_run(sides[0][0]), load_run(sides[1][0]), args.margin / 100)
    if args.json:
        print(as_json(found))
    elif args.md:
        from vitlora.compare.markdown import report

        print(report(found), end="")
    else:
        from vitlora.compare.screen import show

        show(found, args.show)


def _compare_recipes(args: argparse.Namespace, sides: list[list[str]]) -> None:
    from vitlora.compare import recipes
    from vitlora.compare.runs import load_run
    from vitlora.compare.wording import as_json

    first, second = ([load_run(name) for name in side] for side in sides)
    found = recipes.compare_recipes(first, second, args.margin / 100)
    if args.json:
        print(as_json(found))
    elif args.md:
        print(recipes.report(found), end="")
    else:
        recipes.show(found)


def sides_of(runs: list[str]) -> list[list[str]]:
    """Return the runs of both sides.

    Raises:
        VitloraError: More than two sides are named, or an empty name.
    """
    if len(runs) > 2:
        raise VitloraError(
            f"got {len(runs)} runs: {' '.join(runs)}; the rule: at most two. Several seeds of one recipe are joined by "
            f"commas, without spaces: {','.join(runs[:-1])} {runs[-1]}"
        )
    named = runs if len(runs) == 2 else [*(runs or ["HEAD"]), "workspace"]
    sides = [side.split(",") for side in named]
    if not all(all(side) for side in sides):
        raise VitloraError(f"got {' '.join(runs)!r}; the rule: names joined by single commas")
    return sides


def _list_all(args: argparse.Namespace) -> None:
    if args.runs:
        raise VitloraError(f"got --all and {' '.join(args.runs)}; the rule: --all lists all runs there are")
    keys = args.by.split(",") if args.by else []
    if args.plot and len(keys) != 1:
        raise VitloraError("--plot: the rule: one parameter to draw against, such as --by lora.r")
    from vitlora.compare import leaderboard
    from vitlora.compare.wording import as_json

    entries = leaderboard.collect(args.metric)
    groups = leaderboard.group(entries, keys) if keys else []
    if args.plot:
        from vitlora.compare.sweep import draw_sweep

        draw_sweep(entries, groups, keys[0], args.metric, args.plot)
    if args.json:
        print(as_json({"runs": entries, "groups": groups}))
        return
    best = min if leaderboard.lower_is_better(args.metric) else max
    head = leaderboard.group_head(keys) if keys else leaderboard.HEAD
    limit = args.show if args.show != SHOWN else LISTED
    rows = list(leaderboard.group_rows(groups, best) if keys else leaderboard.rows(entries, limit))
    _print_table(args.md, leaderboard.title(entries, args.metric), head, rows, list(leaderboard.notes(entries, keys)))


def _print_table(markdown: bool, title: str, head: Any, rows: Any, notes: list[str]) -> None:
    if markdown:
        from vitlora.compare.markdown import code, plain, table

        cells = ([code(cell) if cell else "" for cell in row] for row in rows)
        print("\n".join([f"### {title}", "", *table(head, cells), *(f"* {plain(note)}" for note in notes)]))
        return
    from vitlora.compare.screen import grid, make_console, say

    console = make_console()
    grid(console, [(heading, "left") for heading in head], rows, title)
    for note in notes:
        say(console, f"note: {note}", "dim")
