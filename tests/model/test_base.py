"""Base models of many kinds and sizes: loaded with a new head of the right width, or refused in one line."""

import json

import pytest
import torch
import transformers
from foreign import PROCESSOR, take

from vitlora.core.errors import VitloraError
from vitlora.model.base import load_base
from vitlora.model.fused.choose import _why_not_this_size
from vitlora.model.layer_names import skeleton
from vitlora.safety.check import _across

NAMES = ["blue", "green", "red"]
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}


def make(folder, model, config, dtype=torch.float32, shard="1GB", **settings):
    """Write a random model of a class and a config of transformers, and its image processor's file."""
    torch.manual_seed(0)
    built = getattr(transformers, model)(getattr(transformers, config)(**settings))
    built.to(dtype).save_pretrained(folder, max_shard_size=shard)
    (folder / "preprocessor_config.json").write_bytes(PROCESSOR)


def taken(tmp_path, size):
    """Pass a model through download and load it; one forward has then been done in ``load_base``."""
    take(tmp_path / "m", tmp_path / "b")
    model, _ = load_base(tmp_path / "b", NAMES, size)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


TAKEN = {
    "bf16 in parts, a head of 5": (
        "ViTForImageClassification", "ViTConfig", {**SMALL, "num_labels": 5, "dtype": torch.bfloat16, "shard": "20KB"},
    ),
    "three other classes": ("ViTForImageClassification", "ViTConfig", {**SMALL, "id2label": {0: "x", 1: "y", 2: "z"}}),
    "masked-image ViT": ("ViTForMaskedImageModeling", "ViTConfig", {**SMALL, "encoder_stride": 8}),
    "masked-image BEiT": ("BeitForMaskedImageModeling", "BeitConfig", {**SMALL, "vocab_size": 20}),
    "registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SMALL),
    "data2vec": ("Data2VecVisionModel", "Data2VecVisionConfig", SMALL),
    "a teacher's head": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**SMALL, "num_labels": 7}),
    "SigLIP": ("SiglipModel", "SiglipConfig", {"vision_config": SMALL, "text_config": TEXT}),
    "MSN": ("ViTMSNModel", "ViTMSNConfig", SMALL),
    "I-JEPA": ("IJepaModel", "IJepaConfig", SMALL),
    "Swin": ("SwinModel", "SwinConfig", {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                                         "num_heads": [1, 2], "window_size": 4}),
    "ResNet": ("ResNetForImageClassification", "ResNetConfig", {"embedding_size": 8, "hidden_sizes": [8, 16],
                                                                "depths": [1, 1], "num_labels": 9}),
    "a side as a list": ("HieraModel", "HieraConfig", {"embed_dim": 8, "image_size": [224, 224], "depths": [1, 1, 1, 1],
                                                       "num_heads": [1, 1, 2, 2]}),
    "a side by height and width": (
        "PvtV2ForImageClassification", "PvtV2Config", {"hidden_sizes": [8, 8, 8, 8], "depths": [1] * 4,
                                                       "num_attention_heads": [1] * 4,
                                                       "image_size": {"height": 32, "width": 32}},
    ),
    "BEiT with relative positions": ("BeitModel", "BeitConfig", {**SMALL, "use_relative_position_bias": True}),
    "a number of labels of its own": (
        "PvtForImageClassification", "PvtConfig", {"hidden_sizes": [8, 8, 8, 8], "depths": [1] * 4, "num_labels": 7,
                                                   "num_attention_heads": [1] * 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_it_is_loaded_with_a_head_of_our_classes(tmp_path, name):
    model, config, settings = TAKEN[name]
    make(tmp_path / "m", model, config, **settings)
    taken(tmp_path, 224 if config in ("HieraConfig", "PvtConfig", "ResNetConfig") else 32)


# Sizes


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("ViTModel", "ViTConfig", SMALL),
        ("ViTModel", "ViTConfig", {**SMALL, "image_size": [32, 32]}),
        ("CLIPModel", "CLIPConfig", {"vision_config": SMALL, "text_config": TEXT}),
        ("SiglipModel", "SiglipConfig", {"vision_config": SMALL, "text_config": TEXT}),
        ("IJepaModel", "IJepaConfig", SMALL),
    ],
)
def test_where_positions_are_fixed_another_size_is_refused_with_the_right_one(tmp_path, model, config, settings):
    make(tmp_path / "m", model, config, **settings)
    with pytest.raises(
        VitloraError, match=r"^image\.size_px: got 48; the rule: 32, the size that \w+ in \S+ was trained"
    ):
        load_base(tmp_path / "m", NAMES, 48)
    taken(tmp_path, 32)


def test_a_size_that_a_config_leaves_out_is_the_one_of_its_kind(tmp_path):
    vision = {key: value for key, value in SMALL.items() if key not in ("image_size", "patch_size")}
    make(tmp_path / "m", "SiglipModel", "SiglipConfig", vision_config=vision, text_config=TEXT)
    config = json.loads((tmp_path / "m/config.json").read_text())
    del config["vision_config"]["image_size"], config["vision_config"]["patch_size"]
    (tmp_path / "m/config.json").write_text(json.dumps(config))
    with pytest.raises(VitloraError, match="got 112; the rule: 224, the size that siglip"):
        load_base(tmp_path / "m", NAMES, 112)
    taken(tmp_path, 224)


