"""Adapters: the recipe's numbers, what is refused, and folders that say everything and always the same."""

import json
import warnings

import pytest
import tiny
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification

from vitlora.core.errors import VitloraError
from vitlora.core.params import load_params, read_document
from vitlora.model.adapters import add_adapter, load_adapter, quietly, save_adapter
from vitlora.model.base import Normalisation, load_base
from vitlora.model.methods import described
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


def refused(base, **changes):
    model, fresh = load_base(base, LABELS.class_names, 32)
    with pytest.raises(VitloraError) as error:
        add_adapter(model, fresh, lora(**changes), 10)
    return str(error.value)


def ranks_of(base, **changes):
    """Return rank and scale of each adapted layer, as PEFT has built them."""
    model, fresh = load_base(base, LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, lora(**changes), 10)
    layers = adapted.model.base_model.model.named_modules()
    built = {n: (m.r["default"], m.scaling["default"]) for n, m in layers if hasattr(m, "lora_A")}
    assert sorted(built) == adapted.adapted_modules
    return built


# A layer's place, and the names that may mean it: this version's, others', a path's end, a regex for one.
QUERY = [
    "query",
    "attention.query",
    "attention.attention.query",
    "q_proj",
    "attention.q_proj",
    "q_lin",
    ".*q_proj",
    "(q|x)_proj",
    "layers.[01].*q_proj",
]


@pytest.mark.parametrize("name", QUERY)
def test_a_rank_pattern_reaches_the_layers_that_its_key_means(base, name):
    built = ranks_of(base, options={"rank_pattern": {name: 8}, "alpha_pattern": {name: 2.0}})
    assert {layer: values for layer, values in built.items() if "q_proj" in layer} == {
        f"vit.layers.{block}.attention.q_proj": (8, 2.0 / 8) for block in (0, 1)
    }
    assert {values for layer, values in built.items() if "v_proj" in layer} == {(4, 8.0 / 4)}


def test_a_key_for_one_block_goes_before_one_for_all_if_it_stands_first(base):
    built = ranks_of(base, options={"rank_pattern": {"layers.1.attention.q_proj": 2, "query": 8}})
    assert [values[0] for layer, values in sorted(built.items()) if "q_proj" in layer] == [8, 2]
    said = refused(base, options={"rank_pattern": {"query": 8, "layers.1.attention.q_proj": 2}})
    assert "rank_pattern: got layers.1.attention.q_proj behind one that means its layers too; put it first" in said


@pytest.mark.parametrize("key", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("name", ["key", "fc1", "querry", "classifier", "layers.7.attention.q_proj", "roj", "vit"])
def test_a_pattern_that_means_no_adapted_layer_is_refused_with_those_there_are(base, key, name):
    said = refused(base, options={key: {name: 3}})
    assert (
        f"lora.options.{key}: got {name}, which means no adapted layer; these are attention.q_proj, attention.v_proj"
        in said
    )


def test_a_pattern_that_is_no_regex_is_refused(base):
    assert "rank_pattern: got (q; the rule: a name, or a regex that compiles" in refused(
        base, options={"rank_pattern": {"(q": 3}}
    )


@pytest.mark.parametrize("name", ["query", "layers.1.attention.q_proj"])
def test_a_rank_above_its_layer_is_refused_in_a_pattern_too(base, name):
    said = refused(base, options={"rank_pattern": {name: 33}})
    assert "lora.options.rank_pattern: got 33; the rule: no larger than vit.layers." in said


@pytest.mark.parametrize(("method", "key"), [("adalora", "init_r"), ("loha", "r"), ("hra", "r"), ("delora", "r")])
def test_a_rank_above_its_layer_is_refused_for_other_methods(base, method, key):
    options = {key: 33, **({"target_r": 2} if method == "adalora" else {})}
    assert f"lora.options.{key}: got 33; the rule: no larger than" in refused(base, method=method, options=options)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("rank_pattern", {"query": 0}, "at least 1"),
        ("rank_pattern", {"query": -4}, "at least 1"),
        ("rank_pattern", {"query": "8"}, "a whole number"),
        ("alpha_pattern", {"query": -1.0}, "above 0"),
        ("alpha_pattern", {"query": 0}, "above 0"),
        ("rank_pattern", {"": 8}, "not empty"),
    ],
)
def test_values_of_a_pattern_have_the_rules_of_rank_and_alpha(key, value, rule):
    with pytest.raises(ValidationError, match=rf"options\.{key}.*{rule}"):
        lora(options={key: value})


