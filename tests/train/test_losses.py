"""Losses for classes of unequal size: what each is, and that it helps the rare ones."""

import json
import math
from pathlib import Path

import pytest
import torch
import training
from torch.nn import functional

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.params import load_params
from vitlora.train.losses import BETA, ClassLoss, class_loss
from vitlora.train.params import Train, TrainStage
from vitlora.train.stage import get_ready
from vitlora.train.trainer import accuracies

NAMES = ("cat", "dog", "rare")
LABELS = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
PLAIN = Train.model_validate(training.settings({})["train"])


def of(**changes):
    return ClassLoss(PLAIN.model_copy(update=changes), LABELS, NAMES)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(20, 3) * 3, torch.randint(3, (20,))


def test_with_all_switched_off_it_is_cross_entropy_and_the_trainers_own_is_taken(batch):
    assert class_loss(PLAIN, LABELS, NAMES) is None
    assert class_loss(PLAIN.model_copy(update={"label_smoothing_factor": 0.2}), LABELS, NAMES)
    assert torch.allclose(of()(*batch).mean(), functional.cross_entropy(*batch))
    smooth = of(label_smoothing_factor=0.2)
    assert torch.allclose(smooth(*batch).mean(), functional.cross_entropy(*batch, label_smoothing=0.2))


@pytest.mark.parametrize(
    ("wanted", "ratios"),
    [
        ("balanced", [1, 2, 6]),
        ("effective_number", [1, (1 - BETA**60) / (1 - BETA**30), (1 - BETA**60) / (1 - BETA**10)]),
        ({"rare": 5.0}, [1, 1, 5]),
        ({"cat": 0.5, "dog": 2, "rare": 3}, [1, 4, 6]),
    ],
)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weights_are_as_far_apart_as_asked_and_their_mean_over_the_images_is_one(wanted, ratios, smoothing, batch):
    weighted = of(class_weights=wanted, label_smoothing_factor=smoothing)
    weights = weighted.weights
    assert (weights / weights[0]).tolist() == pytest.approx(ratios, rel=1e-5)
    assert float(weights[LABELS].mean()) == pytest.approx(1, rel=1e-6)
    logits, labels = batch
    each = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    assert float(weighted(logits, labels).mean()) == pytest.approx(float((weights[labels] * each).mean()))


def test_micro_batches_add_up_to_the_whole(batch):
    loss = of(class_weights="balanced", focal_gamma=1.5, logit_adjustment=1.0)
    logits, labels = batch
    parts = [loss(logits[rows], labels[rows]).mean() * len(rows) for rows in (range(3), range(3, 14), range(14, 20))]
    assert float(sum(parts) / 20) == pytest.approx(float(loss(logits, labels).mean()), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_loss_is_the_formula(gamma, batch):
    logits, labels = batch
    sure = logits.softmax(1)[range(20), labels]
    assert float(of(focal_gamma=gamma)(logits, labels).mean()) == pytest.approx(
        float(((1 - sure) ** gamma * -sure.log()).mean())
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_has_a_slope_where_an_image_is_beyond_doubt(smoothing):
    logits = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    of(focal_gamma=0.5, label_smoothing_factor=smoothing)(logits, torch.tensor([0])).sum().backward()
    assert logits.grad.isfinite().all()


def test_logit_adjustment_asks_for_a_larger_lead_of_rare_classes(batch):
    loss = of(logit_adjustment=1.0)
    logits, labels = batch
    shifted = logits + torch.tensor([math.log(0.6), math.log(0.3), math.log(0.1)])
    assert torch.allclose(loss(logits, labels).mean(), functional.cross_entropy(shifted, labels))
    equal = torch.zeros(1, 3)
    assert loss(equal, torch.tensor([2])) > loss(equal, torch.tensor([1])) > loss(equal, torch.tensor([0]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_is_added_to_the_models_own_loss_makes_it_this_one_with_mixed_images_too(batch, smoothing):
    loss = of(class_weights="balanced", focal_gamma=2.0, label_smoothing_factor=smoothing)
    logits, labels = batch
    plain = functional.cross_entropy(logits, labels)
    assert torch.allclose(plain + loss.beyond(logits, {"labels": labels}), loss(logits, labels).mean())
    share, partner = torch.rand(20), torch.cat([torch.ones(19, dtype=torch.int64), torch.tensor([-19])])
    mixed = {"labels": labels, "label_share": share, "partner": partner}
    expected = share * loss(logits, labels) + (1 - share) * loss(logits, labels.roll(-1))
    assert torch.allclose(plain + loss.beyond(logits, mixed), expected.mean())


def test_a_class_that_there_is_not_is_named_with_those_that_there_are():
    with pytest.raises(
        VitloraError, match=r"train.class_weights: got rar; the rule: a class of the data: cat, dog, rare"
    ):
        of(class_weights={"rar": 2.0})


def test_vals_loss_is_plain_cross_entropy_whatever_is_trained_with(folder):
    document = training.settings({"train.label_smoothing_factor": 0.3})
    stage = load_params(TrainStage, document, Path("p"))
    ready = get_ready(stage.augment, stage.lora, stage.train, *map(Path, ("base", "train", "val", "labels.json")))
    trainer = ready.trainer
    found = trainer.evaluate()["eval_loss"]
    pixels = trainer.normalisation(torch.tensor(trainer.val.images).to(trainer.args.device))
    with torch.no_grad():
        logits = trainer.model.eval()(pixel_values=pixels).logits.cpu()
    expected = functional.cross_entropy(logits, torch.from_numpy(trainer.val.labels))
    assert found == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("wrong", ["balance", None, 3, [1, 2], {"cat": 0}, {"cat": math.inf}, {"cat": True}])
def test_weights_of_another_kind_are_refused_in_one_line(wrong):
    with pytest.raises(VitloraError) as refused:
        load_params(TrainStage, training.settings({"train.class_weights": wrong}), Path("p"))
    rule = "none, balanced, effective_number, or names of classes with finite weights above 0, such as {lynx: 5}"
    assert str(refused.value) == f"p: train.class_weights: got {json.dumps(wrong)}; the rule: {rule}"


def test_balanced_accuracy_counts_every_class_that_there_is_alike():
    labels = torch.tensor([0, 0, 0, 0, 2, 2]).numpy()
    found = accuracies(torch.tensor([0, 0, 0, 1, 2, 0]).numpy(), labels)
    assert found == {"accuracy": pytest.approx(4 / 6), "balanced_accuracy": pytest.approx((3 / 4 + 1 / 2) / 2)}


@pytest.mark.parametrize(
    "changes",
    [
        {"train__class_weights": "balanced"},
        {"train__focal_gamma": 2.0, "train__class_weights": {"red": 3.0}},
        {"train__logit_adjustment": 1.0},
    ],
)
def test_a_run_with_it_learns_and_resumes_to_the_same_bytes(prepared, tmp_path, monkeypatch, changes):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    training.fit()
    plain = training.hashes()
    training.fit(**changes, train__metric_for_best_model="balanced_accuracy")
    golden = training.hashes()
    assert golden["adapter/adapter_model.safetensors"] != plain["adapter/adapter_model.safetensors"]
    with training.stopped_after(4):
        training.fit(**changes, train__metric_for_best_model="balanced_accuracy")
    training.fit(**changes, train__metric_for_best_model="balanced_accuracy")
    assert training.hashes() == golden
    assert read_json(Path("metrics.json"))["val_accuracy"] > 0.5
