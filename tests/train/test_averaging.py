"""Averages of the weights: their laws, that they are what is validated and kept, and that they resume."""

from pathlib import Path

import pytest
import torch
import training
from peft import BOFTConfig, HRAConfig, OFTConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json
from vitlora.safety.check import check_document
from vitlora.train.averaging import EpochAverage, RunningAverage, Soup
from vitlora.train.trainer import ImageTrainer

YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_follows_the_formula_and_a_lost_step_counts_for_nothing(decay):
    weights = {"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(2, 2))}
    average, expected, updates = RunningAverage(weights, decay), 0.0, 0
    for value, sound in ((1.0, YES), (4.0, YES), (torch.nan, NO), (2.0, YES), (3.0, YES)):
        if sound:
            for weight in weights.values():
                weight.data.fill_(value)
            kept = min(decay, (1 + updates) / (10 + updates))
            expected, updates = kept * expected + (1 - kept) * value, updates + 1
        average(sound)
        for mean in average.averages.values():
            assert mean.flatten().tolist() == pytest.approx([expected] * mean.numel(), rel=1e-5)


def test_it_comes_back_from_a_checkpoint(tmp_path):
    weights = {"a": nn.Parameter(torch.ones(3))}
    average, again = RunningAverage(weights, 0.9), RunningAverage({"a": nn.Parameter(torch.zeros(3))}, 0.9)
    weights["a"].data.fill_(5.0)
    average(YES)
    average.save(tmp_path)
    again.load(tmp_path)
    assert torch.equal(again.averages["a"], average.averages["a"])
    assert float(again.updates) == 1


class AtEpoch:
    def __init__(self, epoch):
        self.epoch = epoch


@pytest.mark.parametrize("start", [1, 2, 4])
def test_the_mean_over_epochs_is_that_of_those_from_the_first_one_on_and_before_it_the_weights(start):
    torch.manual_seed(start)
    weights = {"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(2, 2))}
    average, seen = EpochAverage(weights, start), []
    for epoch in range(1, 7):
        for weight in weights.values():
            weight.data.normal_()
        seen.append({name: weight.detach().clone() for name, weight in weights.items()})
        average.on_epoch_end(None, AtEpoch(epoch + 1e-9), None)
        counted = seen[start - 1 :] if epoch >= start else seen[-1:]
        for name, mean in average.averages.items():
            torch.testing.assert_close(mean, torch.stack([each[name] for each in counted]).mean(0))
        if epoch <= start:
            assert all(torch.equal(mean, seen[-1][name]) for name, mean in average.averages.items())


def metrics(value, metric="accuracy"):
    return {f"eval_{metric}": value}


def of(value):
    return {"a": torch.full((2,), float(value))}


@pytest.mark.parametrize(
    ("metric", "scores", "best"),
    [
        ("accuracy", [0.5, 0.7, 0.7, 0.6], [2, 3, 4]),
        ("balanced_accuracy", [0.9, 0.7, 0.8, 0.6], [1, 3, 2]),
        ("loss", [0.5, 0.2, 0.9, 0.3], [2, 4, 1]),
        ("loss", [float("nan"), 0.2, 0.9, float("inf")], [2, 3]),
    ],
)
def test_the_best_epochs_are_kept_and_of_equals_the_earlier(tmp_path, metric, scores, best):
    soup, again = Soup(3, metric), Soup(3, metric)
    for epoch, score in enumerate(scores, 1):
        soup.offer(metrics(score, metric), epoch, of(epoch))
        soup.save(tmp_path)
        again.load(tmp_path)
        assert again.kept == soup.kept
    assert [epoch for _, epoch in again.kept] == best
    assert {epoch: int(state["a"][0]) for epoch, state in again.weights.items()} == {epoch: epoch for epoch in best}


@pytest.mark.parametrize(
    ("target", "chosen", "mean"),
    [
        (1.0, [1], 1.0),  # every other epoch draws the mean away from it
        (2.0, [1, 3], 2.0),
        (7 / 3, [1, 3, 2], 7 / 3),
        (2.0001, [1, 3], 2.0),
    ],
)
def test_an_epoch_goes_into_the_soup_if_val_is_no_worse_for_it(target, chosen, mean):
    """Val likes weights near to ``target``; the epochs have the weights 1, 3, 3, best first 1, 3, 2."""
    soup, tried = Soup(3, "loss"), []
    for epoch, value, loss in ((1, 1.0, abs(1 - target)), (2, 3.0, 9.0), (3, 3.0, 8.0)):
        soup.offer(metrics(loss, "loss"), epoch, of(value))

    def validate(weights):
        tried.append(float(weights["a"][0]))
        return metrics(abs(tried[-1] - target), "loss")

    went, found, said = soup.cook(validate)
    assert went == chosen
    assert found["a"].tolist() == pytest.approx([mean] * 2)
    assert said == ({} if chosen == [1] else metrics(pytest.approx(abs(mean - target), abs=1e-6), "loss"))
    assert len(tried) == 2


@pytest.mark.parametrize(
    "config",
    [
        OFTConfig(r=0, oft_block_size=4, use_cayley_neumann=False, target_modules=["0"]),
        BOFTConfig(boft_block_size=4, target_modules=["0"]),
        HRAConfig(r=4, target_modules=["0"]),
    ],
    ids=lambda config: config.peft_type,
)
def test_the_mean_of_rotations_is_a_rotation(config):
    base = nn.Sequential(nn.Linear(8, 8))
    plain = base[0].weight.detach().clone()
    model = get_peft_model(base, config)
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    average = EpochAverage(weights, 1)
    for epoch in (1, 2, 3):
        torch.manual_seed(epoch)
        for name, weight in weights.items():
            if "boft_s" not in name:  # BOFT's scales are no part of its rotation
                weight.data.add_(0.3 * torch.randn_like(weight))
        average.on_epoch_end(None, AtEpoch(epoch), None)
    for name, weight in weights.items():
        weight.data.copy_(average.averages[name])
    turned = model.merge_and_unload()[0].weight
    assert (turned - plain).abs().max() > 0.05
    torch.testing.assert_close(turned @ turned.T, plain @ plain.T, rtol=1e-4, atol=1e-4)


PLAIN = {"train__early_stopping_patience": None, "train__num_train_epochs": 3}
STOPS = (1, training.PER_EPOCH, 2 * training.PER_EPOCH, 3 * training.PER_EPOCH - 1)


@pytest.mark.parametrize(
    ("average", "best"),
    [
        ({"train__ema_decay": 0.9}, True),
        ({"train__swa_epoch_start": 2}, True),
        pytest.param({"train__ema_decay": 0.9}, False, marks=pytest.mark.faults),
        pytest.param({"train__swa_epoch_start": 2}, False, marks=pytest.mark.faults),
    ],
)
def test_the_average_is_validated_saved_and_resumed_to_the_same_bytes(prepared, tmp_path, monkeypatch, average, best):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    settings = {**PLAIN, **average, "train__load_best_model_at_end": best}
    seen = []
    original = ImageTrainer.evaluate

    def noted(self, *args, **kwargs):
        own = [weight.detach().clone() for weight in self.average.weights]
        found = original(self, *args, **kwargs)
        seen.append([mean.clone() for mean in self.average.averages.values()])
        assert all(torch.equal(a, b) for a, b in zip(own, self.average.weights, strict=True))  # put back
        return found

    monkeypatch.setattr(ImageTrainer, "evaluate", noted)
    training.fit(**settings)
    golden, epoch = training.hashes(), read_json(Path("metrics.json"))["best_epoch"]
    saved = load_file("adapter/adapter_model.safetensors")
    kept = sorted(float(mean.double().sum()) for mean in seen[epoch - 1])
    assert sorted(float(weight.double().sum()) for weight in saved.values()) == pytest.approx(kept)
    for at in STOPS[1:] if best else STOPS[:2]:
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at


WITH_AVERAGE = [
    pytest.param({key: value}, marks=pytest.mark.faults)
    for key, value in (("train__swa_epoch_start", 2), ("train__ema_decay", 0.5))
]


@pytest.mark.parametrize("average", [{}, *WITH_AVERAGE])
def test_the_soup_is_saved_scored_and_resumed_to_the_same_bytes(prepared, tmp_path, monkeypatch, capsys, average):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    settings = {**PLAIN, **average, "train__soup_size": 2}
    offered = {}
    original = Soup.offer

    def noted(self, found, epoch, weights):
        offered[epoch] = {name: weight.detach().clone() for name, weight in weights.items()}
        original(self, found, epoch, weights)

    monkeypatch.setattr(Soup, "offer", noted)
    training.fit(**settings)
    golden, record = training.hashes(), read_json(Path("metrics.json"))
    epochs = [row["val_accuracy"] for row in read_csv(Path("plots/epochs.csv"))]
    assert record["val_accuracy"] >= max(map(float, epochs))
    assert record["soup"][0] == record["best_epoch"]
    assert len(record["soup"]) == 2, "or this test shows nothing"
    assert f"soup: epochs {record['soup'][0]}, {record['soup'][1]}: val loss" in capsys.readouterr().out
    means = {name: sum(offered[epoch][name] for epoch in record["soup"]) / 2 for name in offered[1]}
    saved = load_file("adapter/adapter_model.safetensors")
    expected = sorted(float(mean.double().sum()) for mean in means.values())
    assert sorted(float(weight.double().sum()) for weight in saved.values()) == pytest.approx(expected, abs=1e-5)
    for at in STOPS[1:3]:
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at


def test_a_soup_of_one_epoch_is_the_best_epoch(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    best = []
    original = ImageTrainer.cook_soup

    def noted(self):
        best.extend(float(weight.double().sum()) for weight in self.best.values())
        return original(self)

    monkeypatch.setattr(ImageTrainer, "cook_soup", noted)
    monkeypatch.setattr(ImageTrainer, "_validate", lambda self, weights: {"eval_accuracy": -1.0, "eval_loss": 9.0})
    training.fit(train__soup_size=10**9)  # room is asked for no more epochs than there are
    kept = load_file("adapter/adapter_model.safetensors")
    assert sorted(float(weight.double().sum()) for weight in kept.values()) == sorted(best)
    record = read_json(Path("metrics.json"))
    assert record["soup"] == [record["best_epoch"]]
    assert f"soup: epoch {record['best_epoch']} alone" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "on", "off"), [("ema_decay", 0.9, 0.0), ("swa_epoch_start", 2, None), ("soup_size", 2, None)]
)
def test_no_average_of_what_adalora_leaves_of_its_ranks(key, on, off):
    document = training.settings({"lora.method": "adalora", f"train.{key}": on, "train.num_train_epochs": 4})
    cure = "0.0" if off == 0.0 else "null"
    with pytest.raises(
        VitloraError, match=rf"train\.{key}: got {on}; the rule: {cure} with lora.method adalora, which"
    ):
        check_document(document, Path("p"))
    document["train"][key] = off
    check_document(document, Path("p"))
