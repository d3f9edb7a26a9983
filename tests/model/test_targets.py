"""Target names on every model family: the tutorial's query and value must find this version's layers."""

import pytest
import tiny
import torch
from transformers import AutoModelForImageClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from vitlora.core.errors import VitloraError
from vitlora.model.targets import means_fused, resolve_targets

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
VISION = {"vision_config": SMALL, "text_config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
FAMILIES = {
    "vit": (SMALL, 2),
    "deit": (SMALL, 2),
    "beit": (SMALL, 2),
    "dinov2": (SMALL, 2),
    "dinov2_with_registers": (SMALL, 2),
    "swin": (
        {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
        2,
    ),
    "clip": (VISION, 2),
    "siglip": (VISION, 2),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    settings, layers = FAMILIES[request.param]
    config = CONFIG_MAPPING[request.param](**settings)
    config.architectures = []  # as load_base does
    return AutoModelForImageClassification.from_config(config), layers


def linear_names(model):
    return [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]


def test_query_and_value_are_found_once_in_every_layer(family):
    model, layers = family
    found = resolve_targets(["query", "value"], linear_names(model), ["classifier"])
    assert len(found) == 2 * layers
    assert found == resolve_targets(None, linear_names(model), ["classifier"])
    assert found == resolve_targets(["q_proj", "v_proj"], linear_names(model), ["classifier"])
    assert all(name.rsplit(".", 1)[1] in {"query", "value", "q_proj", "v_proj"} for name in found)


def test_all_linear_takes_every_linear_layer_of_the_blocks_and_not_the_head(family):
    model, layers = family
    found = resolve_targets("all-linear", linear_names(model), ["classifier"])
    others = set(linear_names(model)) - set(found)
    assert all(name == "classifier" or name.startswith("vision_model.head.") for name in others)
    assert len(found) >= 6 * layers


@pytest.mark.parametrize(
    "wanted", ["fc1", "intermediate.dense", "fc2", "output.dense", "key", "attention.output.dense"]
)
def test_every_role_is_found_once_a_layer_by_either_spelling(family, wanted):
    model, layers = family
    assert len(resolve_targets([wanted], linear_names(model), ["classifier"])) == layers


def test_attention_and_mlp_outputs_are_told_apart(family):
    model, _ = family
    names = linear_names(model)
    attention, mlp = (set(resolve_targets([name], names, [])) for name in ("attention.output.dense", "fc2"))
    assert not attention & mlp


def test_an_adapter_on_every_family_changes_its_output(family):
    from vitlora.model.adapters import add_adapter
    from vitlora.model.params import Lora

    model, layers = family
    lora = Lora(**tiny.LORA)
    fresh = [name for name, _ in model.named_parameters() if name.startswith("classifier")]
    adapted = add_adapter(model, fresh, lora, 10)
    assert len(adapted.adapted_modules) == 2 * layers
    pixels = torch.rand(1, 3, 32, 32)
    adapted.model.eval()
    with torch.no_grad():
        before = adapted.model(pixel_values=pixels).logits
        for name, weight in adapted.model.named_parameters():
            if "lora_B" in name:
                weight.add_(1.0)
        assert not torch.allclose(before, adapted.model(pixel_values=pixels).logits)


def test_a_regex_matches_the_whole_path():
    names = [f"m.layer.{number}.attention.{part}" for number in range(3) for part in ("q_proj", "v_proj")]
    assert resolve_targets(r".*layer\.[02]\.attention\.q_proj", names, []) == [names[0], names[4]]


@pytest.mark.parametrize("wanted", ["nonsense", ["query", "nonsense"], ["uery"], r"layer\.0", ["classifier"]])
def test_a_name_that_matches_nothing_is_refused_with_the_names_that_exist(wanted):
    names = ["m.layer.0.attention.q_proj", "m.layer.0.attention.v_proj", "m.layer.0.mlp.fc1", "classifier"]
    with pytest.raises(VitloraError, match=r"attention\.q_proj, attention\.v_proj, mlp\.fc1"):
        resolve_targets(wanted, names, ["classifier"])


# Query, key and value in one layer

FUSED = [f"m.blocks.{n}.{role}" for n in (0, 1) for role in ("attn.proj", "attn.qkv", "mlp.fc1", "mlp.fc2")]
QKV = ["m.blocks.0.attn.qkv", "m.blocks.1.attn.qkv"]


@pytest.mark.parametrize("wanted", [["query"], ["k_proj", "query"], ["v_lin"], ["qkv", "key"]])
def test_a_fused_qkv_is_refused_for_a_part_of_it_and_taken_as_the_message_says(wanted):
    with pytest.raises(VitloraError, match=r"got \w+, .*one layer here: write \[qkv\]; this model has .*attn\.qkv"):
        resolve_targets(wanted, FUSED, [])
    assert resolve_targets(["qkv"], FUSED, []) == QKV


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (["query", "value"], QKV),
        (["v_proj", "q_proj"], QKV),
        (["query", "key", "value"], QKV),
        (None, QKV),
        ("attention-qv", QKV),
        (["query", "value", "fc1"], sorted([*QKV, "m.blocks.0.mlp.fc1", "m.blocks.1.mlp.fc1"])),
        ("attention", sorted([*QKV, "m.blocks.0.attn.proj", "m.blocks.1.attn.proj"])),
    ],
)
def test_query_and_value_together_mean_a_fused_qkv_and_that_is_said(wanted, found):
    assert resolve_targets(wanted, FUSED, []) == found
    assert means_fused(wanted, found)


@pytest.mark.parametrize("wanted", [["qkv"], ["attn.qkv", "fc1"], "all-linear", r".*qkv", "mlp"])
def test_nothing_is_said_where_the_layer_was_named(wanted):
    assert not means_fused(wanted, resolve_targets(wanted, FUSED, []))


def test_apart_from_a_fused_layer_query_and_value_are_what_they_say():
    names = ["m.layers.0.attn.q_proj", "m.layers.0.attn.v_proj", "m.layers.1.attn.qkv"]
    assert resolve_targets(None, names, []) == names[:2]
    assert not means_fused(None, names[:2])


@pytest.mark.parametrize("left_out", [["query"], ["query", "value"], ["value"]])
def test_what_is_left_out_must_be_named_by_its_own_name(left_out):
    with pytest.raises(VitloraError, match=r"lora\.exclude_modules: got \w+, which matches no linear layer"):
        resolve_targets("all-linear", FUSED, [], left_out)
    assert not {*QKV} & {*resolve_targets("all-linear", FUSED, [], ["qkv"])}


def test_a_gated_mlp_has_three_layers():
    names = [f"m.blocks.0.mlp.{name}" for name in ("fc1_g", "fc1_x", "fc2")]
    assert resolve_targets("mlp", names, []) == names


@pytest.mark.parametrize("wanted", [None, ["query", "value"], "mlp", ["fc1"], "all-linear"])
def test_a_model_of_convolutions_alone_is_told_so(wanted):
    with pytest.raises(VitloraError, match=r"no linear layer in its blocks .*set lora\.method: head or full"):
        resolve_targets(wanted, ["head.fc"], ["head.fc"])


# Spellings with more of the path

LAYERS = [f"vit.layers.{n}.{role}" for n in (1, 11) for role in ("attention.q_proj", "attention.o_proj", "mlp.fc2")]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("attention.query", ["vit.layers.1.attention.q_proj", "vit.layers.11.attention.q_proj"]),
        ("encoder.layer.1.attention.attention.query", ["vit.layers.1.attention.q_proj"]),
        ("layer.11.attention.output.dense", ["vit.layers.11.attention.o_proj"]),
        ("encoder.layer.1.output.dense", ["vit.layers.1.mlp.fc2"]),
        ("blocks.1.mlp.fc2", ["vit.layers.1.mlp.fc2"]),
    ],
)
def test_a_name_with_more_of_another_spellings_path_means_that_place(wanted, found):
    assert resolve_targets([wanted], LAYERS, []) == found


@pytest.mark.parametrize("wanted", ["decoder.query", "layer.7.attention.query", "query.1", "layer.1.querry", "1"])
def test_a_path_that_leads_elsewhere_matches_nothing(wanted):
    with pytest.raises(VitloraError, match=f"got {wanted}, which matches no linear layer"):
        resolve_targets([wanted], LAYERS, [])
