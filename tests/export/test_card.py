"""The model card says what its accuracy was measured on."""

import pytest

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
START = "Accuracy 0.7500 on 20 test images (95 % interval 0.5313 to 0.8881)"
SAYS = {
    0: f"{START} that played no part in training or in choosing the epoch.",
    3: f"{START}, of which 3 played a part in training or in choosing the epoch: the accuracy on new "
    "pictures is lower.",
    None: f"{START}. Whether they played a part in training or in choosing the epoch is not known, since an adapter "
    "that this one is made of does not record its pictures.",
}


@pytest.mark.parametrize("seen", SAYS)
def test_it_says_whether_test_pictures_were_met_in_training(tmp_path, seen):
    write_card(tmp_path / "README.md", 15, 20, seen, BUNDLE)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert SAYS[seen] in text
    assert sum(other in text for other in SAYS.values()) == 1


def test_it_says_how_confidences_were_calibrated(tmp_path):
    write_card(tmp_path / "README.md", 15, 20, 0, BUNDLE)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert "divided by a temperature of 1.25, found on 40 validation images, which is part of the last layer's" in text
    assert "at least 0.31 make a set that holds the true class of 90 in 100 pictures" in text
    outside = {**BUNDLE, "calibration": {**BUNDLE["calibration"], "in_weights": False, "threshold": 0}}
    write_card(tmp_path / "README.md", 15, 20, 0, outside)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert "`model.onnx` does that itself, the weights for transformers don't." in text
    assert "make a set" not in text
