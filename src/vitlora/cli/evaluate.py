"""Score the exported model on a labelled folder, or on the test pictures under other conditions (blur, noise, ...)."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vitlora.assess import folder, shifts
from vitlora.assess.summary import summarise
from vitlora.cli.exported import open_exported
from vitlora.cli.places import refuse_unwritable
from vitlora.core.errors import VitloraError
from vitlora.core.files import write_csv, write_json
from vitlora.core.text import counted, printable
from vitlora.storage.labels import Labels, read_labels
from vitlora.storage.manifest import problems
from vitlora.storage.squares import Squares, load_split

CONDITIONS = 1 + sum(len(shift.strengths) for shift in shifts.SHIFTS)
COLUMNS = (
    *("shift", "strength", "shown", "accuracy", "low", "high"),
    *("difference", "difference_low", "difference_high", "broken", "fixed"),
)
WIDTH = 38  # characters of a class or a condition
SHOWN = 20  # classes
MISTAKES = 8
TOP_K = 5
FOLDER_ONLY = ("map", "ignore_unknown", "adapter")
SHIFTS_ONLY = ("test", "images", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help="of class folders, read as download does"
    )
    parser.add_argument(
        "--shifts", action="store_true", help="score altered test pictures, of each kind three strengths"
    )
    parser.add_argument("--model", type=Path, default=Path("models/export"), help="exported folder (models/export)")
    parser.add_argument(
        "--adapter",
        type=Path,
        default=Path("models/adapter"),
        help="with FOLDER: the adapter that was exported, which knows its training pictures (models/adapter)",
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="THEIRS=OURS",
        help="with FOLDER: score a class of the folder as one of the model's; may be given again",
    )
    parser.add_argument(
        "--ignore-unknown", action="store_true", help="with FOLDER: leave out classes that the model does not know"
    )
    parser.add_argument(
        "--test",
        type=Path,
        default=Path("data/prepared/test"),
        help="with --shifts: stored squares (data/prepared/test)",
    )
    parser.add_argument(
        "--images", type=int, default=1000, metavar="N", help="with --shifts: at most N of them, evenly spaced (1000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="with --shifts: of the noise and the turns (0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the scores there too")
    parser.add_argument("--json", action="store_true", help="one JSON object, for machines")


def act(args: argparse.Namespace) -> None:
    """Print the scores of a folder, or how accuracy changes under each condition.

    Raises:
        VitloraError: There is no exported model, nothing that it can score, or a picture that could not be read.
    """
    if args.shifts == (args.folder is not None):
        got = "both" if args.shifts else "neither"
        raise VitloraError(
            f"FOLDER and --shifts: got {got}; the rule: a folder of class folders, or --shifts, which alters the "
            "stored test pictures"
        )
    plain = argparse.ArgumentParser()
    add_arguments(plain)
    others = SHIFTS_ONLY if args.folder else FOLDER_ONLY
    unused = [name for name in others if getattr(args, name) != plain.get_default(name)]
    if unused:
        option, other = "--" + unused[0].replace("_", "-"), "--shifts" if args.folder else "FOLDER"
        raise VitloraError(f"{option}: the rule: only with {other}")
    if args.out:
        refuse_unwritable("--out", args.out, folder=True)
    if args.images < 1:
        raise VitloraError(f"--images: got {args.images}; the rule: at least 1")
    if args.shifts:
        _act_shifts(args)
    else:
        _act_folder(args)


def _act_folder(args: argparse.Namespace) -> None:
    classifier, bundle = open_exported(args.model)
    known = Labels(bundle["class_names"], bundle["image_size"], bundle["interpolation"])
    found = folder.plan(args.folder, known.class_names, args.map, args.ignore_unknown)
    for note in found.notes:
        print(note, file=sys.stderr)
    with _bar(len(found.files)) as bar:
        answers = folder.answer(found, classifier, known, bar.update)
    for path, reason in answers.bad.items():
        print(printable(f"bad image: {path}: {reason}"), file=sys.stderr)
    met = folder.met_before(args.adapter, bundle, answers.squares.digests)
    scores = summarise(answers.logits, answers.squares, known.class_names, met)
    result = {"folder": str(args.folder), **scores, "ignored": found.ignored, "bad": answers.bad}
    print(json.dumps(result) if args.json else "\n".join(_folder_lines(result, len(known.class_names))))
    if args.out:
        folder.write(answers, known.class_names, bundle, min(TOP_K, len(known.class_names)), args.out)
        write_json(args.out / "folder.json", result)
    if answers.bad:
        raise VitloraError(
            f"{counted(len(answers.bad), 'picture')} could not be read, named above; the scores are of the others"
        )


def _folder_lines(result: dict[str, Any], classes: int) -> Iterator[str]:
    """Yield the scores for people."""
    rows, mistakes = result["classes"], result["mistakes"]
    pictures, where = counted(result["images"], "picture"), printable(result["folder"])
    yield f"{pictures} of {len(rows)} of the model's {classes} classes in {where}; brackets: 95 % intervals"
    means = f"macro F1 {result['macro_f1']:.4f}, balanced accuracy {result['balanced_accuracy']:.4f}"
    yield f"accuracy {_shown(result)}, {means}"
    if result["missing"]:
        yield f"no picture of {_some(result['missing'])}"
    if result["ignored"]:
        yield f"left out, since the model does not know them: {_some(list(result['ignored']))}"
    yield _met(result["met"])
    yield ""
    yield f"{'class, the worst first':<{WIDTH}}{'recall':>7}  {'':<18}{'pictures':>8}  most often taken for"
    for row in rows[:SHOWN]:
        interval = f"[{row['low']:.1%}, {row['high']:.1%}]"
        other = f"  {_cut(row['taken_for'], 20)} ({row['times']:,})" if row["taken_for"] is not None else ""
        yield f"{_cut(row['class'], WIDTH - 1):<{WIDTH}}{row['recall']:>7.1%}  {interval:<18}{row['images']:>8,}{other}"
    if len(rows) > SHOWN:
        yield f"... and {len(rows) - SHOWN:,} more, with higher recall; --out FOLDER writes all"
    if mistakes:
        yield ""
        yield "the mistakes that it was surest of:"
    for row in mistakes[:MISTAKES]:
        yield printable(
            f"  {row['path']}: taken for {row['predicted']} {row['confidence']:.1%} "
            f"({row['actual']} {row['confidence_in_actual']:.1%})"
        )


def _met(met: dict[str, Any] | None) -> str:
    if met is None:
        return "whether training has met these pictures is not known: no record of it beside this model (--adapter)"
    if not met["train"] + met["val"]:
        return "none of these pictures was used in training or in choosing its epoch"
    others = f"accuracy of the others {_shown(met['others'])}" if met["others"] else "there are no others"
    return f"{met['train']:,} of them were used in training, {met['val']:,} in choosing its epoch; {others}"


def _shown(scores: dict[str, Any]) -> str:
    return f"{scores['accuracy']:.1%} [{scores['low']:.1%}, {scores['high']:.1%}]"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return printable(", ".join(names[:5])) + more


def _cut(name: str, most: int) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _act_shifts(args: argparse.Namespace) -> None:
    classifier, bundle = open_exported(args.model)
    known = Labels(bundle["class_names"], bundle["image_size"], bundle["interpolation"])
    whole = _open_test(args.test, known, args.model)
    squares = whole.pick(shifts.evenly_spaced(len(whole.labels), args.images))
    images = len(squares.labels)
    with _bar(CONDITIONS * images) as bar:
        found = list(shifts.conditions(classifier, squares, args.seed, bar.update))
    rows = shifts.summarise(found, squares.labels)
    result = {"images": images, "of": len(whole.labels), "seed": args.seed, "conditions": rows}
    if args.out:
        write_json(args.out / "shifts.json", result)
        write_csv(args.out / "shifts.csv", COLUMNS, ([row[column] for column in COLUMNS] for row in rows))
    print(json.dumps(result) if args.json else "\n".join(_shift_lines(rows, images, len(whole.labels))))


def _bar(total: int) -> Any:
    return tqdm(total=total, unit="image", dynamic_ncols=True, disable=None, leave=False, file=sys.stderr)


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
        f"{'condition':<{WIDTH}}{'accuracy':>8}  {'change in points':<24}{'broken':>8}{'fixed':>7}",
        f"{'as they are':<{WIDTH}}{clean['accuracy']:>8.1%}  [{clean['low']:.1%}, {clean['high']:.1%}]",
    ]
    for row in others:
        change, low, high = (100 * row[name] for name in ("difference", "difference_low", "difference_high"))
        told = f"{change:+.1f} [{low:+.1f}, {high:+.1f}]"
        name = f"{row['shift']}, {row['shown']}"
        counts = f"{row['broken']:>8,}{row['fixed']:>7,}"
        lines.append(f"{name:<{WIDTH}}{row['accuracy']:>8.1%}  {told:<24}{counts}")
    return [*lines, "", _worst(others)]


def _worst(others: Sequence[dict[str, Any]]) -> str:
    """Say what hurts, and of how many changes the intervals don't tell that they are any."""
    row = min(others, key=lambda each: each["difference"])
    unsure = sum(each["difference_low"] <= 0 <= each["difference_high"] for each in others)
    worst = f"{row['shift']}, {row['shown']}, costs most ({100 * row['difference']:+.1f} points)"
    if row["difference"] >= 0:
        worst = "no condition costs accuracy"
    return f"{worst}; {unsure} of {len(others)} changes may be chance: their interval holds 0"
