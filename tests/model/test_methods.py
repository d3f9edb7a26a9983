"""Every method of `lora.method` trains, resumes, reloads with equal logits, merges and evaluates, on a tiny ViT."""

import shutil
import warnings
from pathlib import Path
from typing import get_args

import pytest
import torch
from method_runs import fit, logits
from peft import PeftModel
from training import evaluate_here, hashes, hashes_of, stopped_after

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.model.adapters import TRAINED, load_adapter
from vitlora.model.base import load_base
from vitlora.model.params import LORA_FAMILY, MIXTURES, WITHOUT_ADAPTER, Method

pytestmark = pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")  # SHiRA's weights
METHODS = tuple(name for name in get_args(Method) if name not in MIXTURES)  # which have a file of their own


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_trains_reloads_merges_evaluates_and_resumes_to_the_bit(folder, trained_logits, method):
    before = hashes_of(Path("base"))
    fit(method)
    golden = hashes()
    assert hashes_of(Path("base")) == before
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
    evaluate_here()
    assert read_json(Path("scores/scores.json"))["images"] == 6
    known = read_json(Path("metrics.json"))
    assert (known["method"], known["trainable_parameters"] > 0) == (method, True)
    with stopped_after(7):
        fit(method)
    fit(method)
    assert hashes() == golden


@pytest.mark.slow
def test_adalora_prunes_to_its_target_and_says_which_ranks_are_left(folder):
    fit("adalora", train__load_best_model_at_end=False)
    pattern = read_json(Path("adapter/adapter_config.json"))["rank_pattern"]
    kept = sum(sum(used) for used in pattern.values())
    assert kept == 2 * len(pattern), "target_r on average"
    assert len({sum(used) for used in pattern.values()}) > 1, "layers differ"


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(LORA_FAMILY)))
def test_an_option_that_the_method_does_not_read_is_refused(method):
    with pytest.raises(VitloraError, match=r"lora\.method, lora\.options: .*options\.rank: .*\(.* has the options"):
        fit(method, lora__options={"rank": 3})


def test_adaloras_penalty_is_refused_since_peft_does_not_apply_it_to_models_of_images(folder):
    with pytest.raises(VitloraError, match=r"options\.orth_reg_weight"):
        fit("adalora", lora__options={"orth_reg_weight": 50.0})


def test_a_method_that_the_model_cannot_take_is_one_line(folder):
    with pytest.raises(VitloraError, match="c3a cannot adapt this model so: "):
        fit("c3a", lora__options={"block_size": 7})


@pytest.mark.slow
def test_changing_the_method_starts_afresh(folder, capsys):
    with stopped_after(3):
        fit("lora")
    fit("loha")
    assert "lora.method was lora, is loha" in capsys.readouterr().out
    shutil.rmtree("adapter")
