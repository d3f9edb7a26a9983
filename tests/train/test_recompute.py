"""Blocks that run again in the backward pass: the same loss and gradients, dropout included, from less memory."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import training
import transformers
from peft import LoraConfig, get_peft_model

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.model.base import Normalisation
from vitlora.safety.check import check_document
from vitlora.train.dropout import draw_at_once
from vitlora.train.params import Train
from vitlora.train.step import Way, install, recompute

SIDE = 32
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "patch_size": 8}
PLAIN = {**SMALL, "image_size": SIDE}
WINDOWS = {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
STEPWISE = {"embed_dim": 8, "image_size": [SIDE, SIDE], "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
TIMM = {
    "num_classes": 3,
    "model_args": {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": SIDE, "patch_size": 8},
}
CAN = {
    "ViT": ("ViT", PLAIN),
    "DINOv2": ("Dinov2", PLAIN),
    "DINOv2 with registers": ("Dinov2WithRegisters", PLAIN),
    "BEiT": ("Beit", PLAIN),
    "Swin": ("Swin", WINDOWS),
    "Hiera": ("Hiera", STEPWISE),
    "SigLIP": ("Siglip", {"vision_config": PLAIN}),
    "CLIP": ("CLIP", {"vision_config": PLAIN}),
    "timm ViT": ("TimmWrapper", {"architecture": "vit_tiny_patch16_224", **TIMM}),
    "timm EVA-02": ("TimmWrapper", {"architecture": "eva02_base_patch14_224", **TIMM}),
    "timm DINOv3": ("TimmWrapper", {"architecture": "vit_small_patch16_dinov3", **TIMM}),
}
STAGES = {"num_channels": 3, "image_size": SIDE, "depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16]}
CANNOT = {
    "ConvNeXt": ("ConvNext", STAGES, "ConvNextForImageClassification does not support activation checkpointing"),
    "ResNet": ("ResNet", {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8}, "its batch norms would"),
    "MobileViT": ("MobileViT", {"image_size": SIDE}, "its batch norms would count each batch twice"),
    "RegNet": ("RegNet", {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8}, "its batch norms would"),
}


def classifier(kind, settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**settings)
    config.num_labels = 3
    return getattr(transformers, f"{kind}ForImageClassification")(config)


def step(model):
    """Return the loss, the gradients, and how many bytes are kept for the backward pass."""
    kept = {}
    torch.manual_seed(7)  # dropout's
    pixels = torch.randn(6, 3, SIDE, SIDE)

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.train()(pixel_values=pixels, labels=torch.arange(6) % 3).loss
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    grads = torch.autograd.grad(loss, trained, allow_unused=True)
    return loss, grads, sum(size for place, size in kept.items() if place not in weights)


@pytest.mark.parametrize("name", CAN)
def test_loss_and_gradients_are_the_same_bits_from_less_memory(name):
    layers = r".*(attention|attn|self_attn)\.(q_proj|v_proj|qkv)"
    plain = classifier(*CAN[name])
    lora = LoraConfig(r=2, lora_dropout=0.3, target_modules=layers, init_lora_weights=False)
    with pytest.warns(FutureWarning, match="is_gradient_checkpointing"):
        model = get_peft_model(plain, lora)
    draw_at_once(model)
    again = copy.deepcopy(model)
    recompute(again)
    loss, grads, kept = step(model)
    same_loss, same_grads, fewer = step(again)
    assert torch.equal(loss, same_loss)
    assert any(grad is not None and bool(grad.any()) for grad in grads)
    for one, other in zip(grads, same_grads, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)
    assert fewer < 0.5 * kept, (fewer, kept)


@pytest.mark.parametrize("name", CANNOT)
def test_a_base_that_cannot_is_refused(name):
    kind, settings, why = CANNOT[name]
    model = classifier(kind, settings)
    rule = rf"train\.activation_checkpointing: got true; the rule: false with {model.config.model_type}: {why}"
    with pytest.raises(VitloraError, match=rule):
        recompute(model)


def test_a_run_leaves_the_same_bytes_with_it_and_without(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    training.fit()
    golden = training.hashes()
    with training.stopped_after(3):
        training.fit(train__activation_checkpointing=True)
    training.fit(train__activation_checkpointing=True)
    assert training.hashes() == golden
    assert read_json(Path("metrics.json"))["step"] == "eager"


@pytest.mark.parametrize(
    ("wanted", "captured", "said"), [("fused", True, True), ("compiled", False, True), ("eager", False, False)]
)
def test_on_a_gpu_blocks_run_one_by_one_and_it_says_why(monkeypatch, wanted, captured, said):
    weights = [SimpleNamespace(device=torch.device("cuda"))]
    on_gpu = SimpleNamespace(parameters=lambda: iter(weights), modules=lambda: iter(()))
    monkeypatch.setattr("vitlora.train.step.recompute", lambda model: None)
    section = training.settings(
        {"train.activation_checkpointing": True, "train.step": wanted, "train.cuda_graph": captured}
    )
    way = install(on_gpu, Train.model_validate(section["train"]), "fp16", Normalisation([0.5], [0.5]), 8)
    assert way == Way("eager", way.note)
    assert bool(way.note) == said


def test_not_with_x_lora_whose_scalings_are_gone_by_the_backward_pass():
    document = training.settings({"train.activation_checkpointing": True})
    check_document(document, Path("p"))
    document["lora"] |= {"method": "xlora", "options": {"adapters": ["a@1234567", "b@1234567"]}}
    with pytest.raises(
        VitloraError, match=r"activation_checkpointing: got true; the rule: false with lora\.method xlora"
    ):
        check_document(document, Path("p"))
    document["train"]["activation_checkpointing"] = False
    check_document(document, Path("p"))
