"""Base models in timm's layout: written in transformers' form, or refused with a cure; every cure is carried out."""

import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.download.params import ModelSource
from vitlora.download.stage import fetch_base
from vitlora.model.base import load_base, read_normalisation
from vitlora.model.layer_names import skeleton
from vitlora.safety.check import _across
from vitlora.safety.source import local_path

NAMES = ["blue", "green", "red"]
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}
GONE = object()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A real tiny ViT of timm, with its head of a thousand classes, as timm itself saves it."""
    folder = tmp_path_factory.mktemp("timm") / "base"
    torch.manual_seed(0)
    save_for_hf(timm.create_model("vit_tiny_patch16_224", **SMALL), folder, model_args=SMALL, safe_serialization=True)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(folder, files, config=None, own=None, arguments=None, **more):
    """Write the files, with fields of config.json, of its pretrained_cfg and of its model_args changed."""
    content = json.loads(files["config.json"])
    for part, changes in ((content, config), (content["pretrained_cfg"], own), (content["model_args"], arguments)):
        part.update(changes or {})
        for key in [key for key, value in part.items() if value is GONE]:
            del part[key]
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {**files, "config.json": json.dumps(content).encode(), **more}.items():
        (folder / name).write_bytes(data)
    return folder


def take(folder, base):
    fetch_base(ModelSource(source="timm", path=str(folder), revision=None), base)


def test_a_head_of_a_thousand_classes_gives_way_to_one_of_ours(tmp_path, files, capsys):
    take(write(tmp_path / "m", files), tmp_path / "b")
    said = "base model: vit_tiny_patch16_224 of timm, trained at 32 px, bicubic (yours are image.size_px and"
    assert said in capsys.readouterr().out
    model, fresh = load_base(tmp_path / "b", NAMES, 32)
    assert fresh == ["timm_model.head.bias", "timm_model.head.weight"]
    assert model(pixel_values=torch.zeros(2, 3, 32, 32)).logits.shape == (2, 3)
    assert model.config.id2label == dict(enumerate(NAMES))
    assert read_normalisation(tmp_path / "b").mean == [0.5, 0.5, 0.5]
    assert read_json(tmp_path / "b/image.json") == {"size_px": 32, "interpolation": "bicubic"}
    assert read_json(tmp_path / "b/source.json") == {"licence": {"license": "apache-2.0"}}
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [
        *("config.json", "image.json", "model.safetensors", "preprocessor_config.json", "source.json")
    ]


def test_its_skeleton_has_the_names_of_the_whole(tmp_path, files):
    take(write(tmp_path / "m", files), tmp_path / "b")
    model, _ = load_base(tmp_path / "b", NAMES, 32)
    assert [name for name, _ in skeleton(tmp_path / "b").named_modules()] == [name for name, _ in model.named_modules()]


def test_features_are_those_of_timm_at_its_size_and_another(tmp_path, files):
    take(write(tmp_path / "m", files), tmp_path / "b")
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    for side in (32, 64):
        theirs.set_input_size(img_size=(side, side))
        ours, _ = load_base(tmp_path / "b", NAMES, side)
        pixels = torch.rand(2, 3, side, side)
        with torch.inference_mode():
            assert torch.equal(ours.timm_model.forward_features(pixels), theirs.forward_features(pixels))


@pytest.mark.parametrize("folder_of", ["m", "saved"])
def test_what_transformers_saves_of_it_is_taken_too(tmp_path, files, folder_of):
    take(write(tmp_path / "m", files), tmp_path / "b")
    model, _ = load_base(tmp_path / "b", NAMES, 64)
    model.save_pretrained(tmp_path / "saved")
    take(tmp_path / folder_of, tmp_path / "again")
    again, _ = load_base(tmp_path / "again", NAMES, 64)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        pair = (each.timm_model.eval().forward_features(pixels) for each in (model, again))
        assert torch.equal(*pair)


REFUSED = {
    "no architecture": ({"config": {"architecture": GONE}}, "no architecture; the rule: the name", {}),
    "another's config": (
        {"config": {"architecture": GONE, "model_type": "vit"}},
        "this is a model of transformers: set model.source: folder or hub",
        {},
    ),
    "a name for the network": ({"config": {"architecture": "hf-hub:a/b"}}, 'architecture: got "hf-hub:a/b"', {}),
    "a name of a folder": ({"config": {"architecture": "local-dir:/tmp"}}, "architecture: got", {}),
    "a name as a list": ({"config": {"architecture": ["vit"]}}, "architecture: got", {}),
    "no settings": (
        {"config": {"pretrained_cfg": GONE}},
        "no pretrained_cfg; .*write it, such as",
        {"config": {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224]}}},
    ),
    "settings as text": ({"config": {"pretrained_cfg": "x"}}, "pretrained_cfg: got", {}),
    "no mean": ({"own": {"mean": GONE}}, r"pretrained_cfg\.mean is missing", {"own": {"mean": [0.5] * 3}}),
    "two means": ({"own": {"mean": [0.5, 0.5]}}, r"pretrained_cfg\.mean: got", {"own": {"mean": [0.5] * 3}}),
    "a std of zero": ({"own": {"std": [0.5, 0, 0.5]}}, r"pretrained_cfg\.std: got", {"own": {"std": [0.5] * 3}}),
    "not a square": ({"own": {"input_size": [3, 32, 64]}}, r"pretrained_cfg\.input_size: got", {}),
    "one channel": ({"own": {"input_size": [1, 32, 32]}}, r"pretrained_cfg\.input_size: got", {}),
    "a size in words": (
        {"own": {"input_size": "32"}},
        r"pretrained_cfg\.input_size: got",
        {"own": {"input_size": [3, 32, 32]}},
    ),
    "grey pictures": ({"arguments": {"in_chans": 1}}, r"model_args\.in_chans: got 1; the rule: 3", {}),
    **{
        key: ({"arguments": {key: "x.pth"}}, rf"model_args\.{key}: got .*; remove {key}", {"arguments": {key: GONE}})
        for key in ("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_line_and_taken_once_cured(tmp_path, files, name):
    changes, said, cure = REFUSED[name]
    with pytest.raises(VitloraError, match=said) as caught:
        take(write(tmp_path / "m", files, **changes), tmp_path / "b")
    assert re.match(r"model\.path: [^\n]+; [^\n]+$", str(caught.value))
    assert not (tmp_path / "b").exists()
    take(write(tmp_path / "m", files, **cure), tmp_path / "b")
    load_base(tmp_path / "b", NAMES, 32)


def test_pickled_weights_are_refused_and_converted_by_the_line_of_the_message_taken(tmp_path, files):
    folder = write(tmp_path / "m", files)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(VitloraError, match=r"pytorch_model\.bin may run .* those of timm") as caught:
        take(folder, tmp_path / "b")
    (line,) = re.findall(r"safetensors\.torch\.(save_file\(.*\))$", str(caught.value))
    line = line.replace("FILE", f"{str(folder / 'pytorch_model.bin')!r}").replace("FOLDER", str(folder))
    exec(line, {"save_file": save_file, "torch": torch})
    take(folder, tmp_path / "b")
    load_base(tmp_path / "b", NAMES, 32)


def test_a_place_that_is_no_folder_is_refused_with_both_ways(tmp_path):
    with pytest.raises(VitloraError, match=r"no folder here; .*a local folder, or the Hub's id with its full commit"):
        take("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", tmp_path / "b")


def test_an_architecture_that_this_timm_does_not_have_is_one_line(tmp_path, files):
    take(write(tmp_path / "m", files, config={"architecture": "vit_of_next_year"}), tmp_path / "b")
    with pytest.raises(VitloraError, match=r"cannot load it: .*vit_of_next_year") as caught:
        load_base(tmp_path / "b", NAMES, 32)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("card", "name", "expected"),
    [
        (b"---\nlicense: cc-by-nc-4.0\n---\n# x", "apache-2.0", {"license": "cc-by-nc-4.0"}),
        (None, "dinov3-license", {"license": "other", "license_name": "dinov3-license"}),
        (
            b"---\nlicense: other\nlicense_name: own\nlicense_link: https://a.example/b\n---\n",
            None,
            {"license": "other", "license_name": "own", "license_link": "https://a.example/b"},
        ),
        (b"---\nlicense: [a, b]\n---\n", None, {}),
        (b"---\nlicense: '<script>'\n---\n", None, {}),
        (b"no front matter", None, {}),
        (b"---\n\xff: {{\n---\n", "mit", {"license": "mit"}),
    ],
)
def test_the_licence_is_noted_as_card_or_settings_have_it(tmp_path, files, card, name, expected):
    folder = write(tmp_path / "m", files, own={"license": name}, **({"README.md": card} if card else {}))
    take(folder, tmp_path / "b")
    note = tmp_path / "b/source.json"
    assert (read_json(note) if note.exists() else {}) == ({"licence": expected} if expected else {})


@pytest.mark.parametrize(
    ("architecture", "size", "said"),
    [
        ("vit_tiny_patch16_224", 40, "a multiple of the base model's patch, 16 px"),
        ("vit_small_patch14_reg4_dinov2.lvd142m", 36, "a multiple of the base model's patch, 14 px"),
        ("vit_tiny_patch16_224", 64, ""),
        ("convnext_atto", 33, ""),
    ],
)
def test_the_patch_is_known_from_the_name_and_the_width_from_the_config(tmp_path, files, architecture, size, said):
    take(write(tmp_path / "m", files, config={"architecture": architecture}), tmp_path / "b")
    assert said in next(_across({"image": {"size_px": size}}, tmp_path / "b"), "")
    ranks = {"lora": {"method": "lora", "r": 33, "options": {}}}
    assert "no larger than the base model's layers, 32" in next(_across(ranks, tmp_path / "b"))


def test_only_a_folder_of_timm_is_watched_for_changes():
    assert local_path({"source": "timm", "path": "mine", "revision": None}) == "mine"
    assert local_path({"source": "timm", "path": "timm/vit", "revision": "0" * 40}) is None
