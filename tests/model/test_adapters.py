"""Adapters: the recipe's numbers, what is refused, and folders that say everything and always the same."""

import json
import warnings

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from vitlora.core.errors import VitloraError
from vitlora.core.params import load_params, read_document
from vitlora.model.adapters import add_adapter, load_adapter, save_adapter
from vitlora.model.base import Normalisation, load_base
from vitlora.model.params import Lora
from vitlora.storage.labels import Labels
from vitlora.train.params import TrainStage

LABELS = Labels(["blue", "green", "red"], 32, "bilinear")
HALF = Normalisation([0.5] * 3, [0.5] * 3)


def lora(**changes) -> Lora:
    return Lora(**{**tiny.LORA, "r": 4, "lora_alpha": 8.0, **changes})


@pytest.fixture
def base(tmp_path):
    tiny.make_base(tmp_path / "base")
    return tmp_path / "base"


def test_the_recipe_adapts_24_layers_and_trains_667493_of_86543818():
    path = tiny.ROOT / "presets/food101.yaml"
    recipe = load_params(TrainStage, read_document(path), path)
    with torch.device("meta"):  # only shapes matter, and ViT-B has 344 MB of them
        model = ViTForImageClassification(ViTConfig(num_labels=101))
    adapted = add_adapter(model, ["classifier.weight", "classifier.bias"], recipe.lora, 10)
    assert len(adapted.adapted_modules) == 24
    assert (adapted.trainable, adapted.total) == (667_493, 86_543_818)


@pytest.mark.parametrize(("bias", "trained"), [("none", 0), ("lora_only", 8), ("all", 8)])
def test_bias_is_trained_as_asked(base, bias, trained):
    model, fresh = load_base(base, LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, lora(bias=bias), 10)
    biases = [
        n for n, w in adapted.model.named_parameters() if w.requires_grad and "bias" in n and "classifier" not in n
    ]
    assert len(biases) == 0 if trained == 0 else len(biases) >= 4
    assert (bias == "all") == any("layernorm" in name.lower() or "fc1" in name for name in biases)


def test_a_head_that_would_stay_random_is_refused(base):
    model, fresh = load_base(base, LABELS.class_names, 32)
    with pytest.raises(VitloraError, match=r"lora\.modules_to_save: got .*classifier is new and must be among them"):
        add_adapter(model, fresh, lora(modules_to_save=["layernorm"]), 10)


def test_a_module_to_save_that_names_nothing_is_refused(base):
    model, fresh = load_base(base, LABELS.class_names, 32)
    with pytest.raises(VitloraError, match=r"got clasifier, which names no module"):
        add_adapter(model, fresh, lora(modules_to_save=["clasifier"]), 10)


def test_a_rank_above_the_layer_is_refused(base):
    model, fresh = load_base(base, LABELS.class_names, 32)
    with pytest.raises(VitloraError, match=r"lora\.r: got 33; the rule: no larger than .*32"):
        add_adapter(model, fresh, lora(r=33), 10)


def trained(base, **changes):
    torch.manual_seed(1)
    model, fresh = load_base(base, LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, lora(**changes), 10).model
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.3)
    return adapted.eval()


@pytest.mark.parametrize("bias", ["none", "all", "lora_only"])
def test_a_saved_adapter_gives_the_same_logits_when_loaded_from_its_folder(base, tmp_path, bias):
    model = trained(base, bias=bias)
    save_adapter(model, tmp_path / "adapter", base, LABELS, HALF, {})
    merged, labels, normalisation = load_adapter(base, tmp_path / "adapter")
    pixels = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(pixel_values=pixels).logits, merged(pixel_values=pixels).logits, atol=1e-4)
    assert (labels, normalisation) == (LABELS, HALF)


def test_plain_peft_loads_the_folder_too(base, tmp_path):
    from peft import PeftModel

    model = trained(base)
    save_adapter(model, tmp_path / "adapter", base, LABELS, HALF, {})
    fresh, _ = load_base(base, LABELS.class_names, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        loaded = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    pixels = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, loaded(pixel_values=pixels).logits)


def test_the_config_is_sorted_and_names_the_base_by_a_relative_path(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_adapter(trained(base, target_modules=["value", "query", "fc1"]), tmp_path / "adapter", base, LABELS, HALF, {})
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["base_model_name_or_path"] == "base"


def test_an_adapter_without_some_of_its_weights_is_refused(base, tmp_path):
    save_adapter(trained(base), tmp_path / "adapter", base, LABELS, HALF, {})
    path = tmp_path / "adapter/adapter_model.safetensors"
    weights = load_file(path)
    weights.pop(next(name for name in weights if "lora_A" in name))
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(VitloraError, match="does not fit"):
        load_adapter(base, tmp_path / "adapter")


def test_an_adapter_of_other_base_weights_is_refused(base, tmp_path):
    save_adapter(trained(base), tmp_path / "adapter", base, LABELS, HALF, {})
    weights = load_file(base / "model.safetensors")
    save_file({name: weight + 1 for name, weight in weights.items()}, base / "model.safetensors")
    with pytest.raises(VitloraError, match="trained on other weights"):
        load_adapter(base, tmp_path / "adapter")


def test_a_backbone_with_missing_weights_is_refused(base):
    weights = load_file(base / "model.safetensors")
    weights.pop(next(name for name in weights if "fc1" in name or "intermediate" in name))
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(VitloraError, match="1 weights of the backbone are missing"):
        load_base(base, LABELS.class_names, 32)


def test_an_image_size_the_model_was_not_made_for_is_refused(base):
    with pytest.raises(VitloraError, match=r"image\.size_px: got 40; the rule: 32"):
        load_base(base, LABELS.class_names, 40)
