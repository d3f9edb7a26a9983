"""What a base model's files say: obeyed, or refused with a cure; every cure is carried out, and gets further."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from foreign import fill, take
from PIL import Image
from safetensors.numpy import load as parse
from safetensors.numpy import save

from vitlora.core.errors import VitloraError
from vitlora.download.base_facts import KINDS, UNFIT, check_base
from vitlora.model.base import load_base, read_normalisation

GONE = object()
NAMES = ["blue", "green", "red"]
HALF = [0.5, 0.5, 0.5]
SMALL = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A real tiny ViT's files."""
    folder = tmp_path_factory.mktemp("vit") / "base"
    tiny.make_base(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edited(data, changes):
    content = {**json.loads(data), **changes}
    return json.dumps({key: value for key, value in content.items() if value is not GONE}).encode()


def edit(folder, name, changes):
    """Change fields of a JSON file, as a reader of the message would."""
    (folder / name).write_bytes(edited((folder / name).read_bytes(), changes))


def refused(folder, base, said):
    with pytest.raises(VitloraError, match=said) as caught:
        take(folder, base)
    assert re.match(r"model\.path: [^\n]+; the rule: [^\n]+; [^\n]+$", str(caught.value)), "field, rule and cure"
    assert not base.exists()
    return str(caught.value)


def trains(folder, base, size=32):
    """Download takes it, and what train loads from it runs one batch and its loss."""
    take(folder, base)
    model, _ = load_base(base, NAMES, size)
    pixels = read_normalisation(base)(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    done = model(pixel_values=pixels, labels=torch.tensor([0, 2]))
    assert done.logits.shape == (2, 3)
    expected = torch.nn.functional.cross_entropy(done.logits, torch.tensor([0, 2]))
    assert torch.allclose(done.loss, expected, rtol=1e-4)
    return model


# Kinds of model


def test_the_kinds_are_those_of_transformers_but_for_what_is_refused_by_name():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as THEIRS

    assert set(KINDS) | (set(UNFIT) & set(THEIRS)) == set(THEIRS)
    assert not set(KINDS) & set(UNFIT)


@pytest.mark.parametrize(
    "kind",
    ["bert", "vitt", "dinov3_vit", "timm_wrapper", "siglip2", "clip_vision_model", "imagegpt", "", 5, ["vit"]],
    ids=str,
)
def test_another_kind_is_refused_and_one_of_those_named_is_taken(tmp_path, vit, kind):
    folder = fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], {"model_type": kind})})
    said = refused(folder, tmp_path / "b", r"config\.json: model_type: got .*transformers \d")
    if kind in ("bert", "vitt", "", 5, ["vit"]):
        assert "take a base of another kind, one of beit, " in said
    edit(folder, "config.json", {"model_type": "vit"})
    trains(folder, tmp_path / "b")


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "pretrained_cfg": {"input_size": [3, 224, 224]}},
        {"architecture": "resnet18"},
        {"pretrained_cfg": {"tag": "in1k"}, "architecture": "eva02_base"},
    ],
)
@pytest.mark.parametrize("processor", [True, False])
def test_a_timm_repository_is_refused_as_such_with_an_image_processor_or_without(tmp_path, vit, config, processor):
    """The cure is tried in test_timm_facts.py."""
    files = {**vit, "config.json": json.dumps(config).encode()}
    folder = fill(tmp_path / "m", {**files, "preprocessor_config.json": vit["preprocessor_config.json"] * processor})
    said = refused(folder, tmp_path / "b", "architecture: got ")
    assert said.endswith("this is timm's form; set model.source: timm")


def test_without_model_type_it_can_be_added(tmp_path, vit):
    folder = fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], {"model_type": GONE})})
    refused(folder, tmp_path / "b", 'no model_type; .*add it, such as "model_type": "vit"')
    edit(folder, "config.json", {"model_type": "vit"})
    trains(folder, tmp_path / "b")


