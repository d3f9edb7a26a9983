"""A run's results, read from where they lie: the workspace, a commit, an experiment or another folder."""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from vitlora.compare.revisions import (
    SHORT,
    Cache,
    Revision,
    find_cache,
    read_cached_folder,
    read_commit,
    resolve,
)
from vitlora.core.errors import VitloraError
from vitlora.safety.current import changes, made_anew, moved
from vitlora.safety.workspace import require_project

WORKSPACE = "workspace"
PREDICTIONS, SCORES = "metrics/evaluate/predictions.csv", "metrics/evaluate/scores.json"
PARAMS, LOCK, TRAINED, EVALUATED = "params.yaml", "dvc.lock", "metrics/train/metrics.json", "data/evaluated"
SOURCE = "source.yaml"
MAIN = {  # the file of results that a stage's record of what ran belongs to
    "preprocess": "metrics/preprocess.json",
    "train": TRAINED,
    "evaluate": SCORES,
    "export": "metrics/export.json",
}
RAN = {stage: f"metrics/ran/{stage}.json" for stage in MAIN}
SCORED = ("preprocess", "train", "evaluate")  # what scores come from
FILES = (PREDICTIONS, SCORES, PARAMS, SOURCE, LOCK, *dict.fromkeys([*MAIN.values(), *RAN.values()]))
ADAPTER = "models/adapter"
LOGITS, TEST, CLASSES, CALIBRATION = "test_logits.npy", "test.csv", "class_names.json", "calibration.json"
COLUMNS = ("path", "actual", "predicted", "confidence")
DIGITS = 16  # of a picture's SHA-256, as predictions.csv has it
SHOWN = 3
FETCH = {"branch": "--all-branches", "tag": "--all-tags", "commit": "--all-commits"}


@dataclass(frozen=True)
class Answers:
    """What a model said of the test pictures, a row each; ``digests`` is None in results of before they were kept.

    ``confidence`` is text as the file has it, four decimals.
    """

    paths: list[str]
    digests: list[str] | None
    actual: list[str]
    predicted: list[str]
    confidence: list[str]


@dataclass(frozen=True)
class Logits:
    """Calibrated logits, float32 (N, C), rows as in the answers; position in ``class_names`` = column."""

    values: NDArray[np.float32]
    class_names: list[str]


@dataclass(frozen=True)
class Cost:
    """What a run cost, and what each stage that told its time ran on; None or absent where it isn't known."""

    trainable_parameters: int | None
    adapter_bytes: int | None
    export_bytes: int | None
    seconds: dict[str, float]
    machines: dict[str, str]


