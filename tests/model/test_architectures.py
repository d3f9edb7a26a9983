"""Every architecture that docs/bases.md names, tiny and random: fetched, trained, reloaded, merged, exported."""

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import training
import transformers
from foreign import PROCESSOR
from safetensors.torch import load_file
from timm.models import save_for_hf
from transformers import AutoModelForImageClassification

from vitlora.download.params import ModelSource
from vitlora.download.stage import fetch_base
from vitlora.model.adapters import load_adapter, load_unmerged
from vitlora.storage.squares import load_split

SIDE = 32
WIDTH = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIDE, "patch_size": 8}
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": SIDE,
    "patch_size": 8,
}  # fmt: skip
TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 50}
STAGES = {"dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
WINDOWS = {"img_size": SIDE, "embed_dim": 8, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
# Name: architecture and its arguments; what `query, value` becomes, None where there is no attention.
OF_TIMM = {
    "DINOv3 ViT": ("vit_small_patch16_dinov3", WIDTH, {"attn.qkv"}),
    "DINOv3 ViT with biases": ("vit_small_patch16_dinov3_qkvb", WIDTH, {"attn.qkv"}),
    "DINOv3 ConvNeXt": ("convnext_tiny.dinov3_lvd1689m", STAGES, None),
    "Perception Encoder, core": ("vit_pe_core_tiny_patch16_384", WIDTH, {"attn.qkv"}),
    "Perception Encoder, spatial": ("vit_pe_spatial_tiny_patch16_512", WIDTH, {"attn.qkv"}),
    "EVA": ("eva_giant_patch14_224", WIDTH, {"attn.qkv"}),
    "EVA-02, small": ("eva02_small_patch14_224", WIDTH, {"attn.qkv"}),
    "EVA-02, base": ("eva02_base_patch14_224", WIDTH, {"attn.q_proj", "attn.v_proj"}),
    "SigLIP 2": ("vit_base_patch16_siglip_224", WIDTH, {"attn.qkv"}),
    "TIPSv2": ("vit_base_patch14_reg1_tipsv2", WIDTH, {"attn.qkv"}),
    "DINOv2 with registers": ("vit_small_patch14_reg4_dinov2", WIDTH, {"attn.qkv"}),
    "ViT": ("vit_tiny_patch16_224", WIDTH, {"attn.qkv"}),
    "BEiT": ("beit_base_patch16_224", WIDTH, {"attn.qkv"}),
    "Swin": ("swin_tiny_patch4_window7_224", WINDOWS, {"attn.qkv"}),
    "Swin 2": ("swinv2_tiny_window8_256", WINDOWS, {"attn.qkv"}),
    "ConvNeXt 2": ("convnextv2_tiny", STAGES, None),
}
BOTH = {"attention.q_proj", "attention.v_proj"}
PAIR = {"vision_config": SMALL, "text_config": TEXT}
OF_PAIR = {"self_attn.q_proj", "self_attn.v_proj"}
OF_TRANSFORMERS = {
    "SigLIP": ("SiglipModel", "SiglipConfig", PAIR, OF_PAIR),
    "CLIP": ("CLIPModel", "CLIPConfig", PAIR, OF_PAIR),
    "DINOv2 with registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", SMALL, BOTH),
    "Swin": (
        "SwinModel", "SwinConfig", {"image_size": SIDE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1],
                                    "num_heads": [2, 2], "window_size": 4}, BOTH,
    ),
    "ConvNeXt": (
        "ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "image_size": SIDE},
        None,
    ),
    "Hiera": (
        "HieraModel", "HieraConfig", {"embed_dim": 8, "image_size": [SIDE, SIDE], "depths": [1, 1, 1, 1],
                                      "num_heads": [1, 1, 2, 2]}, {"attn.qkv"},
    ),
    "BEiT": ("BeitModel", "BeitConfig", SMALL, BOTH),
}  # fmt: skip
ALL = {f"timm: {name}": entry for name, entry in OF_TIMM.items()}
ALL |= {f"transformers: {name}": entry for name, entry in OF_TRANSFORMERS.items()}
ALWAYS = ("timm: DINOv3 ViT", "timm: EVA-02, small", "transformers: Hiera")  # the others: `make faults`
each = pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.faults) for name in ALL]
)


