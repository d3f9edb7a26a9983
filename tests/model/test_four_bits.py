"""A base in four bits: packed and rounded are one model; what is trained on it reloads, merges and exports as that."""

import copy
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import training
import transformers
from torch import nn

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.model import four_bits
from vitlora.model.adapters import load_adapter
from vitlora.model.base import load_base
from vitlora.model.four_bits import is_in_four_bits, pack, round_weights
from vitlora.model.params import IN_FOUR_BITS
from vitlora.safety.check import check_document
from vitlora.safety.reload import logits, plain, sample
from vitlora.storage.manifest import digest
from vitlora.train.experts import find_experts
from vitlora.train.trainer import ImageTrainer

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="needs bitsandbytes, which is no part of the lock"
)

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32}
KINDS = {
    "ViT": ("ViT", {**PLAIN, "patch_size": 8}),
    "ViT of odd widths": ("ViT", {**PLAIN, "hidden_size": 30, "intermediate_size": 37, "patch_size": 16}),
    "DINOv2": ("Dinov2", {**PLAIN, "patch_size": 8}),
    "Swin": ("Swin", {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2],
                      "window_size": 4}),
    "CLIP": ("CLIP", {"vision_config": {**PLAIN, "patch_size": 8}}),
}  # fmt: skip


@needs_bitsandbytes
@pytest.mark.parametrize("name", KINDS)
def test_packed_and_rounded_are_the_same_model_in_training_and_not(name):
    kind, settings = KINDS[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForImageClassification")(getattr(transformers, f"{kind}Config")(**settings))
    before = copy.deepcopy(model.state_dict())
    packed, rounded = copy.deepcopy(model), copy.deepcopy(model)
    pack(packed, ["classifier"], 32)
    round_weights(rounded, ["classifier"])
    after = rounded.state_dict()
    assert torch.equal(after["classifier.weight"], before["classifier.weight"])
    linear = {f"{name}.weight" for name, layer in model.named_modules() if type(layer) is nn.Linear} - {
        "classifier.weight"
    }
    assert {key for key in before if not torch.equal(before[key], after[key])} == linear
    for key in linear:  # 16 values of a block's largest weight
        assert len((after[key].flatten()[:64] / before[key].flatten()[:64].abs().max()).unique()) <= 16
        assert (after[key] - before[key]).abs().max() < 0.2 * before[key].abs().max()
    for train in (True, False):
        pixels = torch.randn(3, 3, 32, 32, requires_grad=True)
        found = [each.train(train)(pixel_values=pixels).logits for each in (packed, rounded)]
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
        grads = [torch.autograd.grad(each.sum(), pixels)[0] for each in found]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-6)
    sizes = [sum(each.nbytes for each in one.parameters()) for one in (packed, model)]
    assert sizes[0] < sizes[1]
    assert sum(layer.weight.nbytes for layer in packed.modules() if type(layer).__name__ == "Linear4bit") == sum(
        -(-before[key].numel() // 2) for key in linear
    )


@needs_bitsandbytes
@pytest.mark.parametrize("method", IN_FOUR_BITS)
def test_what_is_trained_on_it_is_what_reloads_merges_and_resumes(folder, monkeypatch, method):
    settings = {"lora__method": method, "train__load_in_4bit": True, "train__ema_decay": 0.5}
    kept = []
    original = ImageTrainer.fit

    def noted(self, *args):
        assert is_in_four_bits(self.model)
        original(self, *args)
        kept.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(ImageTrainer, "fit", noted)
        training.fit(**settings)
    golden = training.hashes()
    squares = sample(Path("val"))
    expected = logits(plain(kept[0].model), kept[0].normalisation, squares)
    merged, _, normalisation = load_adapter(Path("base"), Path("adapter"))
    assert logits(merged, normalisation, squares) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    bundle = read_json(Path("adapter/vitlora.json"))
    assert bundle["base"]["load_in_4bit"] is True
    assert bundle["versions"]["bitsandbytes"] == version("bitsandbytes")
    if method == "lora":
        for at in (2, training.PER_EPOCH):
            with training.stopped_after(at):
                training.fit(**settings)
            training.fit(**settings)
            assert training.hashes() == golden, at
        training.evaluate_here()
        training.export_here()  # holds every form against the trained model
        own = transformers.AutoModelForImageClassification.from_pretrained("export").state_dict()
        base, _ = load_base(Path("base"), ["blue", "green", "red"], 32)
        name = next(name for name in own if name.endswith("fc1.weight"))
        as_it_was = base.state_dict()[name].clone()
        round_weights(base, ["classifier"])
        assert torch.equal(own[name], base.state_dict()[name])
        assert not torch.equal(own[name], as_it_was)


@needs_bitsandbytes
def test_it_goes_with_blocks_that_run_again_and_the_head_alone_at_first(folder):
    training.fit(train__load_in_4bit=True, train__head_only_epochs=1)
    golden = training.hashes()
    training.fit(train__load_in_4bit=True, train__head_only_epochs=1, train__activation_checkpointing=True)
    assert training.hashes() == golden


@needs_bitsandbytes
def test_an_adapter_of_a_base_in_four_bits_is_no_part_of_a_mixture(folder):
    training.fit(train__load_in_4bit=True, train__num_train_epochs=1)
    name = f"adapter@sha256:{digest(Path('adapter'))[:16]}"
    with pytest.raises(VitloraError, match=r"was trained on a base in four bits; the rule: one base for all, as it is"):
        find_experts([name], Path("base"))


@needs_bitsandbytes
def test_a_base_that_takes_weights_out_of_its_layers_is_refused(tmp_path):
    class Taker(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.BeitConfig()
            self.layer = nn.Linear(3 * 8 * 8, 4, bias=False)

        def forward(self, pixel_values):
            return nn.functional.linear(pixel_values.flatten(1), self.layer.weight)

    with pytest.raises(
        VitloraError, match=r"train\.load_in_4bit: got true; the rule: false with beit, which takes weig"
    ):
        pack(Taker(), [], 8)


@pytest.mark.parametrize("method", ["dora", "pissa", "adalora", "oft", "head", "full", "xlora"])
def test_methods_that_read_or_move_weights_are_refused(method):
    document = training.settings({"train.load_in_4bit": True, "lora.method": method})
    if method == "xlora":
        document["lora"]["options"] = {"adapters": ["a@1234567", "b@1234567"]}
    with pytest.raises(
        VitloraError, match=rf'load_in_4bit: got true; the rule: false with lora\.method "{method}"; true '
    ):
        check_document(document, Path("p"))
    document["train"]["load_in_4bit"] = False
    check_document(document, Path("p"))


def test_without_its_package_it_says_how_to_get_it(folder, monkeypatch):
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    with pytest.raises(
        VitloraError, match=r"bitsandbytes is not installed; .*uv pip install --python \.venv bitsandbytes=="
    ):
        training.fit(train__load_in_4bit=True)
