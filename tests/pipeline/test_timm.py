"""A base model of timm in a real project: `auto` follows it, and what changes reruns what depends on it."""

import csv
import json
import sys

import pytest
import timm
import tiny
import torch
from timm.models import save_for_hf

pytestmark = pytest.mark.faults  # three runs of the pipeline
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
PARAMS = {
    "model.source": "timm",
    "model.path": "of_timm",
    "image.size_px": "auto",
    "image.interpolation": "auto",
}


def save(folder, seed, side):
    """Write a random DINOv3 as timm does, trained at squares of such a side."""
    torch.manual_seed(seed)
    arguments = {**SMALL, "img_size": side}
    model = timm.create_model("vit_small_patch16_dinov3", **arguments)
    own = {"input_size": (3, side, side), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_for_hf(model, folder, model_args=arguments, safe_serialization=True, data_config=own)


def labels(root):
    found = json.loads((root / "data/prepared/labels.json").read_text())
    return found["image_size"], found["interpolation"]


def test_auto_follows_the_base_and_other_weights_leave_the_pictures_as_they_are(tmp_path):
    root = tiny.make_project(tmp_path / "project", PARAMS)
    save(root / "of_timm", 0, 32)
    everything = ["download", "preprocess", "train", "evaluate", "export"]
    assert tiny.dvc(root, "repro") == everything
    assert labels(root) == (32, "bicubic")
    with (root / "metrics/evaluate/predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    pictures = [f"pictures/{row['path']}" for row in rows]
    said = tiny.run(root, sys.executable, "-m", "vitlora", "predict", "--json", *pictures, env={"PYTHONPATH": "src"})
    assert said.returncode == 0, said.stderr
    best = [json.loads(line)["predictions"][0]["class"] for line in said.stdout.splitlines()]
    assert best == [row["predicted"] for row in rows]

    save(root / "of_timm", 1, 32)
    assert tiny.dvc(root, "repro") == ["download", "train", "evaluate", "export"]
    assert labels(root) == (32, "bicubic")

    save(root / "of_timm", 1, 48)
    assert tiny.dvc(root, "repro") == everything
    assert labels(root) == (48, "bicubic")
