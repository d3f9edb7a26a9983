"""Tell whether one run is better than another, with its uncertainty, picture by picture.

    vitlora compare                      the last commit against the workspace
    vitlora compare A                    A against the workspace
    vitlora compare A B                  commits, branches, tags, experiments, `workspace` or folders
    vitlora compare A1,A2,A3 B1,B2,B3    two recipes, several seeds of each

docs/compare.md says what each verdict means, and what is not tested.
"""

import argparse
import dataclasses
import json

from vitlora.core.errors import VitloraError

MARGIN, SHOWN = 0.5, 10


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="all of it, for machines")
    form.add_argument("--md", action="store_true", help="Markdown, for a pull request")


def act(args: argparse.Namespace) -> None:
    """Compare and print.

    Raises:
        VitloraError: A run is unknown, damaged, without results, or shares too few pictures with the other.
    """
    if args.margin < 0 or args.show < 0:
        raise VitloraError(f"--margin {args.margin:g}, --show {args.show}; the rule: not below 0")
    sides = sides_of(args.runs)
    from vitlora.compare.runs import load_run
    from vitlora.compare.two import compare_two

    if any(len(side) > 1 for side in sides):
        _compare_recipes(args, sides)
        return
    found = compare_two(load_run(sides[0][0]), load_run(sides[1][0]), args.margin / 100)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    elif args.md:
        from vitlora.compare.markdown import report

        print(report(found), end="")
    else:
        from vitlora.compare.screen import show

        show(found, args.show)


def _compare_recipes(args: argparse.Namespace, sides: list[list[str]]) -> None:
    from vitlora.compare import recipes
    from vitlora.compare.runs import load_run

    first, second = ([load_run(name) for name in side] for side in sides)
    found = recipes.compare_recipes(first, second, args.margin / 100)
    if args.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
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
