"""Writes the files that a finished run leaves, from logits, without running anything."""

import csv
import hashlib
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import tiny
from ruamel.yaml import YAML

CACHE = Path(".dvc/cache/files/md5")
NAMES = ["ant", "bee", "cat", "dog"]


def make_logits(labels, accuracy, seed=0, classes=4):
    """Return float32 (N, C): about so many rows have their label largest; another seed errs on other rows."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) >= accuracy
    said = np.where(wrong, (labels + rng.integers(1, classes, len(labels))) % classes, labels)
    logits = rng.normal(0, 1, (len(labels), classes))
    logits[np.arange(len(labels)), said] = logits.max(axis=1) + rng.exponential(1, len(labels))
    return logits.astype(np.float32)


def flip(logits, rows):
    """Return logits with the largest and the smallest of some rows exchanged, so that these answers change."""
    new, rows = logits.copy(), np.asarray(rows, int)
    high, low = logits[rows].argmax(axis=1), logits[rows].argmin(axis=1)
    new[rows, high], new[rows, low] = logits[rows, low], logits[rows, high]
    return new


def make_repository(root):
    """Set up an empty project: Git, what says that DVC is here, and the parameters of the digits."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / ".gitignore").write_text("/.dvc/cache\n/data\n/models\n.work\n")
    (root / "dvc.yaml").write_text("stages: {}\n")
    shutil.copy2(tiny.DIGITS, root / "params.yaml")
    tiny.git(root, "init", "-q", "-b", "main")
    return root


def write_run(root, logits, labels, params=None, names=NAMES, paths=None, digests=None, evaluated=True, old=False):
    """Write metrics, params.yaml, dvc.lock and what DVC's cache would hold, as a finished run leaves them.

    Args:
        paths, digests: Of the pictures; made up where not given.
        evaluated: Whether logits are kept; with ``old`` the digests are left out of predictions.csv too.
    """
    paths = paths or [f"{names[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    digests = digests or [hashlib.sha256(os.fsencode(path)).hexdigest() for path in paths]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    sure = (shares / shares.sum(axis=1, keepdims=True)).max(axis=1)
    actual, said = ([names[place] for place in column] for column in (labels, logits.argmax(axis=1)))
    columns = [paths, actual, said, [f"{each:.4f}" for each in sure], [digest[:16] for digest in digests]]
    head = ["path", "actual", "predicted", "confidence", "sha256"][: 4 if old else 5]
    predictions = table(head, columns[: len(head)])
    right = float(np.mean(logits.argmax(axis=1) == labels))
    scores = {"accuracy": round(right, 6), "macro_f1": round(right, 6), "images": len(labels), "precision": "fp32"}
    folder = root / "metrics/evaluate"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.csv").write_bytes(predictions)
    (folder / "scores.json").write_text(json.dumps(scores))
    (root / "metrics/train").mkdir(exist_ok=True)
    (root / "metrics/train/metrics.json").write_text(json.dumps({"trainable_parameters": 1000 * len(names)}))
    set_params(root / "params.yaml", params or {})
    outs = [out("metrics/evaluate/predictions.csv", predictions)]
    if evaluated and not old:
        outs.append(keep_logits(root, logits, names, table(["path", "actual", "sha256"], [paths, actual, digests])))
    write_lock(root, outs)


def set_params(path, values):
    """Change values by dotted key, in a tenth of the time that keeping comments takes."""
    if values:
        yaml = YAML(typ="safe")
        document = yaml.load(path)
        for key, value in values.items():
            section, name = key.split(".")
            document[section][name] = value
        with path.open("w") as file:
            yaml.dump(document, file)


def record(root, stage, seconds, **machine):
    """Write metrics/ran/STAGE.json, of the results that stand there."""
    main = {"train": "metrics/train/metrics.json", "evaluate": "metrics/evaluate/scores.json"}[stage]
    digest = hashlib.sha256((root / main).read_bytes()).hexdigest()
    (root / "metrics/ran").mkdir(exist_ok=True)
    document = {"stage": stage, "results": digest, "seconds": seconds, **machine}
    (root / f"metrics/ran/{stage}.json").write_text(json.dumps(document))


def table(head, columns):
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([head, *zip(*columns, strict=True)])
    return text.getvalue().encode("utf-8", "surrogateescape")


def out(path, content):
    return {"path": path, "hash": "md5", "md5": md5(content), "size": len(content)}


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def keep_logits(root, logits, names, rows):
    """Write data/evaluated and its copy in DVC's cache; return its entry of dvc.lock."""
    array = io.BytesIO()
    np.save(array, logits)
    files = {
        "calibration.json": b'{"temperature": 2.0}',
        "class_names.json": json.dumps(names).encode(),
        "test.csv": rows,
        "test_logits.npy": array.getvalue(),
    }
    for name, content in files.items():
        (root / "data/evaluated").mkdir(parents=True, exist_ok=True)
        (root / "data/evaluated" / name).write_bytes(content)
        store(root, md5(content), content)
    listing = json.dumps([{"md5": md5(content), "relpath": name} for name, content in files.items()]).encode()
    digest = f"{md5(listing)}.dir"
    store(root, digest, listing)
    return {"path": "data/evaluated", "hash": "md5", "md5": digest, "size": sum(map(len, files.values()))}


def store(root, digest, content):
    path = root / CACHE / digest[:2] / digest[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def write_lock(root, outs):
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    params = yaml.load(root / "params.yaml")
    models = [
        {"path": f"models/{name}", "md5": f"{name}.dir", "size": 1234 + len(name)} for name in ("adapter", "export")
    ]
    stages = {
        "train": {"cmd": "train", "params": {"params.yaml": params}, "outs": models},
        "evaluate": {"cmd": "evaluate", "outs": outs},
    }
    with (root / "dvc.lock").open("w") as file:
        yaml.dump({"schema": "2.0", "stages": stages}, file)


def experiment(root, name):
    """Commit the working tree as DVC keeps an experiment: a ref of its own, HEAD and the branch stay."""
    tiny.git(root, "add", "-A")
    tree = tiny.git(root, "write-tree").strip()
    head = tiny.git(root, "rev-parse", "HEAD").strip()
    made = tiny.git(root, "commit-tree", tree, "-p", head, "-m", name).strip()
    tiny.git(root, "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}", made)
    tiny.git(root, "reset", "-q", "--hard")
    return made


def only_train_ran(root, params):
    """Leave what a run of train alone leaves: new parameters and adapter beside the results of the run before."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    set_params(root / "params.yaml", params)
    document = yaml.load(root / "dvc.lock")
    document["stages"]["train"]["params"] = {"params.yaml": yaml.load(root / "params.yaml")}
    document["stages"]["evaluate"]["deps"] = [{"path": "models/adapter", "md5": "earlier.dir"}]
    with (root / "dvc.lock").open("w") as file:
        yaml.dump(document, file)