@dataclass(frozen=True)
class Run:
    """One run's results.

    Args:
        name: As it was asked for.
        commit: 40 hex digits; None for a folder.
        answers: Of the test pictures.
        logits: None where they are not to be had.
        without_logits: Why, and what to type; empty where they are there.
        params: By dotted key, as the run had them.
        cost: In parameters, bytes and seconds.
        notes: What the reader must know of these results.
    """

    name: str
    commit: str | None
    answers: Answers
    logits: Logits | None
    without_logits: str
    params: dict[str, Any]
    cost: Cost
    notes: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name, and the commit where the name is another."""
        short = (self.commit or "")[:SHORT]
        return self.name if not short or self.name.startswith(short) else f"{self.name} ({short})"


def load_run(name: str) -> Run:
    """Read a run.

    Args:
        name: `workspace`, whatever Git takes for a commit, an experiment's name, or a folder: a clone of the project,
            or one that holds predictions.csv itself. `./NAME` is always a folder.

    Raises:
        VitloraError: There is no such thing, it has no results, or they are damaged.
    """
    if name == WORKSPACE:
        require_project()
        return _from_folder(name, Path("."))
    folder = Path(name)
    if name.startswith((".", "/")) and folder.is_dir():
        return _from_folder(name, folder)
    if not folder.is_dir():
        require_project()
    try:
        revision = resolve(name)
    except VitloraError:
        if folder.is_dir():
            return _from_folder(name, folder)
        raise
    files = read_commit(revision.commit, FILES)
    listed = (
        f"`git log --oneline --all -- {PREDICTIONS}` lists the commits that have; where there is none, commit a run"
    )
    _require_results(files, name, listed)
    return _build(name, revision, files, Path("."))


def _from_folder(name: str, folder: Path) -> Run:
    if (folder / "predictions.csv").is_file():
        found = {PREDICTIONS: folder / "predictions.csv", SCORES: folder / "scores.json"}
    else:
        found = {file: folder / file for file in FILES}
    files = {file: path.read_bytes() for file, path in found.items() if path.is_file()}
    _require_results(files, name, "`vitlora run` makes it")
    return _build(name, None, files, folder)


def _require_results(files: Mapping[str, bytes], name: str, cure: str) -> None:
    if PREDICTIONS not in files:
        raise VitloraError(f"{name} has no {PREDICTIONS}; the rule: the results of a finished run. {cure}")


def _build(name: str, revision: Revision | None, files: Mapping[str, bytes], folder: Path) -> Run:
    answers = parse_predictions(files[PREDICTIONS], name)
    lock = parse_yaml(files, LOCK, name).get("stages", {})
    document = parse_yaml(files, PARAMS, name)
    _require_same_run(files[PREDICTIONS], lock, name)
    if older := made_anew(lock, SCORED):
        raise VitloraError(
            f"{name}: {PREDICTIONS} is of an earlier {older}, which has been made anew since, as in a run that was "
            f"interrupted or a trial of `vitlora tune`; the rule: both of one run. {_evaluate_it(name, revision)}"
        )
    logits, why = _logits(name, revision, lock, folder, answers)
    return Run(
        name=name,
        commit=revision.commit if revision else None,
        answers=answers,
        logits=logits,
        without_logits=why,
        params=params_of(document, lock),
        cost=_cost(files, lock, name),
        notes=tuple(_notes(document, parse_yaml(files, SOURCE, name), lock, name)),
    )


def parse_predictions(content: bytes, name: str) -> Answers:
    """Read the rows of predictions.csv.

    Raises:
        VitloraError: A column is missing, a row is cut, or there is no row.
    """
    rows = _table(content)
    where = f"{name}: {PREDICTIONS}"
    cure = "; `git checkout metrics/evaluate` or `dvc repro evaluate` brings it back"
    head = rows[0] if rows else []
    missing = [column for column in COLUMNS if column not in head]
    if missing:
        raise VitloraError(f"{where}: no column {missing[0]}; the rule: {', '.join(COLUMNS)}{cure}")
    uneven = next((number for number, row in enumerate(rows, 1) if len(row) != len(head)), None)
    if uneven:
        raise VitloraError(f"{where}: line {uneven} has {len(rows[uneven - 1])} cells, the head {len(head)}{cure}")
    if len(rows) == 1:
        raise VitloraError(f"{where}: no picture in it{cure}")
    columns = dict(zip(head, map(list, zip(*rows[1:], strict=True)), strict=True))
    digests = [digest[:DIGITS] for digest in columns["sha256"]] if "sha256" in columns else None
    return Answers(columns["path"], digests, *(columns[each] for each in COLUMNS[1:]))


def _table(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8", "surrogateescape"), newline="")))


def parse_yaml(files: Mapping[str, bytes], path: str, name: str) -> dict[str, Any]:
    """Return the mapping in a run's file; empty where there is no such file.

    Raises:
        VitloraError: It can't be read.
    """
    try:
        found = YAML(typ="safe").load(files.get(path, b"{}"))
    except Exception:  # the reader's own, of which there are many
        found = None
    if not isinstance(found, dict):
        raise VitloraError(f"{name}: {path} can't be read as YAML; `git checkout {path}` brings back the committed one")
    return found


def _require_same_run(predictions: bytes, lock: Mapping[str, Any], name: str) -> None:
    recorded = next((out["md5"] for out in _outs(lock) if out["path"] == PREDICTIONS and "md5" in out), None)
    if recorded not in (None, hashlib.md5(predictions, usedforsecurity=False).hexdigest()):
        raise VitloraError(
            f"{name}: {PREDICTIONS} is not the one that {LOCK} records; the rule: both of one run. `dvc repro` brings "
            "them together again; then commit both"
        )


def _evaluate_it(name: str, revision: Revision | None) -> str:
    return f"`dvc exp apply {name} && dvc repro`" if revision and revision.kind == "experiment" else "`dvc repro`"


def _outs(lock: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for stage in lock.values():
        yield from stage.get("outs", ())


def params_of(document: Mapping[str, Any], lock: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by dotted key, as stages ran with them where dvc.lock says it, else as the file has them.

    With them goes what lay at ``data.path`` and ``model.path``, of which source.yaml keeps number and hash, as
    `source.data` and `source.model`.
    """
    flat = dict(flattened(document))
    for stage in lock.values():
        ran = stage.get("params", {})
        flat |= dict(flattened(ran.get(PARAMS, {})))
        flat |= {f"source.{name}": seen for name, seen in ran.get(SOURCE, {}).items() if seen is not None}
    return flat


