"""How many of labels flipped on purpose are found again among real photographs, and how many suspects are flipped ones.

    PYTHONPATH=src python benchmarks/suspects.py --data food101-10 --base models/base --out suspects.json

Features of all photographs of a folder in Hub layout are computed once and kept; then for each seed 4 % of the labels
are flipped at random to another class, and the suspects are compared with them. What the photographs' own labels have
wrong counts against precision. `cleanlab` is measured too where it is installed; the project does not need it.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from common import host, version

from vitlora.core.files import write_json
from vitlora.download.hub_layout import from_hub_layout
from vitlora.images.pixels import decode, resize_and_crop
from vitlora.model.base import device_of_choice, load_base, read_normalisation
from vitlora.report.suspects import BATCH, out_of_sample, pooled, suspected

SPLITS = {"train": "train", "test": "validation"}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--size", type=int, default=224, help="px")
    parser.add_argument("--share", type=float, default=0.04, help="of the labels that are flipped")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--features", type=Path, default=Path(".work/suspects.npz"))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.features.is_file():
        args.features.parent.mkdir(parents=True, exist_ok=True)
        np.savez(args.features, **compute(args.data, args.base, args.size))
    kept = np.load(args.features)
    features, labels = kept["features"], kept["labels"]
    classes = int(labels.max()) + 1
    runs = [measure(features, labels, classes, args.share, seed) for seed in range(args.seeds)]
    clean = out_of_sample(features, labels, classes)
    names = [name for name in runs[0] if name != "seed"]
    figures = {
        "images": len(labels),
        "classes": classes,
        "size_px": args.size,
        "flipped": args.share,
        "accuracy_out_of_sample": float((clean.argmax(axis=1) == labels).mean()),
        "suspects_of_the_own_labels": len(suspected(clean, labels)),
        "runs": runs,
        "mean": {
            name: {key: statistics.mean(run[name][key] for run in runs) for key in runs[0][name]} for name in names
        },
        "cleanlab": version("cleanlab"),
    }
    for name, found in figures["mean"].items():
        print(name, {key: round(value, 3) for key, value in found.items()})
    write_json(args.out, figures | host())


def compute(data: Path, base: Path, size: int) -> dict[str, np.ndarray]:
    """Return features and labels of all photographs."""
    found = from_hub_layout(data, None, "image", "label", SPLITS)
    model, _ = load_base(base, found.class_names, size)
    model, normalisation = model.eval().to(device_of_choice()), read_normalisation(base)
    features, labels, batch = [], [], []
    for picture in found.pictures:
        batch.append(resize_and_crop(decode(picture.data), size, "bilinear"))
        labels.append(picture.label)
        if len(batch) == BATCH:
            features.append(pooled(model, np.stack(batch), normalisation))
            batch.clear()
            print(f"{len(labels)} pictures", end="\r", flush=True)
    if batch:
        features.append(pooled(model, np.stack(batch), normalisation))
    return {"features": np.concatenate(features), "labels": np.array(labels, np.int64)}


def measure(features: np.ndarray, labels: np.ndarray, classes: int, share: float, seed: int) -> dict:
    """Flip labels and return recall and precision of each rule."""
    random = np.random.default_rng(seed)
    rows = random.choice(len(labels), round(share * len(labels)), replace=False)
    wrong = labels.copy()
    wrong[rows] = (wrong[rows] + random.integers(1, classes, len(rows))) % classes
    flipped = np.zeros(len(labels), bool)
    flipped[rows] = True
    shares = out_of_sample(features, wrong, classes)
    own = shares[np.arange(len(labels)), wrong]
    order = np.argsort(own, kind="stable")
    found = suspected(shares, wrong)
    rules = {
        "rule": found,
        "first 20 of the rule": found[:20],
        "first 40 of the rule": found[:40],
        "as many as flipped, by the label's share": order[: len(rows)],
        "confident learning by hand": confident(shares, wrong),
        **cleanlab(shares, wrong),
    }
    return {"seed": seed, **{name: judged(flipped, chosen) for name, chosen in rules.items()}}


def confident(shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return rows that pass the threshold of another class, the mean share that its own pictures get."""
    means = np.array([shares[labels == label, label].mean() for label in range(shares.shape[1])])
    passed = np.where(shares >= means, shares, -1.0)
    return np.flatnonzero((passed.max(axis=1) >= 0) & (passed.argmax(axis=1) != labels))


def cleanlab(shares: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return what cleanlab's default finds, if it is installed."""
    if version("cleanlab") is None:
        return {}
    from cleanlab.filter import find_label_issues

    chosen = {"cleanlab's default": "prune_by_noise_rate", "cleanlab, low_self_confidence": "low_self_confidence"}
    return {
        name: find_label_issues(
            labels, shares.astype(float), filter_by=rule, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        for name, rule in chosen.items()
    }


def judged(flipped: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
    """Return the share of flipped labels that was found, and the share of what was found that is flipped."""
    hits = int(flipped[chosen].sum())
    return {"recall": hits / int(flipped.sum()), "precision": hits / max(1, len(chosen)), "named": float(len(chosen))}


if __name__ == "__main__":
    main()