@pytest.mark.parametrize("name", ["q_proj", "query", "attention.q_proj", "value"])
def test_a_name_where_a_regex_is_meant_is_told_and_the_cure_works(base, name):
    said = refused(base, target_modules=name)
    assert (
        f"got {name}, which matches no linear layer; text is a regex for a layer's whole path: write [{name}]" in said
    )
    assert ranks_of(base, target_modules=[name])


@pytest.mark.parametrize("name", [".*nothing", "xyz"])
def test_a_regex_that_matches_nothing_is_no_name_either(base, name):
    assert "which matches no linear layer; this model has" in refused(base, target_modules=name)


@pytest.mark.parametrize(
    "saved", ["layers.1", "vit.layers.1", "layers.1.attention", "layers.0.attention.v_proj", "layernorm"]
)
def test_what_is_trained_in_full_gets_no_adapter_and_comes_back(base, tmp_path, saved):
    model, fresh = load_base(base, LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, lora(modules_to_save=["classifier", saved]), 10)
    assert not any(f".{saved}." in f".{name}." for name in adapted.adapted_modules)
    wanted = [name for name, weight in adapted.model.named_parameters() if weight.requires_grad and "lora_" not in name]
    assert len(wanted) > 2
    with torch.no_grad():
        for weight in adapted.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.05)
    method = described(lora(modules_to_save=["classifier", saved]), adapted.adapted_modules)
    save_adapter(adapted.model, tmp_path / "a", base, LABELS, HALF, method)
    images = torch.rand(2, 3, 32, 32)
    again, _, _ = load_adapter(base, tmp_path / "a")
    with torch.no_grad():
        assert torch.allclose(
            adapted.model.eval()(pixel_values=images).logits, again(pixel_values=images).logits, atol=1e-5
        )


@pytest.mark.parametrize(
    "saved",
    [
        ["classifier", "layers.1", "layers.1.attention"],
        ["classifier", "classifier"],
        ["layers.0.mlp.fc1", "mlp", "classifier"],
    ],
)
def test_modules_to_save_within_each_other_are_refused(base, saved):
    assert "lies in" in refused(base, modules_to_save=saved)


def test_all_blocks_trained_in_full_leave_none_to_adapt(base):
    assert "no linear layer in its blocks that is left to adapt" in refused(base, modules_to_save=["classifier", "vit"])


def test_boft_compiles_no_extension(base, monkeypatch):
    """Where a CUDA compiler is installed PEFT would try, with pages of errors where that fails."""

    def compiled(*args, **kwargs):
        raise AssertionError("an extension was to be compiled")

    monkeypatch.setattr("torch.utils.cpp_extension.load", compiled)
    model, fresh = load_base(base, LABELS.class_names, 32)
    assert add_adapter(model, fresh, lora(method="boft"), 10).adapted_modules


def test_what_peft_warns_of_is_a_line_of_ours(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with quietly():
            for _ in range(2):
                warnings.warn("Unheard of: it\nmay fail", UserWarning, stacklevel=1)
            warnings.warn("Sparse invariant checks are implicitly disabled", UserWarning, stacklevel=1)
    assert capsys.readouterr() == ("note: Unheard of: it\n", "")


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


@pytest.mark.parametrize("options", [{"init_r": 4, "target_r": 8}, {"init_r": 4}, {"target_r": 64}])
def test_adalora_cannot_end_above_where_it_begins(options):
    with pytest.raises(ValidationError, match=r"target_r \(\d+\) is at most init_r \(\d+\)"):
        lora(method="adalora", options=options)
