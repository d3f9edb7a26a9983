"""Mixtures of adapters, X-LoRA and merges: from two that each know half of the classes, on a tiny ViT."""

import json
import shutil
import warnings
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import tiny
import torch
import training
from huggingface_hub import ModelCard
from method_runs import logits
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from several import bring, together
from training import hashes, stopped_after

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.model.adapters import load_adapter
from vitlora.model.base import load_base
from vitlora.model.mixture import is_mixture, start_head
from vitlora.model.params import PRUNING, Combination
from vitlora.storage.manifest import digest, write_manifest
from vitlora.storage.packed import Packed, write_packed
from vitlora.storage.squares import create_split, load_split, open_pixels
from vitlora.train.experts import find_experts, locate

pytestmark = pytest.mark.slow

COLOURS = {**tiny.COLOURS, "yellow": (220, 200, 50)}
HALVES = {"a": ["blue", "green"], "b": ["red", "yellow"]}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Data of four colours, a base, and two adapters, each trained on two of the colours."""
    root = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "COLOURS", COLOURS)
        training.prepare(root)
    for name, classes in HALVES.items():
        half = root / name
        half.mkdir()
        (half / "base").symlink_to(root / "base")
        keep_classes(root, half, classes)
        with chdir(half):
            training.fit()
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
    some = val.pick(kept)
    create_split(
        target / "val", labels["image_size"], some.paths, [new[int(label)] for label in some.labels], some.digests
    )
    open_pixels(target / "val", "r+")[:] = some.images


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    training.link(prepared, tmp_path)
    for name in HALVES:
        shutil.copytree(prepared / name / "adapter", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pinned(*names):
    return [f"{name}@sha256:{digest(Path(name))}" for name in names]


def fit(method, adapters=None, changes=None, **options):
    adapters = pinned(*HALVES) if adapters is None else adapters
    changes = {"train__num_train_epochs": 1, **(changes or {})}
    training.fit(lora__method=method, lora__options={"adapters": adapters, **options}, **changes)


KINDS = {
    "dense": {},
    "top-1": {"top_k_lora": 1},
    "layerwise": {"layerwise_scalings": True, "xlora_depth": 2, "xlora_size": 8},
    "trainable": {"use_trainable_adapters": True},
    "sparse softmax": {"top_k_lora": 1, "enable_softmax": False, "enable_softmax_topk": True},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_trains_reloads_and_evaluates(folder, trained_logits, kind):
    fit("xlora", **KINDS[kind])
    shares = read_json(Path("metrics.json"))["mean_scalings"]
    assert list(shares) == pinned(*HALVES)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5) if kind != "top-1" else 0.5 <= sum(shares.values()) <= 1
    for name in HALVES:
        shutil.rmtree(name)  # all that is needed is in the adapter's folder
    mixed, _, _ = load_adapter(Path("base"), Path("adapter"))
    assert is_mixture(mixed)
    assert not mixed.training
    assert torch.equal(logits(mixed), trained_logits[0].cpu())
    training.evaluate_here()
    assert read_json(Path("scores/scores.json"))["images"] == len(load_split(Path("test")).labels)


def test_a_mixture_is_exported_whole_to_onnx_and_predicts(folder, capsys):
    fit("xlora", top_k_lora=1)  # dense is the same without two operators
    training.evaluate_here()
    training.export_here(["transformers", "onnx", "onnx-int8", "plain"], max_accuracy_drop=1)
    report = read_json(Path("export.json"))
    assert {row["format"]: row["agreement"] for row in report["formats"] if row["format"] != "onnx-int8"} == {
        "pytorch": 1,
        "onnx": 1,
        "plain": 1,
    }
    assert "no one set of weights" in report["not_merged"]
    assert sorted(path.name for path in Path("export").iterdir()) == [
        *("README.md", "model.onnx", "model_int8.onnx", "onnx", "vitlora.json")
    ]
    assert "can't be merged" in Path("export/README.md").read_text()
    (accuracy,) = ModelCard.load("export/README.md").data.eval_results
    right = [row["predicted"] == row["actual"] for row in read_csv(Path("scores/predictions.csv"))]
    assert (accuracy.metric_type, accuracy.metric_value) == ("accuracy", sum(right) / len(right))
    write_manifest(Path("export"))
    Image.fromarray(load_split(Path("test")).images[0].transpose(1, 2, 0)).save("one.png")
    capsys.readouterr()
    args = command_line().parse_args(["predict", "--model", "export", "--top=1", "--json", "one.png"])
    args.act(args)
    said = json.loads(capsys.readouterr().out)["predictions"][0]["class"]
    assert said == read_csv(Path("scores/predictions.csv"))[0]["predicted"]


@pytest.mark.parametrize("options", [{"top_k_lora": 1}, {"use_trainable_adapters": True, "xlora_depth": 2}])
def test_a_mixture_resumes_to_the_bit(folder, options):
    longer = {"train__num_train_epochs": 2}
    fit("xlora", changes=longer, **options)
    golden = hashes()
    with stopped_after(7):
        fit("xlora", changes=longer, **options)
    fit("xlora", changes=longer, **options)
    assert hashes() == golden


def test_a_merge_resumes_to_the_bit(folder):
    options = {"combination_type": "dare_linear", "density": 0.5}  # pruned at random
    fit("merge", **options)
    golden = hashes()
    with stopped_after(2):
        fit("merge", **options)
    fit("merge", **options)
    assert hashes() == golden


def test_an_adapter_of_other_content_is_another_run(folder, capsys):
    with stopped_after(3):
        fit("merge")
    write_json(Path("a/more.json"), {})
    fit("merge")
    assert "no checkpoint of this run" in capsys.readouterr().out


def test_only_gate_and_head_train_and_the_adapters_stay_as_they_were(folder):
    fit("xlora")
    assert read_json(Path("metrics.json"))["trainable_parameters"] == (2 * 32 + 2) + (4 * 32 + 4)
    for number, name in enumerate(HALVES):
        before = load_file(Path(name, "adapter_model.safetensors"))
        after = load_file(Path("adapter", str(number), "adapter_model.safetensors"))
        assert all(torch.equal(before[key], weight) for key, weight in after.items())
        assert before.keys() - after.keys() == {f"base_model.model.classifier.{part}" for part in ("weight", "bias")}


def test_the_head_has_gradients_under_autocast(folder):
    fit("xlora")
    mixed, _, _ = load_adapter(Path("base"), Path("adapter"))
    head = mixed.base_model.lora_model.model.model.classifier.weight.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = mixed(pixel_values=torch.randn(2, 3, 32, 32), labels=torch.tensor([0, 1])).loss
    loss.backward()
    assert head.grad is not None


def test_the_new_head_starts_from_the_old_ones_by_class_name(folder):
    experts = find_experts(pinned(*HALVES), Path("base"))
    experts.append(replace(experts[0], weights={name: 3 * weight for name, weight in experts[0].weights.items()}))
    model, _ = load_base(Path("base"), ["new", "red", "blue"], 32)
    fresh = model.classifier.weight[0].clone()
    start_head(model, experts)
    heads = [expert.weights["base_model.model.classifier.weight"] for expert in experts]
    assert torch.equal(model.classifier.weight[0], fresh)
    assert torch.equal(model.classifier.weight[1], heads[1][0])
    assert torch.allclose(model.classifier.weight[2], 2 * heads[0][0])


def test_a_merge_names_every_layer_though_peft_shortens_long_lists(folder, prepared, monkeypatch):
    monkeypatch.setattr("peft.tuners.tuners_utils.MIN_TARGET_MODULES_FOR_OPTIMIZATION", 2)
    fit("merge")
    known = read_json(Path("metrics.json"))
    assert known["target_modules"] == read_json(prepared / "a/metrics.json")["target_modules"]


@pytest.mark.parametrize("kind", get_args(Combination))
def test_a_merge_is_one_plain_adapter_whose_head_alone_trains(folder, trained_logits, kind):
    fit("merge", combination_type=kind, density=0.5 if kind in PRUNING else None)
    assert read_json(Path("metrics.json"))["trainable_parameters"] == 4 * 32 + 4
    merged, labels, _ = load_adapter(Path("base"), Path("adapter"))
    assert torch.allclose(logits(merged), trained_logits[0].cpu(), atol=2e-5)
    base, _ = load_base(Path("base"), labels.class_names, labels.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(base, "adapter").merge_and_unload()
    assert torch.allclose(logits(plain), trained_logits[0].cpu(), atol=2e-5)


def pairs(folder):
    weights = load_file(Path(folder, "adapter_model.safetensors"))
    (a,), (b,) = ([w for name, w in weights.items() if f"0.attention.q_proj.lora_{x}" in name] for x in "AB")
    config = read_json(Path(folder, "adapter_config.json"))
    return config["lora_alpha"] / config["r"] * b @ a


def test_cat_is_the_weighted_sum_of_the_updates(folder):
    fit("merge", combination_type="cat", weights=[0.3, -2.0])
    assert torch.allclose(pairs("adapter"), 0.3 * pairs("a") - 2 * pairs("b"), atol=1e-6)


def test_one_adapter_alone_keeps_its_update(folder):
    fit("merge", pinned("a"))
    assert torch.allclose(pairs("adapter"), pairs("a"), atol=1e-6)


def test_dare_prunes_by_the_seed_of_training(folder):
    options = {"combination_type": "dare_linear", "density": 0.5}
    found = []
    for seed in (1, 1, 2):
        fit("merge", changes={"train__seed": seed}, **options)
        found.append(pairs("adapter"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"top_k_lora": 3}, "options.top_k_lora: got 3; the rule: at most 2"),
        ({"enable_softmax_topk": True}, "options.enable_softmax_topk: got true; the rule: .* needs top_k_lora"),
        ({"adapters": ["a"]}, "at least two"),
        ({"adapters": []}, "not empty"),
        ({"experts": 2}, "options.experts: .*xlora has the options adapters, top_k_lora"),
    ],
)
def test_options_of_xlora_that_do_not_fit_are_refused(folder, options, rule):
    with pytest.raises(VitloraError, match=rule):
        fit("xlora", **{"adapters": pinned(*HALVES), **options})


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"combination_type": "ties"}, 'options.combination_type: got "ties"; the rule: density is for ties'),
        ({"density": 0.5}, "options.density: got 0.5; the rule: density is for"),
        ({"svd_rank": 3}, "svd_rank is for svd"),
        ({"weights": [1.0]}, "one weight for each adapter"),
        ({"adapters": ["a"], "combination_type": "cat"}, "linear where there is one adapter"),
        ({"combination_type": "svd", "svd_rank": 33}, "svd_rank 33 is more than"),
    ],
)
def test_options_of_merge_that_do_not_fit_are_refused(folder, options, rule):
    with pytest.raises(VitloraError, match=rule):
        fit("merge", **{"adapters": pinned(*HALVES), **options})


def test_a_name_that_is_pinned_to_no_content_is_refused_with_the_one_to_write(folder):
    right = digest(Path("a"))
    for wrong in ("a", f"a@sha256:{'0' * 64}", f"a@sha256:{right[:8]}", "a@sha256:"):
        with pytest.raises(VitloraError, match=f"write a@sha256:{right[:16]}$"):
            locate(wrong)
    assert locate(f"a@sha256:{right[:12]}") == Path("a")
    with pytest.raises(VitloraError, match="there is no folder nowhere"):
        locate("nowhere@sha256:" + "0" * 64)
    with pytest.raises(VitloraError, match="PATH@COMMIT or PATH@sha256:HEX"):
        locate("nowhere")


def test_a_folder_that_its_manifest_contradicts_is_refused(folder):
    write_manifest(Path("a"))
    name = pinned("a")[0]
    with Path("a/adapter_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(VitloraError, match=r"adapter_config\.json: damaged"):
        locate(name)


def of_another_base(folder):
    bundle = read_json(folder / "vitlora.json")
    bundle["base"]["sha256"] = {"model.safetensors": "0" * 64}
    write_json(folder / "vitlora.json", bundle)


def of_another_method(folder):
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "peft_type": "LOHA"})


def of_another_model(folder):
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name.replace("q_proj", "w_proj"): w for name, w in weights.items()}, folder / "adapter_model.safetensors"
    )


def pickled(folder):
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def of_all_weights(folder):
    bundle = read_json(folder / "vitlora.json")
    bundle["method"]["name"] = "full"
    write_json(folder / "vitlora.json", bundle)
    (folder / "adapter_config.json").unlink()  # which is PEFT's


def cut(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"\x00" * 9)


@pytest.mark.parametrize("method", ["xlora", "merge"])
@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (of_another_base, "was trained on another base than base; the rule: one base for all"),
        (of_another_method, "is LOHA, bias none; the rule: plain LoRA"),
        (of_another_model, "adapter .* lacks or leaves over|is missing from an adapter|not of this model"),
        (of_all_weights, "is of method full, which has no adapter; the rule: plain LoRA"),
        (pickled, "holds no adapter as train writes it"),
        (cut, "cannot be read"),
    ],
)
def test_an_adapter_that_cannot_be_mixed_is_refused(folder, method, spoil, rule):
    spoil(Path("b"))
    with pytest.raises(VitloraError, match=rule) as caught:
        fit(method)
    assert "\n" not in str(caught.value)


def test_a_saved_mixture_that_lacks_a_part_is_refused(folder):
    fit("xlora")
    for file, rule in (
        ("1/adapter_model.safetensors", "no adapter in safetensors"),
        ("1", "no adapter in safetensors"),
    ):
        place = Path("adapter", file)
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        with pytest.raises(VitloraError, match=rule):
            load_adapter(Path("base"), Path("adapter"))
    shutil.copytree("adapter/0", "adapter/1")
    trained = load_file("adapter/adapter_model.safetensors")
    trained.pop("base_model.internal_xlora_classifier.layers.0.bias")
    save_file(trained, "adapter/adapter_model.safetensors")
    with pytest.raises(VitloraError, match=r"layers\.0\.bias is missing"):
        load_adapter(Path("base"), Path("adapter"))


def test_an_adapter_of_a_commit_comes_from_the_cache_of_dvc(folder):
    Path("models").mkdir()
    shutil.move("a", "models/adapter")
    for place in ("base", "train", "val", "test", "labels.json"):
        Path(place).unlink()  # links to what other tests share; Git has no use for them
    tiny.git(folder, "init", "-q", "-b", "main")
    tiny.dvc(folder, "init", "-q")
    tiny.dvc(folder, "add", "-q", "models/adapter")
    tiny.commit(folder)
    commit = tiny.git(folder, "rev-parse", "HEAD").strip()
    kept = digest(Path("models/adapter"))
    shutil.rmtree("models/adapter")  # as DVC does before train runs
    (listing,) = Path(".dvc/cache").rglob("*.dir")
    away = listing.rename(listing.with_suffix(".away"))  # as on a colleague's machine, whose cache has other runs
    with pytest.raises(VitloraError, match=r"cannot be brought from DVC's cache \(.*\); `dvc fetch"):
        locate(f"models/adapter@{commit[:7]}")
    away.rename(listing)
    found = locate(f"models/adapter@{commit[:7]}")
    assert found == Path(".work/adapters", commit, "models/adapter")
    assert digest(found) == kept
    (found / "adapter_config.json").write_text("{}")
    assert digest(locate(f"models/adapter@{commit}")) == kept, "what lies about is not believed"
    assert together(3, bring, f"models/adapter@{commit}") == [0, 0, 0], "nor do processes take it from each other"
    assert digest(found) == kept
    for moves in ("main", "HEAD"):
        with pytest.raises(VitloraError, match=f"branches and tags move; write models/adapter@{commit[:16]}$"):
            locate(f"models/adapter@{moves}")
    with pytest.raises(VitloraError, match="has no commit 0000000"):
        locate("models/adapter@0000000")
    with pytest.raises(VitloraError, match="cannot be brought from DVC's cache"):
        locate(f"models/other@{commit}")
    with pytest.raises(VitloraError, match="a path inside this repository"):
        locate(f"../../../x@{commit}")
    shutil.rmtree(".dvc/cache")
    with pytest.raises(VitloraError, match="cannot be brought from DVC's cache"):
        locate(f"models/adapter@{commit}")
