"""The fused pass against transformers' and PEFT's own modules; without a GPU in Triton's interpreter (conftest.py)."""

import copy
from pathlib import Path
from typing import get_args

import method_runs
import pytest
import torch
import training
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    IJepaConfig,
    IJepaForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTMSNConfig,
    ViTMSNForImageClassification,
)

from vitlora.core.params import load_params
from vitlora.model.adapters import add_adapter
from vitlora.model.params import MIXTURES, Method
from vitlora.train.params import TrainStage

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
fused = pytest.importorskip("vitlora.model.fused.backbone", reason="needs Triton, which this platform has no wheel of")
kernels = pytest.importorskip("vitlora.model.fused.kernels")

# PEFT still asks for the old name; adapters.py knows of the same exception.
pytestmark = [
    pytest.mark.slow,  # on a CPU Triton is interpreted
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

MEAN, STD = [0.5, 0.4, 0.6], [0.5, 0.4, 0.3]
SMALL = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "num_labels": 5}
LOOSE = {"rtol": 2e-2, "atol": 2e-3} if DEVICE == "cuda" else {"rtol": 1e-4, "atol": 1e-5}  # TF32 on a GPU
BASES = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**SMALL, intermediate_size=96, image_size=16, patch_size=8)),
    "vit, odd heads": lambda: ViTForImageClassification(
        ViTConfig(**{**SMALL, "num_attention_heads": 2}, intermediate_size=96, image_size=16, patch_size=8)
    ),
    "deit": lambda: DeiTForImageClassification(DeiTConfig(**SMALL, intermediate_size=96, image_size=16, patch_size=8)),
    "dinov2": lambda: Dinov2ForImageClassification(
        Dinov2Config(**SMALL, mlp_ratio=2, image_size=28, patch_size=14, layerscale_value=0.7)
    ),
    "registers": lambda: Dinov2WithRegistersForImageClassification(
        Dinov2WithRegistersConfig(
            **SMALL, mlp_ratio=2, image_size=28, patch_size=14, layerscale_value=0.7, num_register_tokens=3
        )
    ),
    "msn": lambda: ViTMSNForImageClassification(
        ViTMSNConfig(**SMALL, intermediate_size=96, image_size=16, patch_size=8)
    ),
    "ijepa": lambda: IJepaForImageClassification(
        IJepaConfig(**SMALL, intermediate_size=96, image_size=16, patch_size=8)
    ),
}


def adapted(base: nn.Module, targets: str, **changes) -> nn.Module:
    """Put LoRA on, with weights that matter: B, norms and tokens as they start, 0 and 1, would hide mistakes."""
    settings = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "modules_to_save": ["classifier"], **changes}
    model = get_peft_model(base, LoraConfig(target_modules=targets, **settings))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2)
        elif any(part in name for part in ("norm", "token", "position")):
            weight.data += 0.1 * torch.randn_like(weight)
    return model.to(DEVICE)


def batch(size: int, images: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8, device=DEVICE)
    mean, std = (torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in (MEAN, STD))
    return pixels, (pixels.float() / 255 - mean) / std, torch.arange(images, device=DEVICE) % 5


class SameMask(nn.Module):
    """A dropout layer that drops what the fused kernels drop."""

    def __init__(self, dropout, layer: int, slot: int) -> None:
        super().__init__()
        self.dropout, self.layer, self.slot = dropout, layer, slot

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        kept = self.dropout.kept(self.layer, self.slot, x.shape[0] * x.shape[1], x.shape[2])
        return x * kept.view(x.shape) * self.dropout.scale


def with_the_same_masks(model: nn.Module, dropout) -> None:
    layers = [[part for part in module.children() if hasattr(part, "lora_A")] for module in model.modules()]
    for layer, lora in enumerate(filter(None, layers)):
        for slot, part in enumerate(lora):
            part.lora_dropout["default"] = SameMask(dropout, layer, slot)


