"""Trainings of the tiny project within this process: prepare it, train, stop or crash, and hash what is left."""

import hashlib
import json
import os
import signal
from contextlib import chdir, contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from ruamel.yaml import YAML

from vitlora.core.errors import StoppedError
from vitlora.core.params import load_params
from vitlora.download.params import DownloadStage
from vitlora.download.stage import download
from vitlora.export.params import FILES, installed
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.train.optimise import OptimiserStep
from vitlora.train.params import TrainStage
from vitlora.train.stage import train

RESULTS = ("adapter", "metrics.json", "plots")
STEPS, PER_EPOCH = 10, 5
SETTINGS = {
    **tiny.PARAMS,
    "train.per_device_train_batch_size": 3,
    "train.gradient_accumulation_steps": 2,
    "train.logging_steps": 3,
    "train.save_steps": 1,
    "lora.lora_dropout": 0.2,
    # On a machine with a GPU these tests run there.
    "train.step": "eager",
    "train.full_determinism": torch.cuda.is_available(),
}
FORMATS = [form for form in FILES if installed(form)]
INPUTS = ("train", "val", "test", "labels.json", "base")


def prepare(root, make_base=tiny.make_base):
    """Leave in a folder what the first two stages make of the tiny project."""
    tiny.make_images(root / "pictures")
    make_base(root / "tiny")
    document = settings()
    stage = load_params(DownloadStage, document, Path("params.yaml"))
    with chdir(root):
        download(stage.data, stage.model, Path("raw"), Path("base"))
        made = load_params(PreprocessStage, document, Path("params.yaml"))
        places = [Path(name) for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
        preprocess(made.ingest, made.image, made.split, Path("raw"), *places)
    return root


def link(prepared, folder):
    """Give a folder the inputs of train and evaluate."""
    for name in INPUTS:
        (folder / name).symlink_to(prepared / name)
    return folder


def settings(changes=None):
    document = YAML(typ="safe").load(tiny.DIGITS)
    for key, value in {**SETTINGS, **(changes or {})}.items():
        section, name = key.split(".")
        document[section][name] = value
    return document


def fit(**changes):
    """Train in the working folder, with parameters changed: ``lora__r=4``."""
    stage = load_params(TrainStage, settings({k.replace("__", "."): v for k, v in changes.items()}), Path("p"))
    sections = (stage.augment, stage.lora, stage.train)
    inputs = [Path(name) for name in ("base", "train", "val", "labels.json")]
    finished = train(*sections, *inputs, *map(Path, RESULTS))
    if finished:  # the first of several processes, or the only one
        finished.checkpoints.remove()


def hashes():
    """Return the SHA-256 of every file that a training left."""
    return hashes_of(*map(Path, RESULTS))


def hashes_of(*places):
    files = sorted(path for place in places for path in [place, *place.rglob("*")] if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextmanager
def stopped_after(step, number=signal.SIGTERM):
    """Ask the run in the block to stop once a step is done, which it must."""
    original = OptimiserStep.__call__

    def asks(self, at, *rest):
        if at + 1 == step:
            os.kill(os.getpid(), number)
        return original(self, at, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OptimiserStep, "__call__", asks)
        with pytest.raises(StoppedError, match=f"stopped after step {step}, which is kept") as stopped:
            yield
    assert stopped.value.number == number


def evaluate_here(tta="none", batch=4):
    """Score the adapter in this folder as the stage does."""
    from vitlora.evaluate.params import Evaluate
    from vitlora.evaluate.stage import evaluate

    settings = Evaluate(batch_size=batch, precision="fp32", top_k=2, coverage=0.8, tta=tta)
    evaluate(settings, *map(Path, ("base", "adapter", "val", "test", "labels.json", "evaluated", "scores")))


def export_here(formats=("transformers", "onnx"), to="export", **changes):
    """Export the adapter in this folder as the stage does."""
    from vitlora.export.params import Export
    from vitlora.export.stage import export

    rules = {"onnx_opset": 20, "max_logit_diff": 1e-3, "max_accuracy_drop": 0.01, "max_check_images": None}
    wanted = Export(formats=list(formats), batch_size=3, **{**rules, **changes})
    read = ("base", "adapter", "test", "scores/predictions.csv", "evaluated/calibration.json")
    return export(wanted, *map(Path, (*read, to, f"{to}.json")))


def format_rows(report):
    """Return the rows of metrics/export.json by format."""
    return {row["format"]: row for row in json.loads(Path(report).read_text(encoding="utf-8"))["formats"]}
