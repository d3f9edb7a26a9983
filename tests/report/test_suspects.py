"""Label suspects: wrong labels are found, features are computed once, and what is unknown is not accused."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from vitlora.core.errors import VitloraError
from vitlora.model.base import Normalisation
from vitlora.report import suspects
from vitlora.report.suspects import find_suspects, out_of_sample, pooled, suspected

NORMAL = Normalisation([0.5] * 3, [0.5] * 3)
SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def blobs(seed, classes=5, each=40, size=16):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    centres = random.normal(size=(classes, size)) * 3
    return (centres[labels] + random.normal(size=(len(labels), size))).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(4))
def test_flipped_labels_of_classes_that_lie_apart_are_found_and_few_others(seed):
    features, labels = blobs(seed)
    random = np.random.default_rng(seed + 100)
    rows = random.choice(len(labels), 8, replace=False)
    wrong = labels.copy()
    wrong[rows] = (wrong[rows] + random.integers(1, 5, 8)) % 5
    found = suspected(out_of_sample(features, wrong, 5), wrong)
    assert len(set(found) & set(rows)) >= 6
    assert len(found) <= 10
    assert len(suspected(out_of_sample(features, labels, 5), labels)) <= 2


def test_shares_are_of_pictures_that_the_regression_has_not_seen():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    shares = out_of_sample(random.normal(size=(60, 200)).astype(np.float32), labels, 2)  # seen ones it would know
    assert (shares.argmax(axis=1) == labels).mean() < 0.75
    assert shares.sum(axis=1) == pytest.approx(1)


def test_a_class_of_one_picture_is_not_accused_and_one_class_alone_is_refused():
    features, labels = blobs(0, classes=3)
    labels = np.append(labels, 3)
    shares = out_of_sample(np.append(features, features[:1], axis=0), labels, 5)
    assert not shares[-1].any()
    assert not shares[:, 3:].any()
    assert len(labels) - 1 not in suspected(shares, labels)
    with pytest.raises(VitloraError, match="two pictures at least in each of two classes"):
        out_of_sample(features[:3], np.array([0, 0, 1]), 2)


def test_the_least_likely_label_comes_first():
    shares = np.array([[0.9, 0.02, 0.08], [0.96, 0.01, 0.03], [0.3, 0.4, 0.3], [0, 0, 0]], np.float32)
    assert suspected(shares, np.array([1, 1, 0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("ViT", {**SMALL, "intermediate_size": 64}),
        ("Dinov2", SMALL),
        (
            "Swin",
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [1, 1],
                "num_heads": [2, 2],
                "window_size": 4,
            },
        ),
        ("ConvNext", {"hidden_sizes": [16, 16], "depths": [1, 1], "num_stages": 2}),
        ("ResNet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
    ],
)
def test_features_are_what_the_classifier_gets(family, settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**settings, num_labels=3)
    model = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    features = torch.from_numpy(pooled(model, images, NORMAL))
    assert len(features) == 4
    head = next(module for module in reversed(list(model.modules())) if isinstance(module, torch.nn.Linear))
    with torch.no_grad():
        logits = model(pixel_values=NORMAL(torch.from_numpy(images))).logits
        assert torch.allclose(head(features), logits, atol=1e-5)


def test_a_second_report_computes_no_features_and_other_data_does(folder, monkeypatch):
    first = find_suspects(folder / "base", folder)
    assert all(each.split in ("train", "test") and each.label != each.guess for each in first)
    (kept,) = Path(".work/report").glob("*.npy")
    assert np.load(kept).shape[1] == 32

    def refuse(*args):
        raise AssertionError("computed again")

    monkeypatch.setattr(suspects, "_compute", refuse)
    assert find_suspects(folder / "base", folder) == first
    monkeypatch.setattr(suspects, "digest", lambda path: "other")
    with pytest.raises(AssertionError, match="computed again"):
        find_suspects(folder / "base", folder)