def test_vit_mae_is_taken_after_the_two_steps_of_the_message(tmp_path, vit):
    from transformers import ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining

    decoder = {f"decoder_{key}": SMALL[key] for key in ("hidden_size", "num_attention_heads", "intermediate_size")}
    mae = ViTMAEForPreTraining(ViTMAEConfig(**SMALL, **decoder, decoder_num_hidden_layers=1))
    mae.save_pretrained(tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_bytes(vit["preprocessor_config.json"])
    said = refused(tmp_path / "m", tmp_path / "b", 'model_type: got "vit_mae"')
    assert "ViTForImageClassification.from_pretrained(FOLDER).save_pretrained(NEW)" in said
    assert "copy preprocessor_config.json into NEW and set model.path: NEW" in said
    ViTForImageClassification.from_pretrained(tmp_path / "m").save_pretrained(tmp_path / "new")
    shutil.copy(tmp_path / "m/preprocessor_config.json", tmp_path / "new")
    model = trains(tmp_path / "new", tmp_path / "b")
    assert torch.equal(model.vit.layers[1].mlp.fc1.weight, mae.vit.layers[1].mlp.fc1.weight)


def clip(folder):
    from transformers import CLIPConfig, CLIPModel

    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    CLIPModel(CLIPConfig(vision_config=SMALL, text_config=text)).save_pretrained(folder)


def test_half_of_clip_is_refused_and_the_whole_is_taken(tmp_path, vit):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**SMALL)).save_pretrained(tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_bytes(vit["preprocessor_config.json"])
    refused(tmp_path / "m", tmp_path / "b", "take the whole CLIPModel, of kind clip")
    shutil.rmtree(tmp_path / "m")
    clip(tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_bytes(vit["preprocessor_config.json"])
    trains(tmp_path / "m", tmp_path / "b")


# Fields of config.json: what is refused, and after the cure taken

CONFIG = {
    "custom code": ({"auto_map": {"AutoModel": "own.Model"}}, "auto_map: got", {"auto_map": GONE}),
    "custom config": ({"auto_map": {"AutoConfig": "a--b.C"}, "model_type": "vit"}, "auto_map", {"auto_map": GONE}),
    "8 bits": (
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "quantization_config: got .*take the model that it was quantised from",
        {"quantization_config": GONE},
    ),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config", {"quantization_config": GONE}),
    "no method": ({"quantization_config": {}}, r"quantization_config: got \{\}", {"quantization_config": None}),
    "odd dtype": ({"dtype": "fp32"}, "dtype: got \"fp32\"; .*float32", {"dtype": GONE}),
    "torch.float32": ({"dtype": "torch.float32"}, "dtype: got .*; remove dtype", {"dtype": "float32"}),
    "auto": ({"dtype": "auto"}, "dtype: got .*; remove dtype", {"dtype": GONE}),
    "8-bit floats": ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype: got", {"torch_dtype": GONE}),
    "flash": ({"attn_implementation": "flash_attention_2"}, "attn_implementation", {"attn_implementation": GONE}),
    "old flash": ({"_attn_implementation": "flash_attention_3"}, "_attn_impl", {"_attn_implementation": "sdpa"}),
    "kernels": ({"attn_implementation": "owner/kernel"}, "attn_implementation", {"attn_implementation": "eager"}),
    "labels as a list": ({"id2label": ["a", "b"]}, r"id2label: got \[", {"id2label": GONE}),
    "label2id as text": ({"label2id": "a"}, "label2id: got", {"label2id": GONE}),
    "labels as text": ({"num_labels": "7"}, 'num_labels: got "7"', {"num_labels": GONE}),
    "a text in sides": ({"image_size": "32"}, 'image_size: got "32"', {"image_size": 32}),
    "a bool": ({"image_size": True}, "image_size: got true", {"image_size": 32}),
    "a decimal point": ({"image_size": 32.0}, r"image_size: got 32\.0", {"image_size": 32}),
    "no sides": ({"image_size": []}, r"image_size: got \[\]", {"image_size": [32, 32]}),
    "no square": ({"image_size": [32, 24]}, r"image_size: got \[32, 24\]; the rule: a sq", {"image_size": [32, 32]}),
    "no square by name": ({"image_size": {"height": 32, "width": 24}}, "image_size: got .*a sq", {"image_size": 32}),
    "portrait": ({"image_size": [224, 196]}, "image_size: got .*take a base that", {"image_size": 32}),
    "patch of nothing": ({"patch_size": 0}, "patch_size: got 0", {"patch_size": [8, 8]}),
    "patch below nothing": ({"patch_size": -8}, "patch_size: got -8", {"patch_size": 8}),
    "grey": ({"num_channels": 1}, "num_channels: got 1; the rule: 3, red", {"num_channels": 3}),
    "four channels": ({"num_channels": 4}, "num_channels: got 4", {"num_channels": GONE}),
    "channels as text": ({"num_channels": "3"}, 'num_channels: got "3"', {"num_channels": 3}),
    "one label, and a loss of many": (
        {"problem_type": "single_label_classification", "num_labels": 1}, "problem_type: got", {"problem_type": GONE},
    ),
    "no channels": ({"num_channels": None}, "num_channels: got null", {"num_channels": 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIG)
def test_a_config_that_training_cannot_go_by_is_refused_and_its_cure_gets_further(tmp_path, vit, name):
    changes, said, cure = CONFIG[name]
    folder = fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], changes)})
    refused(folder, tmp_path / "b", rf"/config\.json: {said}")
    edit(folder, "config.json", cure)
    trains(folder, tmp_path / "b")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"num_channels": 1}, r"config\.json: vision_config\.num_channels: got 1"),
        ({"image_size": [32, 16]}, r"config\.json: vision_config\.image_size: got \[32, 16\]"),
        ({"quantization_config": {"bits": 4}}, r"vision_config\.quantization_config"),
        ({"dtype": "half"}, r"vision_config\.dtype: got \"half\""),
        (None, None),
        ("all", r"config\.json: vision_config: got \"all\"; the rule: an object in braces"),
    ],
)
def test_of_clip_the_picture_s_side_is_looked_at(tmp_path, vit, part, said):
    clip(tmp_path / "m")
    (tmp_path / "m/preprocessor_config.json").write_bytes(vit["preprocessor_config.json"])
    good = json.loads((tmp_path / "m/config.json").read_bytes())["vision_config"]
    changed = {**good, **part} if isinstance(part, dict) else part
    edit(tmp_path / "m", "config.json", {"vision_config": changed})
    if said:
        refused(tmp_path / "m", tmp_path / "b", said)
    else:  # all its settings are defaults
        assert check_base(tmp_path / "m").mean == HALF
    edit(tmp_path / "m", "config.json", {"vision_config": good})
    trains(tmp_path / "m", tmp_path / "b")


