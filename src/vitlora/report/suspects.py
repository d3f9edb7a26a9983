"""Pictures whose label may be wrong, in train and in test: what a simple classifier thinks that has not seen them.

The trained model can't say it of its training pictures, since it has learnt their labels, wrong ones too. So a logistic
regression on features of the base model as it was before training is fitted on four fifths of the pictures and asked
about the others, five times.

A suspect is a picture whose label gets next to nothing. The thresholds of confident learning (Northcutt, Jiang and
Chuang, JAIR 2021; cleanlab) name more of the wrong labels, and eight to thirteen times as many right ones, where the
base model knows the classes only roughly; benchmarks/suspects.py has the figures.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from vitlora.core.cores import cores
from vitlora.core.errors import VitloraError
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, resize_and_crop
from vitlora.images.sandbox import Isolated
from vitlora.model.base import Normalisation, device_of_choice, load_base, read_normalisation
from vitlora.storage.labels import Labels, read_labels
from vitlora.storage.manifest import digest
from vitlora.storage.packed import Packed
from vitlora.storage.squares import load_split

CACHE = Path(".work/report")
BATCH = 32
CHUNK = 8
FOLDS = 5
STRENGTHS = (0.01, 0.1, 1.0)  # C of the logistic regression, on standardised features; tried while the loss falls
ITERATIONS = 200
DOUBT = 0.2  # of the share that a label would get if all classes were alike
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Suspect(NamedTuple):
    """A picture whose label is doubted: its split, path and row in it; its class and the likelier one, both with the
    share that a classifier that has not seen it gives them.
    """

    split: str
    path: str
    row: int
    label: str
    guess: str
    share: float
    label_share: float


class Featured(NamedTuple):
    """Features float32 (N, D) of the pictures of some splits, one below the other, and what is known of each."""

    features: Floats
    labels: Ints
    splits: list[str]
    rows: list[int]
    paths: list[str]


def find_suspects(base: Path, prepared: Path) -> list[Suspect]:
    """Return the suspects of train and test, the least likely label first.

    Args:
        base: Base model folder.
        prepared: Folder with train, test and labels.json, as preprocess wrote them.

    Raises:
        VitloraError: Two classes at least must have two pictures each.
    """
    known = read_labels(prepared / "labels.json")
    featured = features_of(base, prepared, known)
    shares = out_of_sample(featured.features, featured.labels, len(known.class_names))
    rows = suspected(shares, featured.labels)
    return [_suspect(featured, known.class_names, shares, row) for row in rows.tolist()]


def _suspect(featured: Featured, class_names: Sequence[str], shares: Floats, row: int) -> Suspect:
    label = int(featured.labels[row])
    others = shares[row].copy()
    others[label] = -1
    likelier = int(others.argmax())
    return Suspect(
        featured.splits[row],
        featured.paths[row],
        featured.rows[row],
        class_names[label],
        class_names[likelier],
        round(float(shares[row, likelier]), 4),
        round(float(shares[row, label]), 4),
    )


def features_of(base: Path, prepared: Path, known: Labels) -> Featured:
    """Return features of train and test, from the cache where these pictures have been through this base before.

    Of train the original files are decoded as preprocess does it with val and test, without augmentation.
    """
    train, test = Packed(prepared / "train"), load_split(prepared / "test")
    labels, paths = train.index["label"].tolist(), train.texts("path")
    about = (
        np.array([*labels, *test.labels.tolist()], np.int64),
        ["train"] * len(train) + ["test"] * len(test.paths),
        [*range(len(train)), *range(len(test.paths))],
        [*paths, *test.paths],
    )
    place = CACHE / f"features-{_key(base, prepared, known)}.npy"
    if place.is_file():
        found = np.load(place)
        if len(found) == len(about[0]):
            return Featured(found, *about)
    total = len(about[0])
    with tqdm(total=total, desc="features", unit="image", dynamic_ncols=True, disable=None, leave=False) as bar:
        found = _compute(base, known, train, test.images, bar)
    place.parent.mkdir(parents=True, exist_ok=True)
    for old in place.parent.glob("features-*.npy"):
        old.unlink()
    scratch = place.with_suffix(".part.npy")
    np.save(scratch, found)
    os.replace(scratch, place)
    return Featured(found, *about)


def _key(base: Path, prepared: Path, known: Labels) -> str:
    parts = [digest(base), digest(prepared / "train"), digest(prepared / "test"), known.image_size, known.interpolation]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _compute(base: Path, known: Labels, train: Packed, test: NDArray[np.uint8], bar: Any) -> Floats:
    model, _ = load_base(base, known.class_names, known.image_size)
    model = model.eval().to(device_of_choice())
    normalisation = read_normalisation(base)
    parts = []
    function = partial(_square, train, known.image_size, known.interpolation)
    with Isolated(min(cores(), -(-len(train) // CHUNK))) as workers:
        for batch in _batches(workers.map(function, range(len(train)), CHUNK)):
            parts.append(pooled(model, np.stack(batch), normalisation))
            bar.update(len(batch))
    for start in range(0, len(test), BATCH):
        parts.append(pooled(model, np.array(test[start : start + BATCH]), normalisation))
        bar.update(len(parts[-1]))
    return np.concatenate(parts)


def _square(train: Packed, size: int, interpolation: str, row: int) -> NDArray[np.uint8]:
    return resize_and_crop(decode(train[row], checked=True), size, interpolation)


def _batches(squares: Iterable[NDArray[np.uint8] | BadImageError]) -> Iterable[list[NDArray[np.uint8]]]:
    batch: list[NDArray[np.uint8]] = []
    for square in squares:
        if isinstance(square, BadImageError):
            raise VitloraError(f"a training picture that passed its check: {square}; is the machine out of memory?")
        batch.append(square)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@torch.inference_mode()
def pooled(model: torch.nn.Module, images: NDArray[np.uint8], normalisation: Normalisation) -> Floats:
    """Return features of squares, float32 (N, D): what goes into the classifier.

    Args:
        model: As ``load_base`` gives it. Its head is random, and is only asked what it is given.
        images: uint8 (N, 3, H, H).
        normalisation: The base model's.
    """
    device = next(model.parameters()).device
    kept: list[torch.Tensor] = []
    head = next(module for module in reversed(list(model.modules())) if isinstance(module, torch.nn.Linear))
    hook = head.register_forward_pre_hook(lambda _, args: kept.append(args[0]))
    try:
        model(pixel_values=normalisation(torch.from_numpy(images).to(device)))
    finally:
        hook.remove()
    return kept[-1].flatten(1).float().cpu().numpy()


def out_of_sample(features: Floats, labels: Ints, classes: int) -> Floats:
    """Return each picture's shares of the classes, by a logistic regression that was fitted without it.

    How strong it is, the loss on these pictures decides: a weaker one than they need is sure of nothing, and no label
    would be doubted.

    Args:
        features: float32 (N, D).
        labels: int64 (N,).
        classes: Number of classes C; one with a single picture gets the share 0, since nothing can be known of it.

    Returns:
        float32 (N, C).
    """
    counts = np.bincount(labels, minlength=classes)
    usable = np.flatnonzero(counts[labels] >= 2)
    present, known = np.unique(labels[usable], return_inverse=True)
    if len(present) < 2:
        raise VitloraError("label suspects: the rule: two pictures at least in each of two classes")
    folds = max(2, min(FOLDS, int(counts.max())))
    best, least = None, np.inf
    for strength in STRENGTHS:
        found = _cross_fitted(features[usable], known, folds, strength)
        loss = -np.log(np.maximum(found[np.arange(len(known)), known], 1e-9)).mean()
        if loss >= least:
            break
        best, least = found, loss
    shares = np.zeros((len(labels), classes), np.float32)
    shares[np.ix_(usable, present)] = best
    return shares


def _cross_fitted(features: Floats, labels: Ints, folds: int, strength: float) -> Floats:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer pictures than folds, and of steps at the limit
        return np.asarray(cross_val_predict(model, features, labels, cv=split, method="predict_proba"), np.float32)


def suspected(shares: Floats, labels: Ints) -> Ints:
    """Return the rows whose label is doubted, the least likely label first.

    Another class is likeliest, and the label's share is below ``DOUBT`` of an even one.

    Args:
        shares: float32 (N, C), out of sample; a row of zeros is one that nothing is known of.
        labels: int64 (N,).
    """
    own = shares[np.arange(len(labels)), labels]
    doubted = (shares.argmax(axis=1) != labels) & (own < DOUBT / shares.shape[1]) & shares.any(axis=1)
    rows = np.flatnonzero(doubted)
    return rows[np.argsort(own[rows], kind="stable")]
