"""Score the exported model under other conditions: blurred, noisy, darker, tilted test pictures and the like."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vitlora.assess.shifts import SHIFTS, conditions, evenly_spaced, summarise
from vitlora.cli.predict import open_exported
from vitlora.core.errors import VitloraError
from vitlora.core.files import write_csv, write_json
from vitlora.core.text import counted
from vitlora.storage.labels import Labels, read_labels
from vitlora.storage.manifest import problems
from vitlora.storage.squares import Squares, load_split

CONDITIONS = 1 + sum(len(shift.strengths) for shift in SHIFTS)
COLUMNS = (
    *("shift", "strength", "shown", "accuracy", "low", "high"),
    *("difference", "difference_low", "difference_high", "broken", "fixed"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "--shifts", action="store_true", help="score altered test pictures, of each kind three strengths"
    )
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="exported folder (models/export)")
    parser.add_argument(
        "--test", type=Path, default=Path("data/prepared/test"), help="stored test squares (data/prepared/test)"
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="with --shifts: at most N of them, evenly spaced (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="with --shifts: of the noise and the turns (0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the scores there too")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")


def act(args: argparse.Namespace) -> None:
    """Print how accuracy changes under each condition.

    Raises:
        VitloraError: There is no exported model, or no test picture of its classes and size.
    """
    if not args.shifts:
        raise VitloraError("nothing to score; the rule: --shifts")
    if args.images < 1:
        raise VitloraError(f"--images: got {args.images}; the rule: at least 1")
    classifier, bundle = open_exported(args.model)
    known = Labels(bundle["class_names"], bundle["image_size"], bundle["interpolation"])
    whole = _open_test(args.test, known, args.model)
    squares = whole.pick(evenly_spaced(len(whole.labels), args.images))
    images = len(squares.labels)
    with tqdm(total=CONDITIONS * images, unit="image", dynamic_ncols=True, disable=None, file=sys.stderr) as bar:
        rows = summarise(list(conditions(classifier, squares, args.seed, bar.update)), squares.labels)
    result = {"images": images, "of": len(whole.labels), "seed": args.seed, "conditions": rows}
    if args.out:
        write_json(args.out / "shifts.json", result)
        write_csv(args.out / "shifts.csv", COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    print(json.dumps(result) if args.json else "\n".join(_shift_lines(rows, images, len(whole.labels))))


def _open_test(test: Path, known: Labels, model: Path) -> Squares:
    """Return the stored test squares, of the classes and the size that the model knows."""
    cure = "`dvc repro` makes both anew"
    labels = test.parent / "labels.json"
    if not test.is_dir() or not labels.is_file():
        raise VitloraError(f"{test}: no stored pictures there with labels.json beside them; {cure}, or name --test")
    if damage := next(problems(test), None):
        raise VitloraError(f"{damage}; `vitlora recover && dvc repro` makes it anew")
    if read_labels(labels) != known:
        raise VitloraError(f"{model} was trained on other classes or image size than {labels} has; {cure}")
    squares = load_split(test)
    if not len(squares.labels):
        raise VitloraError(f"{test}: no image to score; raise split.test_fraction or give the data a test split")
    return squares


def _shift_lines(rows: Sequence[dict[str, Any]], images: int, of: int) -> list[str]:
    """Return the table for people; differences in points."""
    clean, *others = rows
    which = "all of them" if images == of else f"of {of:,}, evenly spaced"
    lines = [
        f"{counted(images, 'test picture')} ({which}), the same under every condition; brackets: 95 % intervals",
        "",
        f"{'condition':<38}{'accuracy':>8}  {'change in points':<24}{'broken':>8}{'fixed':>7}",
        f"{'as they are':<38}{clean['accuracy']:>8.1%}  [{clean['low']:.1%}, {clean['high']:.1%}]",
    ]
    for row in others:
        change, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
        told = f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"
        name = f"{row['shift']}, {row['shown']}"
        counts = f"{row['broken']:>8,}{row['fixed']:>7,}"
        lines.append(f"{name:<38}{row['accuracy']:>8.1%}  {told:<24}{counts}")
    return [*lines, "", _worst(others)]


def _worst(others: Sequence[dict[str, Any]]) -> str:
    """Say what hurts, and of how many changes the intervals don't tell that they are any."""
    row = min(others, key=lambda each: each["difference"])
    unsure = sum(each["difference_low"] <= 0 <= each["difference_high"] for each in others)
    worst = f"{row['shift']}, {row['shown']}, costs most ({100 * row['difference']:+.1f} points)"
    if row["difference"] >= 0:
        worst = "no condition costs accuracy"
    return f"{worst}; {unsure} of {len(others)} changes may be chance: their interval holds 0"