@pytest.mark.parametrize(
    ("loss", "labels"),
    [("multi_label_classification", 7), ("regression", 1), ("regression", 7), ("odd", 2), (5, 2)],
)
def test_a_loss_of_the_old_head_is_told_and_cross_entropy_trained(tmp_path, vit, capsys, loss, labels):
    """Which loss it is, is looked at in ``trains``."""
    old = {"problem_type": loss, "id2label": {str(n): f"old {n}" for n in range(labels)}}
    folder = fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], old)})
    model = trains(folder, tmp_path / "b")
    assert f"note: config.json has problem_type {json.dumps(loss)}, which was its old" in capsys.readouterr().out
    assert model.config.id2label == dict(enumerate(NAMES))


def test_cross_entropy_is_no_news(tmp_path, vit, capsys):
    usual = {"problem_type": "single_label_classification", "id2label": {"0": "a", "1": "b"}}
    trains(fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], usual)}), tmp_path / "b")
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("more", [{"return_dict": False}, {"torchscript": True}, {"output_hidden_states": True}])
def test_what_a_model_would_return_beside_logits_is_no_matter(tmp_path, vit, more):
    trains(fill(tmp_path / "m", {**vit, "config.json": edited(vit["config.json"], more)}), tmp_path / "b")


# Whole files


