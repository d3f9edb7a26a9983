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
}
SAYS = {
    0: "Accuracy 0.7500 on 20 test images that played no part in training or in choosing the epoch.",
    3: "Accuracy 0.7500 on 20 test images, of which 3 played a part in training or in choosing the epoch: the accuracy "
    "on new pictures is lower.",
    None: "Accuracy 0.7500 on 20 test images. Whether they played a part in training or in choosing the epoch is not "
    "known, since an adapter that this one is made of does not record its pictures.",
}


@pytest.mark.parametrize("seen", SAYS)
def test_it_says_whether_test_pictures_were_met_in_training(tmp_path, seen):
    write_card(tmp_path / "README.md", 15, 20, seen, BUNDLE)
    text = " ".join((tmp_path / "README.md").read_text(encoding="utf-8").split())
    assert SAYS[seen] in text
    assert sum(other in text for other in SAYS.values()) == 1