@pytest.mark.parametrize("size", [40, 64])
@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("Dinov2Model", "Dinov2Config", SMALL),
        ("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8] * 4, "depths": [1] * 4}),
        ("MobileNetV2Model", "MobileNetV2Config", {"depth_multiplier": 0.25, "image_size": 96}),
        ("Swinv2Model", "Swinv2Config", {"image_size": 32, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}),
    ],
)
def test_where_any_size_fits_any_is_taken(tmp_path, model, config, settings, size):
    make(tmp_path / "m", model, config, **settings)
    taken(tmp_path, size)


@pytest.mark.parametrize(
    ("model", "config", "settings"),
    [
        ("ViTModel", "ViTConfig", {**SMALL, "image_size": 30}),
        ("SiglipModel", "SiglipConfig", {"vision_config": {**SMALL, "image_size": 30}, "text_config": TEXT}),
        ("ViTMSNModel", "ViTMSNConfig", {**SMALL, "image_size": 39}),
    ],
)
def test_a_size_that_leaves_a_border_is_taken_where_the_base_was_trained_so(tmp_path, model, config, settings):
    """As SigLIP's, of 384 px and patches of 14. One rule must not ask for what another refuses."""
    make(tmp_path / "m", model, config, **settings)
    size = settings.get("vision_config", settings)["image_size"]
    assert list(_across({"image": {"size_px": size}}, tmp_path / "m")) == []
    assert "a multiple of the base model's patch" in next(_across({"image": {"size_px": size - 1}}, tmp_path / "m"))
    taken(tmp_path, size)


@pytest.mark.parametrize(("size", "patch", "said"), [(30, 8, "30 px are no"), (32, [8, 8], ""), (30, [8, 8], "8 px")])
def test_such_a_size_is_nothing_for_the_fused_step(size, patch, said):
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**{**SMALL, "patch_size": patch}))
    why = _why_not_this_size(model, size)
    assert said in why
    assert bool(said) == bool(why)


# What transformers raises


ODD = {
    "an activation that isn't": {"hidden_act": "nope"},
    "text for a number": {"layer_norm_eps": "1e-12"},
    "no heads": {"num_attention_heads": 0},
    "half a patch": {"patch_size": 0},
    "kind of a list": {"model_type": ["vit"]},
    "kind of null": {"model_type": None},
    "flash attention": {"attn_implementation": "flash_attention_2"},
    "a dropout of two": {"hidden_dropout_prob": 2},
    "labels as a list": {"id2label": ["a"]},
    "8 bits": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "no dtype": {"dtype": "weird"},
    "without a classifier": {"model_type": "vit_mae"},
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_transformers_raises_is_one_line(tmp_path, name):
    """For a base that came another way than through download."""
    make(tmp_path / "m", "ViTModel", "ViTConfig", **SMALL)
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**config, **ODD[name]}))
    with pytest.raises(VitloraError, match=r"m: transformers cannot load it: \S.+") as caught:
        load_base(tmp_path / "m", NAMES, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["vit_mae", "imagegpt2", "nope", None])
def test_so_it_is_for_the_skeleton(tmp_path, kind):
    make(tmp_path / "m", "ViTModel", "ViTConfig", **SMALL)
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps({**config, "model_type": kind}))
    with pytest.raises(VitloraError, match=r"m: transformers cannot load it: \S.+") as caught:
        skeleton(tmp_path / "m")
    assert "\n" not in str(caught.value)


def test_a_model_that_takes_no_squares_is_refused(tmp_path):
    make(tmp_path / "m", "Siglip2Model", "Siglip2Config", vision_config=SMALL, text_config=TEXT)
    with pytest.raises(VitloraError, match=r"siglip2 cannot take a square of \d+ px: |image\.size_px: got "):
        load_base(tmp_path / "m", NAMES, 32)


FEWER = {
    "ViT": ("ViTForImageClassification", "ViTConfig", SMALL, ("num_hidden_layers", 1)),
    "MSN": ("ViTMSNModel", "ViTMSNConfig", SMALL, ("num_hidden_layers", 1)),
    "CLIP": ("CLIPModel", "CLIPConfig", {"vision_config": SMALL, "text_config": TEXT}, ("num_hidden_layers", 1)),
    "Swin": (
        "SwinModel",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4},
        ("depths", [1, 1]),
    ),
}


@pytest.mark.parametrize("name", FEWER)
def test_a_config_of_fewer_layers_than_the_weights_is_refused(tmp_path, name):
    model, config, settings, (key, value) = FEWER[name]
    make(tmp_path / "m", model, config, **settings)
    take(tmp_path / "m", tmp_path / "b")
    load_base(tmp_path / "b", NAMES, 32)
    content = json.loads((tmp_path / "b/config.json").read_text())
    content.get("vision_config", content)[key] = value
    (tmp_path / "b/config.json").write_text(json.dumps(content))
    with pytest.raises(
        VitloraError, match=r"config\.json has fewer layers than the weights, which hold .* and \d+ more"
    ):
        load_base(tmp_path / "b", NAMES, 32)
