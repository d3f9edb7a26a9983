"""Adapter folders: other versions' layer names, what is missing or odd, plain LoRA, and the last look at a new one."""

import re
import sys
import warnings
from contextlib import ExitStack, suppress

import numpy as np
import psutil
import pytest
import tiny
import torch
from method_runs import OPTIONS, logits
from peft import PeftModel
from safetensors.torch import load_file, save_file

from vitlora.cli import main
from vitlora.cli.as_lora import write_as_lora
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.adapters import add_adapter, load_adapter, save_adapter
from vitlora.model.base import Normalisation, load_base
from vitlora.model.layer_names import convert, place, skeleton
from vitlora.model.methods import described, ranks
from vitlora.model.params import Lora
from vitlora.safety.reload import plain, reloading
from vitlora.storage.labels import Labels
from vitlora.storage.manifest import problems
from vitlora.storage.squares import create_split, open_pixels

LABELS = Labels(["blue", "green", "red"], 32, "bilinear")
HALF = Normalisation([0.5] * 3, [0.5] * 3)
WEIGHTS = "adapter_model.safetensors"
# A layer's name as transformers 4 has it, from this version's.
OLD = [
    ("vit.layers.", "vit.encoder.layer."),
    (r"attention\.(?=[qkv]_proj)", "attention.attention."),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled"),
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    tiny.make_base(root / "vit")
    tiny.make_dinov2(root / "dinov2", 32)
    return root


@pytest.fixture
def base(bases):
    return bases / "vit"


def make(base, folder, method="lora", **changes):
    """Save an adapter that says something, and return its model."""
    lora = Lora(
        **{**tiny.LORA, "method": method, "options": OPTIONS.get(method, {}), "target_modules": "all-linear", **changes}
    )
    torch.manual_seed(2)
    model, fresh = load_base(base, LABELS.class_names, 32)
    adapted = add_adapter(model, fresh, lora, 10)
    for weight in adapted.model.parameters():
        if weight.requires_grad:
            weight.data += torch.randn_like(weight) * 0.1
    metrics = {"val_accuracy": 0.75, "best_epoch": 1}
    save_adapter(adapted.model, folder, base, LABELS, HALF, described(lora, adapted.adapted_modules), metrics)
    return adapted.model


def as_transformers_4_named_it(name):
    for new, old in OLD:
        name = re.sub(new, old, name)
    return name


def make_old(folder):
    """Give a ViT's adapter folder the names of transformers 4, by hand."""
    file = next(folder.glob("*.safetensors"))
    save_file({as_transformers_4_named_it(key): value for key, value in load_file(file).items()}, file)
    if (folder / "adapter_config.json").exists():
        config = read_json(folder / "adapter_config.json")
        config["target_modules"] = sorted(map(as_transformers_4_named_it, config["target_modules"]))
        if config.get("rank_pattern"):
            config["rank_pattern"] = {as_transformers_4_named_it(k): v for k, v in config["rank_pattern"].items()}
        if config.get("feedforward_modules"):
            config["feedforward_modules"] = sorted(map(as_transformers_4_named_it, config["feedforward_modules"]))
        write_json(folder / "adapter_config.json", config)


def keys(folder):
    return sorted(load_file(next(folder.glob("*.safetensors"))))


@pytest.mark.parametrize(
    "method", ["lora", "dora", "adalora", "loha", "ia3", "ln_tuning", "vera", "vblora", "oft", "full"]
)
def test_an_adapter_with_the_names_of_transformers_4_gives_the_same_logits(base, tmp_path, method):
    before = logits(make(base, tmp_path / "a", method))
    ours = keys(tmp_path / "a")
    make_old(tmp_path / "a")
    assert keys(tmp_path / "a") != ours
    assert torch.allclose(logits(load_adapter(base, tmp_path / "a")[0]), before, atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_conversion_to_the_old_names_and_back_gives_the_same_folder(bases, tmp_path, kind):
    base = bases / kind
    before = logits(make(base, tmp_path / "a"))
    model = skeleton(base)
    renamed = convert(tmp_path / "a", tmp_path / "old", model, "old")
    assert (renamed > 0) == any("q_proj" in key for key in keys(tmp_path / "a")), "some versions have old names still"
    assert any(".attention.attention.query.lora_A." in key for key in keys(tmp_path / "old"))
    assert torch.allclose(logits(load_adapter(base, tmp_path / "old")[0]), before, atol=1e-5)
    assert convert(tmp_path / "old", tmp_path / "new", model, "current") == renamed
    for name in (WEIGHTS, "vitlora.json", "adapter_config.json"):
        assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "a" / name).read_bytes(), name


def test_an_adapter_of_a_later_version_gives_the_same_logits(bases, tmp_path):
    """DINOv2's query was renamed after 5.14; whichever of the two versions this is, both names load."""
    before = logits(make(bases / "dinov2", tmp_path / "a", target_modules=["query", "value"]))
    for old, new in (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.value", "attention.v_proj"),
    ):
        weights = load_file(tmp_path / "a" / WEIGHTS)
        save_file({key.replace(old, new): value for key, value in weights.items()}, tmp_path / "a" / WEIGHTS)
    config = read_json(tmp_path / "a/adapter_config.json")
    write_json(tmp_path / "a/adapter_config.json", {**config, "target_modules": ["q_proj", "v_proj"]})
    assert torch.allclose(logits(load_adapter(bases / "dinov2", tmp_path / "a")[0]), before, atol=1e-5)


def test_the_old_names_of_vit_are_those_written_down_here(base, tmp_path):
    make(base, tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "old", skeleton(base), "old")
    assert keys(tmp_path / "old") == sorted(map(as_transformers_4_named_it, keys(tmp_path / "a")))


def test_a_folder_of_peft_alone_with_short_names_and_patterns_is_converted(base, tmp_path):
    """As someone's tutorial left it: `query` and `value`, a rank of its own for one, no vitlora.json."""
    options = {"rank_pattern": {"vit.layers.1.attention.q_proj": 3}}
    trained = make(base, tmp_path / "a", target_modules=["query", "value"], options=options)
    before = logits(trained)
    make_old(tmp_path / "a")
    (tmp_path / "a/vitlora.json").unlink()
    config = read_json(tmp_path / "a/adapter_config.json")
    patterns = {"layer.1.attention.attention.query": 3}
    write_json(
        tmp_path / "a/adapter_config.json", {**config, "target_modules": ["query", "value"], "rank_pattern": patterns}
    )
    convert(tmp_path / "a", tmp_path / "new", skeleton(base), "current")
    assert read_json(tmp_path / "new/adapter_config.json")["rank_pattern"] == options["rank_pattern"]
    fresh, _ = load_base(base, LABELS.class_names, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        assert torch.allclose(logits(PeftModel.from_pretrained(fresh, tmp_path / "new")), before, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("swin.encoder.layers.2.blocks.1.attention.self.query", "swin.layers.2.blocks.1.attention.q_proj"),
        ("beit.encoder.layer.3.output.dense", "beit.layers.3.mlp.fc2"),
        ("dinov2.encoder.layer.11.attention.output.dense", "dinov2.encoder.layer.11.attention.o_proj"),
        ("clip.vision_model.layers.0.self_attn.out_proj", "clip.vision_model.encoder.layers.0.attention.o_proj"),
    ],
)
def test_two_versions_names_of_a_layer_mean_one_place(one, other):
    assert place(one) == place(other)
    assert place(one) != place(one.replace("query", "value").replace("dense", "LayerNorm").replace("out_", "k_"))


@pytest.mark.parametrize("method", ["lora", "adalora", "loha", "vblora", "vera", "ia3", "head", "full"])
@pytest.mark.parametrize("change", ["missing", "unexpected", "no head"])
def test_a_weight_too_few_or_too_many_is_named(base, tmp_path, method, change):
    make(base, tmp_path / "a", method)
    file = next((tmp_path / "a").glob("*.safetensors"))
    weights = load_file(file)
    heads = [key for key in weights if "classifier" in key]
    name = heads[0] if change == "no head" or method == "head" else min(set(weights) - set(heads))
    if change == "unexpected":
        name = name.replace("0", "7") if "0" in name else f"{name}.more"
        weights[name] = torch.zeros(2)
    else:
        del weights[name]
    save_file(weights, file)
    what = "belongs to no layer" if change == "unexpected" else "is missing"
    with pytest.raises(VitloraError, match=rf"does not fit the base model: {re.escape(name)} {what}"):
        load_adapter(base, tmp_path / "a")


@pytest.mark.parametrize("method", ["loha", "lokr", "vera", "gralora", "fourierft"])
def test_a_method_becomes_lora_exactly_at_full_rank(base, tmp_path, method):
    before = logits(make(base, tmp_path / "a", method))
    report = write_as_lora(tmp_path / "a", tmp_path / "lora", base, 32, None)
    assert report["agreement"] == 1.0
    assert report["max_logit_difference"] < 1e-4
    merged, labels, _ = load_adapter(base, tmp_path / "lora")
    assert torch.allclose(logits(merged), before, atol=1e-4)
    assert labels == LABELS
    bundle = read_json(tmp_path / "lora/vitlora.json")
    assert bundle["method"]["name"] == "lora"
    assert bundle["converted"] == {"from": read_json(tmp_path / "a/vitlora.json")["method"], **report}
    assert read_json(tmp_path / "lora/adapter_config.json")["peft_type"] == "LORA"


def squares(folder):
    create_split(folder, 32, [f"{row}.png" for row in range(12)], [row % 3 for row in range(12)], [""] * 12)
    pixels = open_pixels(folder, "r+")
    pixels[:] = np.random.default_rng(3).integers(0, 256, pixels.shape, np.uint8)
    return folder


def vitlora(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["vitlora", *map(str, words)])
    with suppress(SystemExit):
        main()
    return capsys.readouterr()


def test_the_verb_reports_what_a_small_rank_costs(base, tmp_path, monkeypatch, capsys):
    make(base, tmp_path / "a", "loha")
    words = [
        "as-lora",
        tmp_path / "a",
        tmp_path / "b",
        "--base",
        base,
        "--rank",
        2,
        "--test",
        squares(tmp_path / "test"),
    ]
    shown = vitlora(monkeypatch, capsys, "adapter", *words)
    assert re.search(r"rank 2; on 12 images a logit differs by at most .*\naccuracy .* before, .* after", shown.out)
    report = read_json(tmp_path / "b/vitlora.json")["converted"]
    assert report["max_logit_difference"] > 1e-3, "an approximation"
    assert {"accuracy_before", "accuracy_after", "agreement", "rank"} < report.keys()
    assert list(problems(tmp_path / "b")) == []


def test_the_verb_converts_names_and_refuses_what_it_cannot_do(base, tmp_path, monkeypatch, capsys):
    make(base, tmp_path / "a", "adalora")

    def adapter(*words):
        return vitlora(monkeypatch, capsys, "adapter", *words, "--base", base)

    shown = adapter("convert", tmp_path / "a", tmp_path / "old", "--names", "old")
    assert re.search(r"old: 36 weights renamed", shown.out), shown
    assert "is there already" in adapter("convert", tmp_path / "a", tmp_path / "old").err
    assert "has no adapter_model.safetensors" in adapter("convert", base, tmp_path / "x").err
    refused = adapter("as-lora", tmp_path / "a", tmp_path / "b", "--rank", 2).err
    assert refused.startswith("error: method adalora cannot become LoRA of rank 2: "), refused
    make(base, tmp_path / "h", "head")
    assert "method head has no adapter" in adapter("as-lora", tmp_path / "h", tmp_path / "b", "--rank", 2).err
    make(base, tmp_path / "l", "loha")
    assert "cannot become LoRA of rank 99" in adapter("as-lora", tmp_path / "l", tmp_path / "b", "--rank", 99).err
    assert "--rank: got 0" in adapter("as-lora", tmp_path / "l", tmp_path / "b", "--rank", 0).err
    assert not (tmp_path / "b").exists()


def test_a_bundle_says_where_it_comes_from(base, tmp_path):
    write_json(base / "source.json", {"id": "someone/vit", "revision": "0" * 40, "source": "hub"})
    make(base, tmp_path / "a")
    (base / "source.json").unlink()
    bundle = read_json(tmp_path / "a/vitlora.json")
    assert bundle["class_names"] == LABELS.class_names
    assert (bundle["base"]["id"], bundle["base"]["revision"]) == ("someone/vit", "0" * 40)
    assert set(bundle["versions"]) == {"peft", "torch", "transformers"}
    assert bundle["metrics"]["val_accuracy"] == 0.75
    assert bundle["method"]["settings"]["r"] == 2


def test_ranks_are_listed_by_block_and_layer(base, tmp_path):
    rows = ranks(make(base, tmp_path / "a", options={"rank_pattern": {"vit.layers.1.mlp.fc1": 5}}))
    assert len(rows) == 12
    assert [row[0] for row in rows] == ["0"] * 6 + ["1"] * 6
    assert {row[1:] for row in rows if row[2] != 2} == {("mlp.fc1", 5)}
    assert ranks(make(base, tmp_path / "b", "loha")) == ranks(make(base, tmp_path / "c", "full")) == []


def test_adalora_ranks_are_those_that_are_left(base, tmp_path):
    model = make(base, tmp_path / "a", "adalora")
    names = [row[:2] for row in ranks(model)]
    pattern = {f"vit.layers.{block}.{layer}.lora_E": [True, False, True] for block, layer in names}
    model.peft_config["default"].rank_pattern = pattern
    assert {row[2] for row in ranks(model)} == {2}


CASES = ("wild", "changed", "cut")


@pytest.fixture(scope="module")
def looks(bases, tmp_path_factory):
    """A process for each adapter below, started as the stage does: all import at once, while the first one waits."""
    root = tmp_path_factory.mktemp("looks")
    squares(root / "val")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setenv("PYTHONPATH", str(tiny.ROOT / "src"))
        started = {case: stack.enter_context(reloading(bases / "vit", root / case, root / "val")) for case in CASES}
        yield root, started


def test_a_model_that_makes_much_of_rounding_is_sound_all_the_same(base, looks, capsys):
    root, checks = looks
    model = make(base, root / "wild")
    weights = load_file(root / "wild" / WEIGHTS)
    factor = 3e3
    save_file({k: v * factor if "lora_" in k else v for k, v in weights.items()}, root / "wild" / WEIGHTS)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(factor if "lora_" in name else 1)
    checks["wild"](model, HALF)
    assert "was loaded in a fresh process and gives the same logits" in capsys.readouterr().out


def test_an_adapter_that_is_not_the_trained_model_is_refused(base, looks):
    root, checks = looks
    model = make(base, root / "changed")
    weights = load_file(root / "changed" / WEIGHTS)
    name = next(key for key in weights if "lora_B" in key)
    save_file({**weights, name: weights[name] + 0.1}, root / "changed" / WEIGHTS)
    with pytest.raises(VitloraError, match=r"^the saved model is not the trained one: a logit differs by \d.*rule:"):
        checks["changed"](model, HALF)


def test_an_adapter_that_cannot_be_read_is_refused(base, looks):
    root, checks = looks
    model = make(base, root / "cut")
    (root / "cut" / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(VitloraError, match=r"^the saved model cannot be loaded again: .*does not fit[^\n]*$"):
        checks["cut"](model, HALF)


def test_the_waiting_process_goes_with_a_stage_that_fails(base, tmp_path):
    before = psutil.Process().children()

    def fail():
        with reloading(base, tmp_path, tmp_path):
            assert len(psutil.Process().children()) == len(before) + 1
            raise VitloraError("training failed")

    with pytest.raises(VitloraError, match="training failed"):
        fail()
    assert psutil.Process().children() == before


def test_fused_and_wrapped_passes_are_taken_off_before_the_look(base, tmp_path):
    """On a GPU they stand in the modules' own attributes, and neither runs on the CPU."""
    model = make(base, tmp_path / "a")
    before = logits(model)
    backbone = model.base_model.model.vit
    backbone.forward = model.forward = lambda **inputs: None
    backbone.layers[0].compile(backend=lambda graph, inputs: lambda *given: given)
    assert torch.equal(logits(plain(model)), before)
