"""The model card says what its accuracy was measured on."""

import pytest
from huggingface_hub import ModelCard

from vitlora.export.card import write_card

BUNDLE = {
    "class_names": ["cat", "dog"],
    "image_size": 32,
    "interpolation": "bicubic",
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "method": {"name": "lora", "settings": {"r": 4}, "layers": ["0.query"]},
    "base": {"model_type": "vit"},
    "calibration": {"temperature": 1.25, "coverage": 0.9, "threshold": 0.31, "images": 40, "in_weights": True},
}
ROW = {"accuracy": 0.75, "agreement": 0.9375, "largest_logit_difference": 0.125, "bytes": 1_250_000}
FORMS = {"transformers": ROW, "onnx": ROW, "onnx-int8": ROW}
START = "Accuracy 0.7500 on 20 test images (95 % interval 0.5313 to 0.8881)"
SAYS = {
    0: f"{START} that played no part in training or in choosing the epoch.",
    3: f"{START}, of which 3 played a part in training or in choosing the epoch: the accuracy on new "
    "pictures is lower.",
    None: f"{START}. Whether they played a part in training or in choosing the epoch is not known, since an adapter "
    "that this one is made of, or its teacher, was trained on other pictures or does not record them.",
}


@pytest.mark.parametrize("seen", SAYS)
def test_it_says_whether_test_pictures_were_met_in_training(tmp_path, seen):
    write_card(tmp_path / "README.md", 15, 20, seen, BUNDLE, 16, FORMS)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert SAYS[seen] in text
    assert sum(other in text for other in SAYS.values()) == 1


@pytest.mark.parametrize(
    ("method", "said", "tags"),
    [
        ("lora", "method `lora` (r 4; layers 0.query) and merged. Accuracy", ["lora", "vit", "vitlora"]),
        ("full", "method `full` (all weights). Accuracy", ["vit", "vitlora"]),
        ("head", "method `head` (the classifier alone). Accuracy", ["vit", "vitlora"]),
    ],
)
def test_it_says_what_was_trained(tmp_path, method, said, tags):
    own = {"name": method, **({"settings": {"r": 4}, "layers": ["0.query"]} if method == "lora" else {})}
    bundle = {**BUNDLE, "method": {"settings": {}, "layers": [], **own}}
    write_card(tmp_path / "README.md", 15, 20, 0, bundle, 16, FORMS)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == tags
    assert said in " ".join(card.text.split())


def test_it_says_that_the_base_was_in_four_bits(tmp_path):
    said = "trained on its base in four bits"
    for base, there in (({"model_type": "vit"}, False), ({"model_type": "vit", "load_in_4bit": True}, True)):
        write_card(tmp_path / "README.md", 15, 20, 0, {**BUNDLE, "base": base}, 16, FORMS)
        assert (said in (tmp_path / "README.md").read_text(encoding="utf-8")) == there


def test_it_says_how_confidences_were_calibrated(tmp_path):
    write_card(tmp_path / "README.md", 15, 20, 0, BUNDLE, 16, FORMS)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert "divided by a temperature of 1.25, found on 40 validation images, which is part of the last layer's" in text
    assert "at least 0.31 make a set that holds the true class of 90 in 100 pictures" in text
    outside = {**BUNDLE, "calibration": {**BUNDLE["calibration"], "in_weights": False, "threshold": 0}}
    write_card(tmp_path / "README.md", 15, 20, 0, outside, 16, FORMS)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert "ONNX and OpenVINO files do that themselves, the weights for transformers don't." in text
    assert "make a set" not in text


@pytest.mark.parametrize(
    ("licence", "front", "said"),
    [
        ({"license": "apache-2.0"}, {"license": "apache-2.0"}, "under the licence `apache-2.0`: read it"),
        ({"license": "cc-by-nc-4.0"}, {"license": "cc-by-nc-4.0"}, "under the licence `cc-by-nc-4.0`: read it"),
        (
            {"license": "other", "license_name": "dinov3-license"},
            {"license": "other", "license_name": "dinov3-license"},
            "under the licence `dinov3-license`: read it",
        ),
        (
            {"license": "other", "license_name": "own", "license_link": "https://a.example/b"},
            {"license": "other", "license_name": "own", "license_link": "https://a.example/b"},
            "under the licence `own`, https://a.example/b: read it",
        ),
        ({}, {}, ""),
    ],
)
def test_it_says_what_licence_the_base_model_has(tmp_path, licence, front, said):
    own = {"id": "timm/vit", "source": "timm", "architecture": "vit_tiny_patch16_224", "model_type": "timm_wrapper"}
    base = {**own, "licence": licence} if licence else own
    write_card(tmp_path / "README.md", 15, 20, 0, {**BUNDLE, "base": base}, 16, FORMS)
    card = ModelCard.load(tmp_path / "README.md")
    found = card.data.to_dict()
    assert {key: value for key, value in found.items() if key.startswith("license")} == front
    assert found["base_model"] == "timm/vit"
    text = " ".join(card.text.split())
    assert text.startswith("# Image classifier of 2 classes A vit_tiny_patch16_224 fine-tuned with method `lora`")
    assert f"The base model (timm/vit) is {said}" in text if said else "licence" not in text


def test_it_lists_the_formats_with_what_was_measured_and_leaves_transformers_out_where_it_is_not_one(tmp_path):
    write_card(tmp_path / "README.md", 15, 20, 0, BUNDLE, 16, FORMS)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| onnx-int8 | `model_int8.onnx` | 1.2 | 0.7500 | 93.75 % | 0.125 |" in text
    assert "(Measured on 16 of the test images.)" in text
    assert "from transformers import pipeline" in text
    write_card(tmp_path / "README.md", 15, 20, 0, BUNDLE, 16, {"onnx": ROW})
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "pipeline(" not in text
    assert "library_name: onnx" in text