def make(name, folder):
    """Write a random model as its library saves it; return the section `model` that means it."""
    torch.manual_seed(0)
    if name.startswith("timm: "):
        architecture, arguments, _ = ALL[name]
        model = timm.create_model(architecture, **arguments)
        for weight in model.parameters():
            if not bool(weight.any()):  # Swin 2's norms begin at zero, which lets no gradient through
                torch.nn.init.normal_(weight, std=0.1)
        save_for_hf(model, folder, model_args=arguments, safe_serialization=True)
        return ModelSource(source="timm", path=str(folder), revision=None)
    model, config, settings, _ = ALL[name]
    getattr(transformers, model)(getattr(transformers, config)(**settings)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(PROCESSOR)
    return ModelSource(source="folder", path=str(folder), revision=None)


@each
def test_it_is_trained_saved_reloaded_merged_and_exported_with_equal_logits(without_base, name, capsys):
    *_, layers = ALL[name]
    fetch_base(make(name, without_base / "made"), without_base / "base")
    changes = {"lora__target_modules": "mlp"} if layers is None else {}
    training.fit(train__num_train_epochs=1, **changes)
    metrics = json.loads(Path("metrics.json").read_text())
    kinds = {".".join(layer.split(".")[-2:]) for layer in metrics["target_modules"]}
    if layers is None:
        assert {kind.split(".")[1] for kind in kinds} in ({"fc1", "fc2"}, {"pwconv1", "pwconv2"})
    else:
        assert kinds == layers
    fused = "the adapter goes to all three" in capsys.readouterr().out
    assert fused == (layers == {"attn.qkv"})

    weights = load_file("adapter/adapter_model.safetensors")
    moved = [key for key, weight in weights.items() if "lora_B" in key and bool(weight.abs().max() > 0)]
    assert len(moved) == sum("lora_B" in key for key in weights) == len(metrics["target_modules"]), (
        "each adapter learns"
    )
    assert any("lora_" not in key for key in weights), "the new head is saved with the adapter"

    apart, _, normalise = load_unmerged(Path("base"), Path("adapter"))
    merged, labels, _ = load_adapter(Path("base"), Path("adapter"))
    pixels = normalise(torch.as_tensor(np.array(load_split(Path("test")).images[:4])))
    with torch.inference_mode():
        expected = apart.eval()(pixel_values=pixels).logits
        assert torch.allclose(merged(pixel_values=pixels).logits, expected, atol=1e-5)
    assert expected.shape == (4, len(labels.class_names))

    bundle = json.loads(Path("adapter/vitlora.json").read_text())
    assert ("timm" in bundle["versions"]) == ("architecture" in bundle["base"]) == name.startswith("timm: ")
    training.evaluate_here()
    training.export_here(("transformers", "onnx", "plain"))  # which itself holds each form against the trained model
    rows = training.format_rows("export.json")
    assert {form: row["agreement"] for form, row in rows.items()} == dict.fromkeys(rows, 1.0)
    temperature = json.loads(Path("evaluated/calibration.json").read_text())["temperature"]
    session = onnxruntime.InferenceSession("export/onnx/model.onnx")
    (found,) = session.run(None, {"pixel_values": pixels.numpy()})
    assert np.allclose(found, expected / temperature, atol=1e-4)
    again = AutoModelForImageClassification.from_pretrained("export").eval()
    with torch.inference_mode():
        assert torch.allclose(again(pixel_values=pixels).logits, expected / temperature, atol=1e-4)


@pytest.mark.faults
@pytest.mark.parametrize("name", ALL)
def test_an_interrupted_run_goes_on_to_the_same_bits(without_base, name):
    *_, layers = ALL[name]
    fetch_base(make(name, without_base / "made"), without_base / "base")
    changes = {"lora__target_modules": "mlp"} if layers is None else {}
    training.fit(train__num_train_epochs=1, **changes)
    whole = training.hashes()
    for place in training.RESULTS:
        Path(place).rename(f"{place}.whole")
    with training.stopped_after(3):
        training.fit(train__num_train_epochs=1, **changes)
    training.fit(train__num_train_epochs=1, **changes)
    assert training.hashes() == whole
