"""Every method of `lora.method` on a model of timm, whose query, key and value are one layer."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import timm
import torch
import training
from method_runs import OPTIONS
from timm.models import save_for_hf

from vitlora.core.errors import VitloraError
from vitlora.download.params import ModelSource
from vitlora.download.stage import fetch_base
from vitlora.model.adapters import load_adapter
from vitlora.model.base import load_base
from vitlora.model.params import MIXTURES, WITHOUT_ADAPTER, Method
from vitlora.storage.manifest import digest
from vitlora.storage.squares import load_split

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8}


@pytest.fixture
def dinov3(without_base):
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_dinov3", **SMALL)
    save_for_hf(model, without_base / "made", model_args=SMALL, safe_serialization=True)
    fetch_base(ModelSource(source="timm", path="made", revision=None), Path("base"))
    return without_base


QUICK = ("dora", "oft")
METHODS = [name for name in get_args(Method) if name not in MIXTURES and name != "lora"]


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.faults) for name in METHODS]
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # SHiRA's weights
def test_every_method_goes_to_a_fused_qkv_learns_and_is_reloaded(dinov3, method):
    options = OPTIONS.get(method, {})
    training.fit(
        lora__method=method, lora__options=options, lora__target_modules="attention", train__num_train_epochs=1
    )
    metrics = json.loads(Path("metrics.json").read_text())
    if method not in ("ln_tuning", *WITHOUT_ADAPTER):
        kinds = {".".join(layer.split(".")[-2:]) for layer in metrics["target_modules"]}
        assert kinds == {"attn.qkv", "attn.proj"}
    merged, labels, normalise = load_adapter(Path("base"), Path("adapter"))
    plain, fresh = load_base(Path("base"), labels.class_names, 32)
    assert all(name.startswith("timm_model.head.") for name in fresh)
    pixels = normalise(torch.as_tensor(np.array(load_split(Path("test")).images[:4])))
    with torch.inference_mode():
        features = [each.timm_model.eval().forward_features(pixels) for each in (merged, plain)]
    assert torch.equal(*features) == (method == "head"), "only that leaves the features as they were"
    training.evaluate_here()
    training.export_here(("transformers", "onnx"))


def test_two_adapters_are_merged_into_one_and_xlora_is_refused(dinov3):
    pinned = []
    for seed in (1, 2):
        training.fit(train__num_train_epochs=1, train__seed=seed)
        Path("adapter").rename(f"adapter.{seed}")
        pinned.append(f"adapter.{seed}@sha256:{digest(Path(f'adapter.{seed}'))}")
    training.fit(lora__method="merge", lora__options={"adapters": pinned}, train__num_train_epochs=1)
    training.evaluate_here()
    training.export_here(("transformers", "onnx"))
    with pytest.raises(VitloraError, match=r"^lora\.method: xlora cannot mix .* on timm_wrapper: .*; use method merge"):
        training.fit(lora__method="xlora", lora__options={"adapters": pinned}, train__num_train_epochs=1)