@pytest.mark.parametrize(
    ("kind", "targets", "p"),
    [
        ("vit", r".*\.(q|v)_proj", 0.0),
        ("vit", r".*\.(q|k|v)_proj", 0.3),
        ("vit, odd heads", r".*\.(q|v)_proj", 0.0),  # of 24 numbers, which attention's kernels leave to PyTorch
        ("deit", r".*\.k_proj", 0.3),
        ("dinov2", r".*\.(q_proj|v_proj|query|value)", 0.3),
        ("registers", r".*\.(q_proj|v_proj|query|value)", 0.3),
        ("msn", r".*\.(q_proj|v_proj|query|value)", 0.0),
        ("ijepa", r".*\.(q_proj|v_proj|query|value)", 0.3),
    ],
)
def test_logits_and_gradients_are_those_of_the_modules(kind, targets, p, monkeypatch):
    torch.manual_seed(0)
    model = adapted(BASES[kind](), targets, lora_dropout=p).train()
    theirs = copy.deepcopy(model)
    drawn = []

    class Seen(kernels.Dropout):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            drawn.append(self)

    monkeypatch.setattr(fused, "Dropout", Seen)
    assert fused.why_not_fused(model) is None
    size = model.config.image_size
    fused.fuse(model, MEAN, STD, size, torch.float32)
    pixels, values, labels = batch(size)
    got = model(pixel_values=pixels, labels=labels)
    got.loss.backward()
    if p:
        with_the_same_masks(theirs, drawn[-1])
    want = theirs(pixel_values=values, labels=labels)
    want.loss.backward()
    torch.testing.assert_close(got.logits, want.logits, **LOOSE)
    pairs = zip(model.named_parameters(), theirs.parameters(), strict=True)
    trained = [(name, mine.grad, other.grad) for (name, mine), other in pairs if mine.requires_grad]
    assert len(trained) > 4
    for name, mine, other in trained:
        torch.testing.assert_close(mine, other, **LOOSE, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("kind", "cut"), [("vit", 1), pytest.param("dinov2", 3, marks=pytest.mark.faults)])
def test_parts_of_a_batch_draw_what_the_whole_batch_draws(kind, cut):
    """So that several processes, each with a part, learn what one does."""
    torch.manual_seed(0)
    model = adapted(BASES[kind](), r".*\.(q_proj|v_proj|query|value)", lora_dropout=0.3).train()
    size = model.config.image_size
    fused.fuse(model, MEAN, STD, size, torch.float32)
    pixels, _, labels = batch(size, 5)
    trained = [weight for weight in model.parameters() if weight.requires_grad]

    def learnt(rows: slice, first: int | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
        if first is not None:
            model.get_base_model().base_model.forward.count_from(first)
        torch.manual_seed(1)
        out = model(pixel_values=pixels[rows], labels=labels[rows])
        share = len(labels[rows]) / len(labels)
        return out.logits.detach(), list(torch.autograd.grad(share * out.loss, trained))

    whole = learnt(slice(None), None)
    parts = learnt(slice(0, cut), 0), learnt(slice(cut, None), cut)
    torch.testing.assert_close(torch.cat([logits for logits, _ in parts]), whole[0], **LOOSE)
    for own, *others in zip(whole[1], *(grads for _, grads in parts), strict=True):
        torch.testing.assert_close(sum(others), own, **LOOSE)
    apart = learnt(slice(cut, None), 0)[0]  # what it is without knowing its place
    assert not torch.allclose(apart, whole[0][cut:], **LOOSE)


@pytest.mark.slow
def test_evaluation_merges_the_adapters_as_they_are_now():
    torch.manual_seed(0)
    model = adapted(BASES["vit"](), r".*\.(q|v)_proj", lora_dropout=0.5)
    theirs = copy.deepcopy(model).eval()
    fused.fuse(model, MEAN, STD, 16, torch.float32)
    pixels, values, labels = batch(16)
    for _ in range(2):
        model.eval()
        with torch.inference_mode():
            got, want = model(pixel_values=pixels).logits, theirs(pixel_values=values).logits
        torch.testing.assert_close(got, want, **LOOSE)
        model.train()
        model(pixel_values=pixels, labels=labels).loss.backward()
        with torch.no_grad():
            for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
                if mine.requires_grad:
                    mine -= mine.grad
                    other.copy_(mine)


def test_a_model_without_adapters_is_scored():
    torch.manual_seed(0)
    model = BASES["vit"]().to(DEVICE).eval()
    pixels, values, _ = batch(16)
    with torch.inference_mode():
        want = model(pixel_values=values).logits
        fused.fuse(model, MEAN, STD, 16, torch.float32)
        torch.testing.assert_close(model(pixel_values=pixels).logits, want, **LOOSE)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"target_modules": "all-linear"}, "outside query, key and value"),
        ({"use_dora": True}, "more than plain LoRA: layers.0.attention.q_proj.lora_magnitude_vector"),
        ({"bias": "lora_only"}, "more than plain LoRA: layers.0.attention.q_proj.base_layer.bias"),
        ({"rank_pattern": {"layers.0.attention.q_proj": 2}}, "rank, scale or dropout differ"),
    ],
)
def test_what_is_not_plain_lora_is_not_fused(change, reason):
    settings = {"target_modules": ["q_proj", "v_proj"], "r": 4, **change}
    model = get_peft_model(BASES["vit"](), LoraConfig(**settings))
    assert reason in (fused.why_not_fused(model) or "it is fused")


