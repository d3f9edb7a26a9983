"""Mixup and CutMix: torchvision's classes and law, the same whatever the workers, joining or an interruption."""

from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.nn import functional
from torchvision.transforms import v2
from training import STEPS, fit, hashes, link, settings, stopped_after

from vitlora.core.params import load_params
from vitlora.train.augment import epoch_mixing
from vitlora.train.mixing import is_mixed, loss_of_partners, mix_pixels
from vitlora.train.params import TrainStage
from vitlora.train.stage import get_ready

COUNT, CLASSES = 6, 5
KINDS = {"mixup": (0.4, 0.0), "cutmix": (0.0, 1.0)}
each_kind = pytest.mark.parametrize("kind", KINDS)


def rows(epoch=0, count=COUNT, group=COUNT, size=16, alphas=(0.4, 1.0), seed=0):
    return epoch_mixing(seed, epoch, count, group, size, *alphas)


def batch(drawn, size=16, layout=torch.channels_last):
    """Return a batch of noise with the first rows of what was drawn."""
    count = len(drawn["partner"])
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    beside = {name: torch.from_numpy(values) for name, values in drawn.items()}
    return {"pixel_values": pixels.to(memory_format=layout), "labels": torch.randint(CLASSES, (count,)), **beside}


def theirs(kind, given, classes=CLASSES):
    """Return torchvision's pixels, float, and labels, (B, C), of a batch of one group, by its law."""
    labels, images = given["labels"], given["pixel_values"].float()
    if kind == "mixup":
        transform, params = v2.MixUp(num_classes=classes), {"lam": float(given["inside"][0])}
    else:
        share = float(given["label_share"][0])
        transform, params = v2.CutMix(num_classes=classes), {"box": given["box"][0].tolist(), "lam_adjusted": share}
    params |= {"labels": labels, "batch_size": len(labels)}
    return transform.transform(images, params), transform.transform(labels, params)


@each_kind
@pytest.mark.parametrize(("count", "size"), [(6, 16), (1, 8), (2, 31), (7, 42)])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_pixels_are_torchvisions_to_the_byte(kind, count, size, layout):
    for epoch in range(8):
        given = batch(rows(epoch, count, count, size, KINDS[kind]), size, layout)
        expected, _ = theirs(kind, given)
        found = mix_pixels(given)
        assert found.dtype == torch.uint8
        assert found.is_contiguous(memory_format=layout)
        assert (found.float() - expected).abs().max() <= (0.501 if kind == "mixup" else 0)


@each_kind
def test_the_loss_is_cross_entropy_against_torchvisions_labels(kind):
    for epoch in range(8):
        given = batch(rows(epoch, alphas=KINDS[kind]))
        logits = (5 * torch.randn(COUNT, CLASSES)).requires_grad_()
        expected = functional.cross_entropy(logits, theirs(kind, given)[1])
        plain = functional.cross_entropy(logits, given["labels"])
        found = plain + loss_of_partners(logits, given)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        slopes = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (found, expected)]
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)


def laws(alphas, size=64, count=4000, seed=0):
    """Return what was drawn for each of many groups."""
    return rows(count=count, group=1, size=size, alphas=alphas, seed=seed)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_mixup_has_torchvisions_beta(alpha):
    torch.manual_seed(0)
    drawn, ours = v2.MixUp(alpha=alpha, num_classes=2)._dist.sample((4000,)).flatten(), laws((alpha, 0.0))
    # Theirs, in float32 throughout, never comes to 1.
    assert _same_law(ours["inside"].round(5), drawn.numpy().round(5))
    assert np.array_equal(ours["inside"], ours["label_share"])
    assert (ours["box"] == [0, 0, 64, 64]).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("size", [8, 97])
def test_cutmix_has_torchvisions_boxes(alpha, size):
    torch.manual_seed(0)
    transform = v2.CutMix(alpha=alpha, num_classes=2)
    drawn = [transform.make_params([torch.empty(1, 3, size, size)]) for _ in range(1500)]
    ours, boxes = laws((0.0, alpha), size), np.array([each["box"] for each in drawn])
    for column in range(4):
        assert _same_law(ours["box"][:, column], boxes[:, column])
    assert _same_law(ours["label_share"], [each["lam_adjusted"] for each in drawn])
    assert (ours["inside"] == 0).all()


def _same_law(first, second):
    return ks_2samp(first, second, method="asymp").pvalue > 1e-3


def test_the_comparison_would_notice_a_law_that_is_a_little_off():
    torch.manual_seed(0)
    drawn = v2.MixUp(alpha=0.4, num_classes=2)._dist.sample((4000,)).flatten()
    assert not _same_law(laws((0.5, 0.0))["inside"], drawn)


