"""Which way a step runs, and in how large a micro-batch."""

import pytest
import timm
import torch
from ruamel.yaml import YAML
from tiny import ROOT
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from vitlora.model.base import Normalisation
from vitlora.model.fused import choose as step
from vitlora.train.params import Train
from vitlora.train.step import Way, blocks, install, micro_batch, precision

RECIPE = Train.model_validate(YAML(typ="safe").load(ROOT / "presets/food101.yaml")["train"])
GIB = 2**30


def with_a_gpu(monkeypatch, free_bytes: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_bytes, free_bytes))


@pytest.mark.parametrize(
    ("free_gib", "change", "expected"),
    [
        (79, {}, (512, 1)),
        (24, {}, (256, 2)),
        (12, {}, (128, 4)),
        (79, {"join_micro_batches": False}, (128, 4)),
        (79, {"gradient_accumulation_steps": 40}, (1024, 5)),
        (12, {"gradient_accumulation_steps": 1}, (128, 1)),
    ],
)
def test_the_recipes_micro_batches_are_joined_as_far_as_memory_holds_them(monkeypatch, free_gib, change, expected):
    with_a_gpu(monkeypatch, free_gib * GIB)
    assert micro_batch(RECIPE.model_copy(update=change), ViTConfig(), 224) == expected


def test_on_the_cpu_and_for_models_of_unknown_size_they_stay_apart(monkeypatch):
    assert micro_batch(RECIPE, ViTConfig(), 224) == (128, 4)
    with_a_gpu(monkeypatch, 79 * GIB)
    assert micro_batch(RECIPE, object(), 224) == (128, 4)


@pytest.mark.parametrize("wanted", ["fused", "compiled", "eager"])
def test_on_the_cpu_the_step_is_eager(wanted):
    assert install(
        nn.Linear(1, 1), RECIPE.model_copy(update={"step": wanted}), "fp32", Normalisation([0.5], [0.5]), 8
    ) == Way("eager")


def test_a_step_that_cannot_be_fused_says_why(monkeypatch):
    grey = Normalisation([0.5], [0.5])
    assert "fp16 or bf16" in step.try_to_fuse(nn.Linear(1, 1), "fp32", grey, 8)
    monkeypatch.setattr(step.importlib.util, "find_spec", lambda name: None)
    assert "Triton" in step.try_to_fuse(nn.Linear(1, 1), "fp16", grey, 8)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_bf16_runs_on_a_processor_that_has_it(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert precision(RECIPE.model_copy(update={"fp16": False, "bf16": True})) == expected
    assert precision(RECIPE) == "fp32"


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"])
def test_the_blocks_of_a_timm_model_are_found_for_compiling(name):
    with torch.device("meta"):
        model = timm.create_model(name, depth=3)
    assert blocks(model) == list(model.blocks)
    with torch.device("meta"):
        theirs = ViTForImageClassification(ViTConfig(num_hidden_layers=3))
    assert len(blocks(theirs)) == 3