def test_a_folder_around_the_model_is_named_with_the_one_inside(tmp_path, vit):
    for name in ("checkpoint-5", "checkpoint-10"):
        fill(tmp_path / "run" / name, vit)
    said = refused(
        tmp_path / "run", tmp_path / "b", r"run has no config\.json; the rule: a folder that save_pretrained"
    )
    inner = re.search(r"; (\S+) has one: set model\.path to it$", said)[1]
    trains(Path(inner), tmp_path / "b")


def test_an_adapter_is_refused_with_the_model_that_it_belongs_to(tmp_path, vit):
    from peft import LoraConfig

    whole = fill(tmp_path / "whole", vit)
    LoraConfig(target_modules=["q_proj"], base_model_name_or_path=str(whole)).save_pretrained(tmp_path / "adapter")
    said = refused(tmp_path / "adapter", tmp_path / "b", r"has no config\.json; .*this is a PEFT adapter")
    trains(Path(re.search(r'belongs to, "(.+)"$', said)[1]), tmp_path / "b")


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff", b"{", b"[" * 100_000, b"version https://git-lfs\n"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_a_file_that_is_no_json_is_named_and_whole_taken(tmp_path, vit, name, data):
    folder = fill(tmp_path / "m", {**vit, name: data})
    with pytest.raises(VitloraError, match=rf"^model\.path: \S+/{name} is not JSON \(.+\); fetch it anew$"):
        take(folder, tmp_path / "b")
    fill(tmp_path / "new", vit)
    trains(tmp_path / "new", tmp_path / "b")


@pytest.mark.parametrize("data", [b"[]", b"null", b"5"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "processor_config.json"])
def test_json_that_is_no_object_is_refused(tmp_path, vit, name, data):
    refused(fill(tmp_path / "m", {**vit, name: data}), tmp_path / "b", rf"{name}: got .*; the rule: an object")


NAMED = {
    "half precision's name": ("model.fp16.safetensors", "name it model.safetensors"),
    "the reader's own": ("my model.safetensors", "name it model.safetensors"),
    "a downloader's": ("model (1).safetensors", "name it model.safetensors"),
    "an adapter's": ("adapter_model.safetensors", "set model.path to the model that it belongs to"),
}


@pytest.mark.parametrize("name", NAMED)
def test_weights_under_another_name_are_refused_and_renamed_taken(tmp_path, vit, name):
    other, said = NAMED[name]
    files = {**vit, "model.safetensors": None, other: vit["model.safetensors"]}
    folder = fill(tmp_path / "m", files)
    refused(folder, tmp_path / "b", rf"m has {re.escape(other)}; the rule: model\.safetensors, or .*{said}")
    (folder / other).rename(folder / "model.safetensors")
    trains(folder, tmp_path / "b")


def test_parts_without_their_index_are_refused_and_taken_with_it(tmp_path, vit):
    tensors = parse(vit["model.safetensors"])
    parts = {name: f"model-0000{n % 3 + 1}-of-00003.safetensors" for n, name in enumerate(sorted(tensors))}
    shards = {
        part: save({n: tensors[n] for n in parts if parts[n] == part}, {"format": "pt"}) for part in parts.values()
    }
    folder = fill(tmp_path / "m", {**vit, "model.safetensors": None, **shards})
    refused(folder, tmp_path / "b", r"put model\.safetensors\.index\.json beside them")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": parts}))
    trains(folder, tmp_path / "b")


def test_pickled_weights_are_refused_and_converted_by_the_steps_of_the_message_taken(tmp_path, vit):
    from transformers import AutoModel

    folder = fill(tmp_path / "m", {**vit, "model.safetensors": None})
    weights = {name: torch.from_numpy(value.copy()) for name, value in parse(vit["model.safetensors"]).items()}
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(VitloraError, match=r"converts them; copy preprocessor_config\.json into NEW too; "):
        take(folder, tmp_path / "b")
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path / "new")
    shutil.copy(folder / "preprocessor_config.json", tmp_path / "new")
    trains(tmp_path / "new", tmp_path / "b")


# The image processor: what it does to a picture, against transformers itself

PROCESSORS = {
    "ViT": ("ViTImageProcessor", {}),
    "not normalised": ("ViTImageProcessor", {"do_normalize": False}),
    "not normalised, by null": ("ViTImageProcessor", {"do_normalize": None}),
    "bytes as they are": ("ViTImageProcessor", {"do_normalize": False, "do_rescale": False}),
    "bytes normalised": (
        "ViTImageProcessor",
        {"do_rescale": False, "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
    ),
    "to 0..2": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}),
    "to 0..2 and no more": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "do_normalize": False}),
    "a factor of 256": ("ViTImageProcessor", {"rescale_factor": 1 / 256}),
    "one number for all": ("ViTImageProcessor", {"image_mean": 0.4, "image_std": 0.3}),
    "integers": ("ViTImageProcessor", {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}),
    "EfficientNet": ("EfficientNetImageProcessor", {}),
    "EfficientNet without top": ("EfficientNetImageProcessor", {"include_top": False}),
    "EfficientNet, offset": ("EfficientNetImageProcessor", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "CLIP": ("CLIPImageProcessor", {}),
    "ConvNeXt": ("ConvNextImageProcessor", {}),
    "BEiT, labels of segmentation": ("BeitImageProcessor", {"do_reduce_labels": True}),
    "MobileViT, RGB": ("MobileViTImageProcessor", {"do_flip_channel_order": False}),
}


