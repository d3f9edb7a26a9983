"""Every method of `lora.method` trains, resumes, reloads with equal logits, merges and evaluates, on a tiny ViT."""

import shutil
import warnings
from pathlib import Path
from typing import get_args

import pytest
import test_resume as resume
import torch
from peft import PeftModel

import vitlora.train.stage as stage
from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.files import read_json
from vitlora.evaluate.params import Evaluate
from vitlora.evaluate.stage import evaluate
from vitlora.model.adapters import TRAINED, load_adapter
from vitlora.model.base import load_base
from vitlora.model.params import LORA_FAMILY, MIXTURES, WITHOUT_ADAPTER, Method

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # SHiRA's weights
METHODS = tuple(name for name in get_args(Method) if name not in MIXTURES)  # which have a file of their own
# PEFT's defaults are for layers of some hundred units; here they have 32.
OPTIONS = {
    "adalora": {"init_r": 6, "target_r": 2},
    "oft": {"oft_block_size": 8},
    "vera": {"r": 8},
    "vblora": {"vector_length": 8, "num_vectors": 16},
    "randlora": {"r": 4},
    "fourierft": {"n_frequency": 50},
    "waveft": {"n_frequency": 50},
    "c3a": {"block_size": 8},
    "shira": {"r": 4},
    "miss": {"r": 8},
    "road": {"group_size": 8},
    "gralora": {"r": 4},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return resume.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    for name in ("train", "val", "test", "labels.json", "base"):
        (tmp_path / name).symlink_to(prepared / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(method, **changes):
    options = {"lora__options": OPTIONS.get(method, {}), "lora__target_modules": "all-linear"}
    resume.fit(lora__method=method, **{**options, **changes})


def logits(model):
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(pixel_values=torch.randn(4, 3, 32, 32)).logits


@pytest.fixture
def trained_logits(monkeypatch):
    """What the model says when it is saved."""
    kept = []
    original = stage.save_adapter

    def save(model, *args):
        kept.append(logits(model))
        original(model, *args)

    monkeypatch.setattr(stage, "save_adapter", save)
    return kept


@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_reloads_merges_evaluates_and_resumes_to_the_bit(folder, trained_logits, method):
    before = resume.hashes_of(Path("base"))
    fit(method)
    golden = resume.hashes()
    assert resume.hashes_of(Path("base")) == before
    merged, labels, _ = load_adapter(Path("base"), Path("adapter"))
    assert torch.allclose(logits(merged), trained_logits[0], atol=2e-5)
    assert Path("adapter", TRAINED).exists() == (method in WITHOUT_ADAPTER)
    if method not in WITHOUT_ADAPTER:
        assert read_json(Path("adapter/adapter_config.json"))["base_model_name_or_path"] == "base"
        base, _ = load_base(Path("base"), labels.class_names, labels.image_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            plain = PeftModel.from_pretrained(base, "adapter")
        assert torch.allclose(logits(plain), trained_logits[0], atol=2e-5), "plain PEFT reads it too"
    settings = Evaluate(batch_size=4, precision="fp32", top_k=2)
    evaluate(settings, Path("base"), Path("adapter"), Path("test"), Path("labels.json"), Path("scores"))
    assert read_json(Path("scores/scores.json"))["images"] == 6
    known = read_json(Path("metrics.json"))
    assert (known["method"], known["trainable_parameters"] > 0) == (method, True)
    with pytest.MonkeyPatch.context() as patch:
        resume.break_at(patch, 7)
        with pytest.raises(StoppedError):
            fit(method)
    fit(method)
    assert resume.hashes() == golden


def test_adalora_prunes_to_its_target_and_says_which_ranks_are_left(folder):
    fit("adalora", train__load_best_model_at_end=False)
    pattern = read_json(Path("adapter/adapter_config.json"))["rank_pattern"]
    kept = sum(sum(used) for used in pattern.values())
    assert kept == 2 * len(pattern), "target_r on average"
    assert len({sum(used) for used in pattern.values()}) > 1, "layers differ"


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(LORA_FAMILY)))
def test_an_option_that_the_method_does_not_read_is_refused(method):
    with pytest.raises(VitloraError, match=r"lora\.method, lora\.options: .*options\.rank: .*\(.* has the options"):
        resume.fit(lora__method=method, lora__options={"rank": 3})


def test_a_method_that_the_model_cannot_take_is_one_line(folder):
    with pytest.raises(VitloraError, match="c3a cannot adapt this model so: "):
        fit("c3a", lora__options={"block_size": 7})


def test_changing_the_method_starts_afresh(folder, capsys):
    with pytest.MonkeyPatch.context() as patch:
        resume.break_at(patch, 3)
        with pytest.raises(StoppedError):
            fit("lora")
    fit("loha")
    assert "lora.method was lora, is loha" in capsys.readouterr().out
    shutil.rmtree("adapter")
