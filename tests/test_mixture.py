"""Mixtures of adapters, X-LoRA and merges: from two that each know half of the classes, on a tiny ViT."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_methods as methods
import test_resume as resume
import tiny
import torch
from safetensors.torch import load_file, save_file

from vitlora.adapters import load_adapter
from vitlora.cli import predict
from vitlora.errors import StoppedError, VitloraError
from vitlora.evaluate import evaluate
from vitlora.experts import locate
from vitlora.export import export
from vitlora.files import read_csv, read_json, write_csv, write_json
from vitlora.manifest import digest
from vitlora.mixture import is_mixture
from vitlora.model import load_base
from vitlora.packed import Packed, write_packed
from vitlora.sections.evaluate import Evaluate
from vitlora.sections.export import Export
from vitlora.sections.methods import PRUNING, Combination
from vitlora.tensors import create_split, load_split, open_pixels

COLOURS = {**tiny.COLOURS, "yellow": (220, 200, 50)}
HALVES = {"a": ["blue", "green"], "b": ["red", "yellow"]}
INPUTS = ("train", "val", "test", "labels.json", "base")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data of four colours, a base, and two adapters, each trained on two of the colours."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "COLOURS", COLOURS)
        resume.prepare(root)
    for name, classes in HALVES.items():
        half = root / name
        half.mkdir()
        (half / "base").symlink_to(root / "base")
        keep_classes(root, half, classes)
        with resume.working_in(half):
            methods.fit("lora", lora__target_modules=["query", "value"])
    return root


def keep_classes(source, target, classes):
    """Write the pictures of some classes alone, as preprocess would."""
    labels = read_json(source / "labels.json")
    new = {labels["class_names"].index(name): place for place, name in enumerate(classes)}
    write_json(target / "labels.json", {**labels, "class_names": classes})
    packed = Packed(source / "train")
    columns = [name for name in packed.rows[0] if name not in ("offset", "length")]
    chosen = [number for number, row in enumerate(packed.rows) if int(row["label"]) in new]
    rows = ({**packed.rows[number], "label": new[int(packed.rows[number]["label"])]} for number in chosen)
    items = (([row[name] for name in columns], packed[number]) for number, row in zip(chosen, rows, strict=True))
    write_packed(target / "train", columns, items)
    val = load_split(source / "val")
    kept = [number for number, label in enumerate(val.labels) if int(label) in new]
    create_split(
        target / "val", labels["image_size"], [val.paths[n] for n in kept], [new[int(val.labels[n])] for n in kept]
    )
    open_pixels(target / "val", "r+")[:] = val.images[kept]


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    for name in INPUTS:
        (tmp_path / name).symlink_to(prepared / name)
    for name in HALVES:
        shutil.copytree(prepared / name / "adapter", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


trained_logits = methods.trained_logits


def pinned(*names):
    return [f"{name}@sha256:{digest(Path(name))}" for name in names]


def fit(method, adapters=None, **options):
    adapters = pinned(*HALVES) if adapters is None else adapters
    resume.fit(lora__method=method, lora__options={"adapters": adapters, **options})


SETTINGS = Evaluate(batch_size=4, precision="fp32", top_k=2)
KINDS = {
    "dense": {},
    "top-1": {"top_k_lora": 1},
    "layerwise": {"layerwise_scalings": True, "xlora_depth": 2, "xlora_size": 8},
    "trainable": {"use_trainable_adapters": True},
    "sparse softmax": {"top_k_lora": 1, "enable_softmax": False, "enable_softmax_topk": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_trains_reloads_evaluates_and_exports(folder, trained_logits, kind):
    fit("xlora", **KINDS[kind])
    for name in HALVES:
        shutil.rmtree(name)  # all that is needed is in the adapter's folder
    mixed, labels, normalisation = load_adapter(Path("base"), Path("adapter"))
    assert is_mixture(mixed)
    assert not mixed.training
    assert torch.equal(methods.logits(mixed), trained_logits[0].cpu())
    evaluate(SETTINGS, Path("base"), Path("adapter"), Path("test"), Path("labels.json"), Path("scores"))
    assert read_json(Path("scores/scores.json"))["images"] == 8
    wanted = Export(batch_size=4, onnx_opset=20, max_logit_diff=1e-3, max_check_images=None)
    made = [Path(name) for name in ("scores/predictions.csv", "export", "export.json")]
    export(wanted, "fp32", Path("base"), Path("adapter"), Path("test"), *made)
    report = read_json(Path("export.json"))
    assert report["onnx_agreement"] == report["mixture_agreement"] == 1
    assert "no one set of weights" in report["not_merged"]
    assert sorted(path.name for path in Path("export").iterdir()) == ["README.md", "model.onnx", "vitlora.json"]
    assert "can't be merged" in Path("export/README.md").read_text()
