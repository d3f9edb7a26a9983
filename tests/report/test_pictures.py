"""Augmented pictures on the page are those that training sees."""

import numpy as np
import pytest
import tiny
from loading import packed

from vitlora.report import pictures
from vitlora.report.pictures import GREY, Pictures
from vitlora.train.dataset import TrainImages
from vitlora.train.params import Augment


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"policy": "randaugment"},
        {"policy": "augmix"},
        {"color_jitter": 0.4, "erasing_p": 1.0},
        {"mixup_alpha": 1.0},
    ],
)
def test_crops_are_the_pictures_of_the_first_epoch(tmp_path, monkeypatch, changes):
    monkeypatch.setattr(pictures, "address", np.asarray)
    law = Augment(**{**tiny.AUGMENT, **changes})
    packed(tmp_path / "train", 12)
    shown = Pictures(tmp_path).show_crops([3, 11, 0], law, 5, 16, "bilinear")
    trained_on = TrainImages(tmp_path / "train", 16, "bilinear", law, 5, "pil", GREY).load([3, 11, 0])
    assert np.array_equal(np.stack(shown), trained_on.permute(0, 2, 3, 1).numpy())