@pytest.mark.parametrize("form", ["file", "nested"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_pixel_becomes_what_the_model_s_own_image_processor_makes_of_it(tmp_path, vit, name, form):
    import transformers

    kind, settings = PROCESSORS[name]
    processor = getattr(transformers, kind).from_dict(settings)
    folder = fill(tmp_path / "m", vit)
    processor.save_pretrained(folder)
    saved = {**json.loads((folder / "preprocessor_config.json").read_bytes()), **settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(saved))
    if form == "nested":
        (folder / "preprocessor_config.json").unlink()
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": saved}))
    take(folder, tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted({*vit, "image.json"})
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    plain = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
    expected = processor(Image.fromarray(pixels), **plain)["pixel_values"][0].float()
    ours = read_normalisation(tmp_path / "b")(torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()))[0]
    assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_forms_of_older_versions_are_read(tmp_path, vit):
    for number, form in enumerate(
        [
            {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2, "do_resize": True},
            {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True},
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 224}, "crop_size": 224},
            {"image_processor_type": "ViTImageProcessorFast", "size": {"height": 224, "width": 224}, "device": None},
        ]
    ):
        data = json.dumps({**form, "image_mean": HALF, "image_std": HALF, "do_normalize": True}).encode()
        folder = fill(tmp_path / f"m{number}", {**vit, "preprocessor_config.json": data})
        take(folder, tmp_path / f"b{number}")
        written = (tmp_path / f"b{number}/preprocessor_config.json").read_bytes()
        assert written == data, "what says it in our form already is copied as it is"


