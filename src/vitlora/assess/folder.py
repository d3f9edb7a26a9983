"""Score the exported model on a labelled folder that it was not made from."""

import difflib
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitlora.assess.shifts import Classifier
from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json
from vitlora.core.text import counted, printable
from vitlora.download.found import list_folder
from vitlora.download.layout import Layout, arrange, sort_out, told
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, read_picture, resize_and_crop
from vitlora.images.sandbox import Isolated
from vitlora.model.seen import DIGITS, SEEN
from vitlora.storage.labels import Labels
from vitlora.storage.squares import Squares

BATCH = 32
CHUNK = 8  # pictures sent to a process at a time
NAMED = 5  # classes in a message
NOT_CALIBRATED = {"temperature": 1.0, "coverage": 1.0, "threshold": 0.0, "images": 0}
Square = tuple[NDArray[np.uint8], str]  # uint8 (3, H, W), and the SHA-256 of the file


@dataclass(frozen=True)
class Plan:
    """What of a folder is scored.

    Attributes:
        files: The file of each picture, by the name it goes by.
        labels: The label of each picture, position in the model's class names.
        ignored: How many pictures each folder holds that is not scored, by its name.
        notes: What a person should know of how the folder was read.
    """

    files: dict[str, Path]
    labels: list[int]
    ignored: dict[str, int]
    notes: list[str]


@dataclass(frozen=True)
class Answers:
    """What the model says: logits, float32 (N, C), of the pictures that could be read, and why the others couldn't."""

    logits: NDArray[np.float32]
    squares: Squares
    bad: dict[str, str]


def plan(root: Path, class_names: Sequence[str], given: Sequence[str], ignore_unknown: bool) -> Plan:
    """Find class folders as download does, and match them with the model's classes.

    A name that differs only in case, in spaces around it or in its Unicode form is taken for the model's, which are
    never so alike, and noted. Folders named train, val and test above the classes are all read, and noted.

    Args:
        root: The folder.
        class_names: The model's; position = label.
        given: `THEIRS=OURS` each: which class of the model a folder's class is.
        ignore_unknown: Leave out classes that the model doesn't know in place of refusing them.

    Raises:
        VitloraError: No class folder there, one that could be read in two ways, or one that the model doesn't know.
    """
    try:
        layout = arrange(sort_out(list_folder(root, "")), root)
    except VitloraError as error:  # of download, whose rule is about a parameter
        raise VitloraError(str(error).removeprefix("data.path: ").replace("set data.path: ", "name ")) from None
    pictures = Counter(path.parts[layout.depth] for path in layout.files)
    renamed = _renamed(given, pictures, class_names, root)
    label_of, notes = _match(pictures, class_names, renamed)
    unknown = {name: count for name, count in sorted(pictures.items()) if name not in label_of}
    if unknown and not ignore_unknown:
        raise VitloraError(_unknown(unknown, class_names, root))
    if not label_of:
        raise VitloraError(
            f"{root}: no class there that the model knows; the rule: at least one of {_some(class_names)}"
        )
    scored = {path: handle for path, handle in layout.files.items() if path.parts[layout.depth] in label_of}
    labels = [label_of[path.parts[layout.depth]] for path in scored]
    return Plan(
        {str(path): handle for path, handle in scored.items()},
        labels,
        unknown,
        [*_split_notes(layout, root), *told(layout.left_out), *notes],
    )


def _split_notes(layout: Layout, root: Path) -> list[str]:
    if not layout.depth:
        return []
    splits = sorted({path.parts[0] for path in layout.files})
    return [
        f"note: {printable(str(root))} holds the splits {printable(', '.join(splits))}, all of which are scored; name "
        f"{printable(str(root / splits[-1]))} to score one"
    ]


def _renamed(given: Sequence[str], theirs: Iterable[str], ours: Sequence[str], root: Path) -> dict[str, str]:
    """Read `THEIRS=OURS`; both may hold the sign themselves."""
    found: dict[str, str] = {}
    for text in given:
        cuts = [(text[:at], text[at + 1 :]) for at, sign in enumerate(text) if sign == "="]
        fitting = [(left, right) for left, right in cuts if left in theirs and right in ours]
        if len(fitting) != 1:
            raise VitloraError(f"--map: got {text}; {_why_not(cuts, theirs, ours, root)}")
        left, right = fitting[0]
        if found.setdefault(left, right) != right:
            raise VitloraError(f"--map: got {left}={found[left]} and {text}; the rule: each class of {root} once")
    return found


def _why_not(cuts: Sequence[tuple[str, str]], theirs: Iterable[str], ours: Sequence[str], root: Path) -> str:
    if len(cuts) == 1:
        left, right = cuts[0]
        if left not in theirs:
            return f"{root} holds no pictures of {left}, but of {_close_or_some(left, theirs)}"
        return f"the model has no class {right}, but {_close_or_some(right, ours)}"
    return f"the rule: THEIRS=OURS, a class in {root} and one of the model's, such as {sorted(theirs)[0]}={ours[0]}"


