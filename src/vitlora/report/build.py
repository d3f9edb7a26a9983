"""Build the report of one run, or of two: gather, choose the pictures, ask the model what it is asked for, write."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import softmax

from vitlora.compare.revisions import read_commit
from vitlora.compare.runs import LOCK, WORKSPACE, Run, load_run, parse_yaml
from vitlora.compare.two import Comparison, compare_two
from vitlora.core.errors import VitloraError
from vitlora.core.files import write_text
from vitlora.core.params import validate
from vitlora.core.text import counted
from vitlora.report.contents import Contents, Mistake, read_contents
from vitlora.report.page import render
from vitlora.report.pictures import PREPARED, Pictures, heat_address
from vitlora.safety.current import is_recorded
from vitlora.safety.whole import written_whole
from vitlora.train.params import Augment

ADAPTER = Path("models/adapter")
SHOWN = 48  # mistakes, and changes of each kind
CLASSES = 120  # whose samples are shown
EACH = 3  # pictures of a class
ENDS = 6  # largest and smallest pictures
MOST = 20_000  # pictures whose labels are looked at unasked
NEEDED = ("data/prepared/train", "data/prepared/test", "data/prepared/labels.json", "models/base")


class Shown(NamedTuple):
    """A mistake with its picture and its heat map, as addresses that hold them."""

    mistake: Mistake
    picture: str | None
    heat: str | None


def build(
    names: Sequence[str], out: Path, margin: float, quick: bool, say: Callable[[str], None], labels: bool = False
) -> None:
    """Write the report of one run, or of two.

    Args:
        names: Of the runs, as ``load_run`` takes them; the older first.
        out: The HTML file.
        margin: Difference of accuracy that counts as none, as a share.
        quick: Leave out what needs the model: heat maps, suspects of the labels.
        say: Tells what takes long.
        labels: Look for suspect labels also where there are more than ``MOST`` pictures.

    Raises:
        VitloraError: A run has no results, or two share too few pictures.
    """
    runs = [load_run(name) for name in names]
    comparison = compare_two(runs[0], runs[1], margin) if len(runs) == 2 else None
    contents = [read_contents(run, Path("." if run.name == WORKSPACE else run.name)) for run in runs]
    pictures = Pictures()
    heats, grid, no_heat = _look(contents, pictures, quick, say)
    shown = {
        run.run.label: [_show(mistake, pictures, heats.get(run.run.label, {})) for mistake in run.mistakes[:SHOWN]]
        for run in contents
    }
    newest = contents[-1]
    lists: dict[str, Any] = {
        "mistakes": shown,
        "confused": {run.run.label: list(_confused(run, pictures)) for run in contents},
        "changed": _changed(comparison, pictures),
        "alike": list(_alike(newest, pictures)),
        "samples": [],
        "largest": [],
        "smallest": [],
    }
    if pictures.train is not None and is_here(newest.run, "data/prepared/train"):
        lists |= {"samples": list(_samples(newest, pictures)), **_ends(pictures)}
    suspects, no_suspects = _doubt(newest, quick, labels, say)
    lists["suspects"] = {each.path: pictures.show(each.path) for each in _first_of_each_split(suspects or [])}
    findings = {"grid": grid, "no_heat": no_heat, "suspects": suspects, "no_suspects": no_suspects}
    with written_whole(out) as aside:
        write_text(aside, render(contents, comparison, lists, findings))


def is_here(run: Run, path: str) -> bool:
    """Whether an output in this folder is the one that a run made."""
    if not Path(path).exists():
        return False
    if run.name == WORKSPACE:
        return True
    own = read_commit(run.commit, [LOCK]) if run.commit else _read(Path(run.name))
    recorded = [_recorded(parse_yaml(files, LOCK, run.name), path) for files in (own, _read(Path(".")))]
    return recorded[0] is not None and recorded[0] == recorded[1]


def _read(folder: Path) -> dict[str, bytes]:
    return {LOCK: (folder / LOCK).read_bytes()} if (folder / LOCK).is_file() else {}


def _recorded(lock: Mapping[str, Any], path: str) -> str | None:
    outs = (out for stage in lock.get("stages", {}).values() for out in stage.get("outs", ()))
    return next((out.get("md5") for out in outs if out["path"] == path), None)


def _look(
    contents: Sequence[Contents], pictures: Pictures, quick: bool, say: Callable[[str], None]
) -> tuple[dict[str, dict[int, str]], str, str]:
    """Return heat maps of the mistakes by run and row, how many cells they have, and why there are none."""
    if quick:
        return {}, "", "Heat maps were left out (--quick)."
    for run in contents:
        if not (is_here(run.run, "models/adapter") and is_here(run.run, "models/base")):
            continue
        if not is_recorded(ADAPTER):  # as after a checkout of another commit that DVC has not followed
            return {}, "", f"No heat maps: {ADAPTER} is not the one that {LOCK} records; `dvc checkout` brings it."
        found = [(each.row, pictures.square(each.path, each.digest)) for each in run.mistakes[:SHOWN]]
        squares = [(row, square) for row, square in found if square is not None]
        if squares:
            say(f"heat maps of {counted(len(squares), 'picture')} ...")
            from vitlora.model.adapters import load_adapter
            from vitlora.model.base import device_of_choice
            from vitlora.report.looked_at import looked_at  # torch takes seconds

            model, _, normalisation = load_adapter(Path("models/base"), ADAPTER)
            stack = np.stack([square for _, square in squares])
            try:
                heats = looked_at(model.to(device_of_choice()), stack, normalisation)
            except VitloraError as error:  # an architecture without a grid
                return {}, "", f"No heat maps: {error}."
            maps = {row: heat_address(heat) for (row, _), heat in zip(squares, heats, strict=True)}
            return {run.run.label: maps}, " by ".join(map(str, heats.shape[1:])), ""
        return {}, "", ""
    return {}, "", "No heat maps: the trained adapter of this run is not here; `dvc checkout` of its commit brings it."


def _doubt(run: Contents, quick: bool, labels: bool, say: Callable[[str], None]) -> tuple[list[Any] | None, str]:
    """Return the pictures whose label is suspect, or None and why it is not known."""
    if quick:
        return None, "Suspect labels were left out (--quick)."
    if not all(is_here(run.run, path) for path in NEEDED):
        return None, "Not known: the data and the base model of this run are not here; `dvc checkout` brings them."
    pictures = sum(run.data.get(split, 0) for split in ("train", "test"))
    if pictures > MOST and not labels:
        return None, f"Not looked for: {pictures:,} pictures may take an hour; `vitlora report --labels` does it."
    from vitlora.report.suspects import find_suspects  # torch takes seconds

    say("labels: what the base model thinks of every picture; kept for the next report, Ctrl-C leaves it out ...")
    try:
        return find_suspects(Path("models/base"), PREPARED), ""
    except KeyboardInterrupt:
        return None, "The search for suspect labels was interrupted."
    except VitloraError as error:
        return None, f"Not known: {error}."


def _first_of_each_split(suspects: Sequence[Any]) -> list[Any]:
    return [each for split in ("train", "test") for each in [one for one in suspects if one.split == split][:SHOWN]]


def _show(mistake: Mistake, pictures: Pictures, heats: Mapping[int, str]) -> Shown:
    return Shown(mistake, pictures.show(mistake.path, mistake.digest), heats.get(mistake.row))


def _confused(run: Contents, pictures: Pictures) -> Iterable[tuple[Any, str | None, str | None]]:
    answers, logits = run.run.answers, run.run.logits
    digests = answers.digests or [""] * len(answers.paths)
    sure = np.ones(len(answers.paths)) if logits is None else softmax(logits.values, axis=1).max(axis=1)
    right = [row for row, name in enumerate(answers.actual) if answers.predicted[row] == name]
    best: dict[str, int] = {}
    for row in sorted(right, key=lambda row: -sure[row]):
        best.setdefault(answers.actual[row], row)
    for pair in run.confused:
        rows = (pair.rows[0], best.get(pair.predicted))
        shown = [None if row is None else pictures.show(answers.paths[row], digests[row]) for row in rows]
        yield pair, shown[0], shown[1]


def _changed(comparison: Comparison | None, pictures: Pictures) -> dict[str, str | None]:
    if comparison is None:
        return {}
    changes = [*comparison.broken[:SHOWN], *comparison.fixed[:SHOWN]]
    return {change.path: pictures.show(change.path) for change in changes}


def _alike(run: Contents, pictures: Pictures) -> Iterable[tuple[str, str, str, list[str]]]:
    for pair in run.data.get("similar_pictures", [])[: 2 * ENDS]:
        first, second = (pictures.show(path) for path in pair["paths"])
        if first and second:
            where = " and ".join(
                f"{name} in {split}" for name, split in zip(pair["classes"], pair["splits"], strict=True)
            )
            yield first, second, f"{pair['similarity']:.0%} alike: {where}", pair["paths"]


def _samples(run: Contents, pictures: Pictures) -> Iterable[tuple[str, list[str], list[str]]]:
    """Yield some pictures of each class, as given and as the first epoch has them."""
    assert pictures.train is not None
    params = run.run.params
    wanted = {key.removeprefix("augment."): value for key, value in params.items() if key.startswith("augment.")}
    augment, _ = validate(Augment, wanted, "augment")
    if augment is None:  # a run of another version
        return
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(pictures.train.numbers("label")[:, 0].tolist()):
        if len(rows_of.setdefault(label, [])) < EACH:
            rows_of[label].append(row)
    for label in sorted(rows_of)[:CLASSES]:
        rows = rows_of[label]
        how = (params["train.seed"], params["image.size_px"], params["image.interpolation"])
        cut = pictures.show_crops(rows, augment, *how)
        yield run.class_names[label], [pictures.show_train(row) for row in rows], cut


def _ends(pictures: Pictures) -> dict[str, list[tuple[str, str, str]]]:
    """Return the largest and smallest training pictures, if there are such."""
    assert pictures.train is not None
    sizes = pictures.train.numbers("width", "height")
    area = sizes.prod(axis=1)
    if area.min() == area.max():
        return {}
    order = np.argsort(area, kind="stable").tolist()
    return {
        name: [_end(pictures, row, sizes[row]) for row in rows]
        for name, rows in (("smallest", order[:ENDS]), ("largest", order[: -ENDS - 1 : -1]))
    }


def _end(pictures: Pictures, row: int, size: Any) -> tuple[str, str, str]:
    assert pictures.train is not None
    return pictures.show_train(row), f"{size[0]:,} by {size[1]:,} px", pictures.train.about(row)["path"]