def test_with_both_a_group_gets_one_or_the_other_equally_often():
    pastes = laws((0.4, 1.0))["inside"] == 0
    assert abs(pastes.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_groups_are_mixed_among_themselves_by_one_law_each():
    drawn = rows(count=11, group=4)
    partner = np.arange(11) + drawn["partner"]
    assert partner.tolist() == [3, 0, 1, 2, 7, 4, 5, 6, 10, 8, 9]
    for begin in (0, 4, 8):
        for name in ("box", "inside", "label_share"):
            assert (drawn[name][begin : begin + 4] == drawn[name][begin]).all()
    assert len(set(drawn["label_share"].tolist())) == 3
    assert [drawn[name].dtype for name in ("partner", "box", "inside", "label_share")] == [
        *(np.int64, np.int64),
        *(np.float32, np.float32),
    ]


def test_a_group_does_not_depend_on_how_many_there_are_but_on_seed_and_epoch():
    first = rows(count=40, group=4)
    fewer = rows(count=20, group=4)
    assert all(np.array_equal(first[name][:20], fewer[name]) for name in first)
    others = [rows(1, 40, 4), rows(0, 40, 4, seed=1)]
    assert all((first["label_share"] != other["label_share"]).mean() > 0.9 for other in others)


@each_kind
def test_joined_groups_have_the_pixels_and_the_loss_of_groups_apart(kind):
    joined = batch(rows(count=11, group=4, alphas=KINDS[kind]))
    apart = [{name: values[begin : begin + 4] for name, values in joined.items()} for begin in (0, 4, 8)]
    assert torch.equal(mix_pixels(joined), torch.cat([mix_pixels(part) for part in apart]))
    logits = torch.randn(11, CLASSES)
    losses = [
        len(part["labels"]) / 11 * loss_of_partners(logits[begin : begin + 4], part)
        for begin, part in zip((0, 4, 8), apart, strict=True)
    ]
    torch.testing.assert_close(loss_of_partners(logits, joined), sum(losses), rtol=1e-5, atol=1e-6)


# In a training


@pytest.fixture(scope="module")
def whole(prepared, tmp_path_factory):
    """Hashes of an undisturbed run with everything on."""
    with chdir(link(prepared, tmp_path_factory.mktemp("whole"))):
        fit(**ALL)
        return hashes()


MIXED = {"augment__mixup_alpha": 0.4, "augment__cutmix_alpha": 1.0, "train__label_smoothing_factor": 0.1}
ALL = {**MIXED, "augment__policy": "randaugment", "augment__color_jitter": 0.3, "augment__erasing_p": 0.5}


def ready(**changes):
    stage = load_params(TrainStage, settings({k.replace("__", "."): v for k, v in changes.items()}), Path("p"))
    return get_ready(stage.augment, stage.lora, stage.train, *map(Path, ("base", "train", "val", "labels.json")))


@pytest.mark.parametrize("mixing", [{"augment__mixup_alpha": 0.4}, {"augment__cutmix_alpha": 1.0}])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_the_trainers_loss_is_that_of_mixed_pictures_and_labels(folder, mixing, smoothing, method):
    extra = {"lora__method": method, **({"lora__options": {"init_r": 3, "target_r": 2}} if method == "adalora" else {})}
    trainer = ready(**mixing, **extra, train__label_smoothing_factor=smoothing, train__fp16=False).trainer
    kind = "mixup" if "augment__mixup_alpha" in mixing else "cutmix"
    trainer.model.eval()
    for given in trainer.get_train_dataloader():
        assert is_mixed(given)
        pixels, labels = theirs(kind, given, trainer.model.config.num_labels)  # a micro-batch is one group
        inputs = trainer.normalisation(pixels.round().to(torch.uint8))
        outputs = trainer.model(pixel_values=inputs, labels=given["labels"])
        expected = functional.cross_entropy(outputs.logits, labels, label_smoothing=smoothing)
        found = trainer._loss(given)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_validation_is_not_mixed(folder):
    trainer = ready(**MIXED).trainer
    assert not any(is_mixed(given) for given in trainer.get_eval_dataloader())


@pytest.mark.slow
@pytest.mark.parametrize(("step", "workers"), [(1, 0), (3, 2), (5, 0), (7, 3), (STEPS - 1, 0)])
def test_a_run_with_everything_on_goes_on_to_the_same_bytes_with_any_workers(folder, whole, step, workers):
    with stopped_after(step):
        fit(**ALL, train__dataloader_num_workers=workers)
    fit(**ALL, train__dataloader_num_workers=2 - workers // 2)
    assert hashes() == whole
