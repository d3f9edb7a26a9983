"""The running average of the weights: its law, that it is what is validated and kept, and that it resumes."""

from pathlib import Path

import pytest
import torch
import training
from safetensors.torch import load_file
from torch import nn

from vitlora.core.files import read_json
from vitlora.train.averaging import Average
from vitlora.train.trainer import ImageTrainer

YES, NO = torch.tensor(True), torch.tensor(False)


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_it_follows_the_formula_and_a_lost_step_counts_for_nothing(decay):
    weights = {"a": nn.Parameter(torch.zeros(3)), "b": nn.Parameter(torch.zeros(2, 2))}
    average, expected, updates = Average(weights, decay), 0.0, 0
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
    average, again = Average(weights, 0.9), Average({"a": nn.Parameter(torch.zeros(3))}, 0.9)
    weights["a"].data.fill_(5.0)
    average(YES)
    average.save(tmp_path)
    again.load(tmp_path)
    assert torch.equal(again.averages["a"], average.averages["a"])
    assert float(again.updates) == 1


@pytest.mark.parametrize("best", [True, False])
def test_the_average_is_validated_saved_and_resumed_to_the_same_bytes(prepared, tmp_path, monkeypatch, best):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    settings = {"train__ema_decay": 0.9, "train__load_best_model_at_end": best}
    settings |= {"train__early_stopping_patience": None}
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
    for at in (1, training.PER_EPOCH, training.STEPS - 1):
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at