def flattened(document: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; what is no mapping, or an empty one, is a value."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _notes(document: Mapping[str, Any], source: Mapping[str, Any], lock: Mapping[str, Any], name: str) -> Iterator[str]:
    stale = list(changes(dict(document), dict(lock))) if document else []
    if stale:
        more = f" and {len(stale) - SHOWN} more" if len(stale) > SHOWN else ""
        yield (
            f"{name}: these results were made before these changes of {PARAMS}: {', '.join(stale[:SHOWN])}{more}; "
            "`dvc repro` makes them anew"
        )
    elif places := moved(source, lock):
        yield (
            f"{name}: these results were made before what lies at {places} changed, or {SOURCE} is of another run; "
            "`dvc repro` makes them anew"
        )


def _cost(files: Mapping[str, bytes], lock: Mapping[str, Any], name: str) -> Cost:
    sizes = {out["path"]: out.get("size") for out in _outs(lock)}
    seconds, machines = {}, {}
    for stage, path in RAN.items():
        record = parse_json(files, path, name)
        same = record.get("results") == hashlib.sha256(files.get(MAIN[stage], b"")).hexdigest()
        if same and "seconds" in record:
            seconds[stage] = float(record["seconds"])
            machines[stage] = ", ".join(str(record[key]) for key in ("device", "processor") if key in record)
    trained = parse_json(files, TRAINED, name)
    parameters = trained.get("trainable_parameters")
    return Cost(parameters, sizes.get(ADAPTER), sizes.get("models/export"), seconds, machines)


def parse_json(files: Mapping[str, bytes], path: str, name: str) -> dict[str, Any]:
    """Return the mapping in a run's file; empty where there is no such file.

    Raises:
        VitloraError: It can't be read.
    """
    try:
        found = json.loads(files.get(path, b"{}"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise VitloraError(f"{name}: {path} can't be read as JSON; `git checkout {path}` brings back the committed one")
    return found


def _logits(
    name: str, revision: Revision | None, lock: Mapping[str, Any], folder: Path, answers: Answers
) -> tuple[Logits | None, str]:
    """Return the logits of the test pictures, or why there are none and what to type."""
    digest = next((out["md5"] for out in _outs(lock) if out["path"] == EVALUATED and "md5" in out), None)
    if digest is None:
        return None, f"{name} was made before logits were kept in {EVALUATED}"
    names = (LOGITS, TEST, CLASSES, CALIBRATION)
    cache = find_cache(folder)
    contents = read_cached_folder(cache.folder, digest, names)
    if contents is None and revision is None:  # as where DVC's cache was emptied; checked against the answers below
        here = {each: folder / EVALUATED / each for each in names}
        contents = {each: path.read_bytes() for each, path in here.items()} if _all_files(here) else None
    if contents is None:
        return None, f"the logits of {name} are not here; {_cure(name, revision, cache)}"
    return parse_logits(contents, answers, name), ""


def _all_files(paths: Mapping[str, Path]) -> bool:
    return all(path.is_file() for path in paths.values())


def _cure(name: str, revision: Revision | None, cache: Cache) -> str:
    if revision is None:
        inside = "" if name == WORKSPACE else f" in {name}"
        return f"`dvc pull {EVALUATED}`{inside} fetches them" if cache.remote else f"`dvc repro evaluate`{inside}"
    if revision.kind == "experiment":
        fetch = f"`dvc exp pull --force origin {name}`" if cache.remote else f"`dvc exp apply {name} && dvc repro`"
    else:
        fetch = (
            f"`dvc fetch {FETCH[revision.kind]} {EVALUATED}`" if cache.remote else f"`git checkout {name} && dvc repro`"
        )
    return f"{fetch} {'fetches' if cache.remote else 'makes'} them"


def parse_logits(contents: Mapping[str, bytes], answers: Answers, name: str) -> Logits:
    """Read what data/evaluated holds of the test pictures.

    Raises:
        VitloraError: It can't be read, or is of another run than the answers.
    """
    where = f"{name}: {EVALUATED}"
    try:
        values = np.load(io.BytesIO(contents[LOGITS]), allow_pickle=False).astype(np.float32)
        class_names = json.loads(contents[CLASSES])
        temperature = float(json.loads(contents[CALIBRATION])["temperature"])
        head, *rows = _table(contents[TEST])
        place = head.index("path")
        same = values.shape == (len(rows), len(class_names)) and [row[place] for row in rows] == answers.paths
        same = same and [class_names[label] for label in values.argmax(axis=1)] == answers.predicted
    except (ValueError, KeyError, IndexError, TypeError, EOFError):
        raise VitloraError(f"{where} can't be read; `dvc checkout --force {EVALUATED}` brings it back") from None
    if not same:
        raise VitloraError(
            f"{where} is of another run than {PREDICTIONS}; the rule: both of one. `dvc checkout {EVALUATED}` brings "
            "them together again"
        )
    return Logits(values / np.float32(temperature), class_names)