def test_clip_as_its_whole_processor_saves_it_is_taken(tmp_path):
    from transformers import CLIPImageProcessor, CLIPProcessor, CLIPTokenizer

    clip(tmp_path / "m")
    (tmp_path / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    words = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    CLIPProcessor(CLIPImageProcessor(), words).save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m/preprocessor_config.json").exists()
    trains(tmp_path / "m", tmp_path / "b")
    assert read_normalisation(tmp_path / "b").mean == [0.48145466, 0.4578275, 0.40821073]


def test_a_processor_config_without_image_processor_leaves_the_word_to_the_other_file(tmp_path, vit):
    files = {**vit, "processor_config.json": b'{"processor_class": "CLIPProcessor", "image_processor": null}'}
    trains(fill(tmp_path / "m", files), tmp_path / "b")


SWITCHES = {
    "BGR": ({"do_flip_channel_order": True}, 'do_flip_channel_order: got true', {"do_flip_channel_order": False}),
    "BGR by its class": (
        {"feature_extractor_type": "MobileViTFeatureExtractor"},
        "do_flip_channel_order: got true; .*set do_flip_channel_order: false if",
        {"do_flip_channel_order": False},
    ),
    "BGR by another class": (
        {"image_processor_type": "PPLCNetImageProcessor"}, "do_flip_channel_order", {"do_flip_channel_order": False},
    ),
    "clusters of colours": ({"do_color_quantize": True}, "do_color_quantize: got true", {"do_color_quantize": False}),
    "a switch of tomorrow": ({"do_invert": True}, "do_invert: got true", {"do_invert": False}),
    "a switch as text": ({"do_normalize": "no"}, 'do_normalize: got "no"; the rule: true', {"do_normalize": False}),
    "a switch as a number": ({"do_rescale": 1}, "do_rescale: got 1", {"do_rescale": True}),
    "an offset as text": ({"rescale_offset": "yes"}, "rescale_offset: got", {"rescale_offset": False}),
    "custom code": ({"auto_map": {"AutoImageProcessor": "x.Y"}}, "auto_map: got", {"auto_map": GONE}),
    "one channel": ({"image_mean": [0.5]}, r"image_mean: got \[0\.5\]; the rule: three", {"image_mean": HALF}),
    "four channels": ({"image_std": [0.5] * 4}, "image_std: got", {"image_std": HALF}),
    "text": ({"image_mean": ["0.5"] * 3}, "image_mean: got", {"image_mean": HALF}),
    "all as one text": ({"image_mean": "0.5"}, "image_mean: got", {"image_mean": HALF}),
    "bools": ({"image_std": [True] * 3}, "image_std: got", {"image_std": HALF}),
    "an object": ({"image_mean": {"r": 0.5}}, "image_mean: got", {"image_mean": HALF}),
    "NaN": ({"image_mean": [0.5, float("nan"), 0.5]}, r"image_mean: got \[0\.5, NaN", {"image_mean": HALF}),
    "infinity": ({"image_std": [0.5, float("inf"), 0.5]}, "image_std: got", {"image_std": HALF}),
    "without end": ({"image_mean": [10**400] * 3}, "image_mean: got", {"image_mean": HALF}),
    "zero": ({"image_std": [0.5, 0, 0.5]}, "image_std: got .*above 0", {"image_std": HALF}),
    "negative": ({"image_std": [-0.5] * 3}, "image_std: got .*above 0", {"image_std": HALF}),
    "no mean": ({"image_mean": GONE}, "image_mean is missing; .*write those", {"image_mean": HALF}),
    "null": ({"image_mean": None, "image_std": None}, "image_mean is missing", {"image_mean": HALF, "image_std": HALF}),
    "no factor": ({"rescale_factor": None}, "rescale_factor: got null", {"rescale_factor": 1 / 255}),
    "factor of nothing": ({"rescale_factor": 0}, "rescale_factor: got 0", {"rescale_factor": 1 / 255}),
    "factor as text": ({"rescale_factor": "1/255"}, "rescale_factor: got", {"rescale_factor": 1 / 255}),
    "mean of bytes": (
        {"image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4]},
        "image_mean, image_std: got .*of pixels scaled to 0..1.*do_rescale: false",
        {"do_rescale": False},
    ),
    "mean of bytes, divided": (
        {"image_mean": [127.5] * 3, "image_std": [127.5] * 3}, "image_mean, .*divide both by 255",
        {"image_mean": HALF, "image_std": HALF},
    ),
    "bytes without a scale": (
        {"do_rescale": False}, "image_mean, .*since do_rescale is false; set do_rescale: true if", {"do_rescale": True},
    ),
    "scaled twice": ({"rescale_factor": 1 / 65025}, "image_mean, image_std: got", {"rescale_factor": 1 / 255}),
}  # fmt: skip


@pytest.mark.parametrize("name", SWITCHES)
def test_a_processor_that_training_cannot_follow_is_refused_and_its_cure_gets_further(tmp_path, vit, name):
    changes, said, cure = SWITCHES[name]
    files = {**vit, "preprocessor_config.json": edited(vit["preprocessor_config.json"], changes)}
    folder = fill(tmp_path / "m", files)
    refused(folder, tmp_path / "b", rf"/preprocessor_config\.json: {said}")
    edit(folder, "preprocessor_config.json", cure)
    trains(folder, tmp_path / "b")


def test_a_field_inside_processor_config_is_named_by_its_place(tmp_path, vit):
    data = json.dumps({"image_processor": {"image_mean": HALF, "image_std": [0, 1, 1]}}).encode()
    folder = fill(tmp_path / "m", {**vit, "processor_config.json": data})
    refused(folder, tmp_path / "b", r"processor_config\.json: image_processor\.image_std: got \[0, 1, 1\]")
    edit(folder, "processor_config.json", {"image_processor": {"image_mean": HALF, "image_std": HALF}})
    trains(folder, tmp_path / "b")


def test_without_an_image_processor_the_file_of_the_message_is_taken(tmp_path, vit):
    folder = fill(tmp_path / "m", {**vit, "preprocessor_config.json": None})
    said = refused(folder, tmp_path / "b", r"has no preprocessor_config\.json, nor an image_processor in")
    (folder / "preprocessor_config.json").write_text(re.search(r"such as (\{.+\})$", said)[1])
    trains(folder, tmp_path / "b")


TOLD = {
    "its config": ({"image_size": 32}, {}, "base model: vit, trained at 32 px (yours"),
    "resample": ({"image_size": 384}, {"resample": 3}, "trained at 384 px, bicubic (yours"),
    "nearest": ({"image_size": GONE}, {"resample": 0, "size": [64, 64]}, "trained at 64 px, nearest ("),
    "a bool for a filter": ({}, {"resample": True}, "trained at 32 px (yours"),
    "lanczos": ({"image_size": GONE}, {"resample": 1, "crop_size": 224, "size": 256}, "trained at 224 px, lanczos ("),
    "squeezed": ({}, {"size": {"height": 224, "width": 224}}, "interpolation); its processor squeezed pictures to"),
    "cut": ({}, {"size": {"height": 40, "width": 40}, "do_center_crop": True}, "image.interpolation)"),
    "nothing": ({"image_size": GONE}, {}, "base model: vit"),
    "odd": ({"image_size": GONE}, {"resample": 9, "size": {"longest_edge": 5}}, "base model: vit"),
    "a rectangle": ({"image_size": GONE}, {"size": {"height": 224, "width": 196}}, "224 x 196 px ("),
}  # fmt: skip


@pytest.mark.parametrize("name", TOLD)
def test_one_line_tells_what_the_base_was_trained_with(tmp_path, vit, name):
    config, processor, said = TOLD[name]
    changed = {"config.json": config, "preprocessor_config.json": processor}
    folder = fill(tmp_path / "m", {**vit, **{key: edited(vit[key], value) for key, value in changed.items()}})
    (line,) = check_base(folder).lines
    assert said in line
    assert ("squeezed" in line) == (name in ("squeezed", "a rectangle"))