def _match(theirs: Iterable[str], ours: Sequence[str], renamed: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """Return the label of each class that is known, and a note for each that is spelt otherwise."""
    exact = {name: label for label, name in enumerate(ours)}
    alike = {_key(name): label for label, name in enumerate(ours)}
    found: dict[str, int] = {}
    notes = []
    for name in sorted(theirs):
        label = exact.get(renamed.get(name, name), alike.get(_key(name)))
        if label is not None:
            found[name] = label
            if name != ours[label]:
                notes.append(f"note: pictures of {printable(name)} are scored as {printable(ours[label])}")
    return found, notes


def _key(name: str) -> str:
    """Return what preprocess keeps apart all class names of a model by."""
    return unicodedata.normalize("NFC", name).casefold().strip()


def _unknown(unknown: Mapping[str, int], ours: Sequence[str], root: Path) -> str:
    names = [f"{name} ({counted(count, 'picture')}{_close(name, ours)})" for name, count in unknown.items()]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    first = next(iter(unknown))
    best = difflib.get_close_matches(first, ours, 1) or [ours[0]]
    return (
        f"{root} holds classes that the model does not know: {', '.join(names[:NAMED])}{more}; the rule: the model's "
        f"classes, {_some(ours)}. `--map '{first}={best[0]}'` scores one as another, `--ignore-unknown` leaves out all "
        "such"
    )


def _close(name: str, ours: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, ours, 2)
    return f", close to {' and '.join(close)}" if close else ""


def _close_or_some(name: str, known: Iterable[str]) -> str:
    return " and ".join(difflib.get_close_matches(name, known, 2)) or _some(sorted(known))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def answer(found: Plan, classifier: Classifier, known: Labels, done: Callable[[int], object]) -> Answers:
    """Decode every picture as predict does, in processes of their own, and score it.

    Args:
        found: What to score.
        classifier: The model.
        known: Its classes, size and filter.
        done: Is told after every batch how many pictures it had.

    Raises:
        VitloraError: Not one picture could be read.
    """
    names = list(found.files)
    logits, rows, digests, bad = [], [], [], {}
    function = partial(_read_square, known.image_size, known.interpolation)
    with Isolated(min(cores(), -(-len(names) // CHUNK))) as workers:
        squares = enumerate(workers.map(function, found.files.values(), CHUNK))
        for batch in _batches(squares):
            bad.update({names[row]: f"{each.reason}: {each}" for row, each in batch if isinstance(each, BadImageError)})
            good = [(row, each) for row, each in batch if not isinstance(each, BadImageError)]
            if good:
                logits.append(classifier.score(np.stack([square for _, (square, _) in good]), BATCH))
            rows += [row for row, _ in good]
            digests += [digest for _, (_, digest) in good]
            done(len(batch))
    if not rows:
        first = next(iter(bad.items()))
        raise VitloraError(f"none of {counted(len(names), 'picture')} could be read; {first[0]}: {first[1]}")
    labels = np.array([found.labels[row] for row in rows], np.int64)
    nothing = np.empty((len(rows), 3, 0, 0), np.uint8)  # the squares themselves are kept by nobody
    return Answers(np.concatenate(logits), Squares(nothing, labels, [names[row] for row in rows], digests), bad)


def _batches(
    squares: Iterator[tuple[int, Square | BadImageError]],
) -> Iterator[list[tuple[int, Square | BadImageError]]]:
    while batch := list(islice(squares, BATCH)):
        yield batch


def _read_square(size: int, interpolation: str, path: Path) -> Square:
    try:
        data = read_picture(path)
    except OSError as error:
        raise BadImageError("corrupt", f"cannot be read: {error.strerror}") from None
    return resize_and_crop(decode(data), size, interpolation), hashlib.sha256(data).hexdigest()


def met_before(adapter: Path, bundle: Mapping[str, object], digests: Iterable[str]) -> list[str] | None:
    """Return what the training of the exported model used each picture for: `train`, `val` or nothing.

    Args:
        adapter: Folder of the adapter that was exported.
        bundle: vitlora.json of the exported model.
        digests: SHA-256 of the pictures' files.

    Returns:
        None where the adapter isn't there, is another one, or does not record its pictures.
    """
    try:
        own = read_json(adapter / "vitlora.json")
        used = {row["picture"]: row["used"] for row in read_csv(adapter / SEEN)}
    except (OSError, ValueError, KeyError):
        return None
    if any(bundle.get(key) != value for key, value in own.items()):
        return None
    return [used.get(digest[:DIGITS], "") for digest in digests]


def write(answers: Answers, class_names: Sequence[str], bundle: Mapping[str, Any], top_k: int, out: Path) -> None:
    """Write the files that stage evaluate writes of its test split: scores, tables, the confusion matrix."""
    from vitlora.evaluate.calibration import Calibration
    from vitlora.evaluate.records import write_scores

    found = bundle.get("calibration", NOT_CALIBRATED)  # of an older version
    calibration = Calibration(found["temperature"], found["coverage"], found["threshold"], found["images"])
    before = answers.logits * np.float32(calibration.temperature)  # the exported model has divided them by it
    write_scores(before, answers.squares, class_names, calibration, top_k, out, "fp32")