PLAIN = {"lora", "rslora", "pissa", "olora", "gaussian", "head"}


@pytest.mark.parametrize("method", sorted(set(get_args(Method)) - set(MIXTURES)))
def test_of_all_methods_only_plain_lora_and_the_head_alone_are_fused(method):
    """The fused pass would run, and train nothing of any other."""
    own = method_runs.OPTIONS.get(method, {})
    targets = "all" if method == "ln_tuning" else ["query", "value"]
    changes = {"lora.method": method, "lora.options": own, "lora.r": 4, "lora.target_modules": targets}
    document = training.settings(changes)
    lora = load_params(TrainStage, document, Path("params.yaml")).lora
    fresh = ["classifier.weight", "classifier.bias"]
    model = add_adapter(BASES["vit"](), fresh, lora, 100).model
    assert (fused.why_not_fused(model) is None) == (method in PLAIN)


def test_a_model_of_another_kind_is_not_fused():
    swin = SwinForImageClassification(SwinConfig(image_size=32, patch_size=4, embed_dim=12, depths=[1], num_heads=[2]))
    assert "swin is none of vit, deit" in fused.why_not_fused(swin)


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("ViT", {"hidden_act": "relu"}, "GELU"),
        ("ViT", {"hidden_dropout_prob": 0.1}, "dropout"),
        ("ViTMSN", {"attention_probs_dropout_prob": 0.2}, "dropout"),
        ("IJepa", {"hidden_act": "gelu_new"}, "GELU"),
        ("Dinov2", {"use_swiglu_ffn": True}, "GELU"),
        ("Dinov2", {"drop_path_rate": 0.1}, "drop path"),
        ("Dinov2WithRegisters", {"use_swiglu_ffn": True}, "GELU"),
        ("Dinov2WithRegisters", {"drop_path_rate": 0.2}, "drop path"),
    ],
)
def test_a_config_that_the_passes_dont_follow_is_not_fused(kind, change, reason):
    config = getattr(transformers, f"{kind}Config")(**SMALL, image_size=28, patch_size=14, **change)
    model = getattr(transformers, f"{kind}ForImageClassification")(config)
    assert reason in fused.why_not_fused(model)


@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels last"])
def test_patches_are_what_the_convolution_reads(last):
    torch.manual_seed(0)
    pixels, values, _ = batch(28, images=2)
    if last:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(7, 3, 14, 14, device=DEVICE)
    want = nn.functional.conv2d(values, weight, stride=14).flatten(2).transpose(1, 2).reshape(-1, 7)
    mean, std = (torch.tensor(numbers, device=DEVICE) for numbers in (MEAN, STD))
    rows = kernels.patches(pixels, mean, std, 14, torch.float32)
    assert rows.shape == (8, 592)  # 588 and zeros
    torch.testing.assert_close(rows[:, :588] @ weight.flatten(1).T, want, **LOOSE)
    assert not rows[:, 588:].any()


def test_dropout_masks_are_fair_and_independent():
    seeds = torch.tensor([1, 2], dtype=torch.int32)
    dropout = kernels.Dropout(0.1, seeds)
    masks = [dropout.kept(layer, slot, 2000, 384).double() for layer in (0, 1) for slot in (0, 1, 2)]
    for mask in masks:
        assert mask.mean().item() == pytest.approx(0.9, abs=0.002)
        for axis in (0, 1):  # binomial, so neither rows nor columns are favoured
            count = mask.shape[axis]
            assert mask.mean(axis).std().item() == pytest.approx((0.09 / count) ** 0.5, rel=0.15)
    flat = torch.stack([mask.flatten() for mask in masks])
    off = torch.corrcoef(flat) - torch.eye(len(masks))
    assert off.abs().max() < 0.006  # five standard deviations
