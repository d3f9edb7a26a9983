"""Dropout on a CPU: as much falls away as torch's own would let, the mean stays, and threads change no bit."""

import pytest
import torch
import training
from peft import LoraConfig, get_peft_model
from torch import nn

from vitlora.model.base import Normalisation
from vitlora.train.dropout import LEVELS, DrawnAtOnce, draw_at_once
from vitlora.train.params import Train
from vitlora.train.step import install

COUNT = 400_003  # no multiple of the four values of a draw


def drawn(p, values):
    torch.manual_seed(3)
    return DrawnAtOnce(p)(values)


@pytest.mark.parametrize("p", [0.05, 0.1, 1 / 3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_share_of_p_is_zero_and_the_mean_stays(p, dtype):
    found = drawn(p, torch.ones(COUNT, dtype=dtype))
    assert found.dtype == dtype
    sigma = (p * (1 - p) / COUNT) ** 0.5
    assert abs(float((found == 0).double().mean()) - p) < 4 * sigma
    kept = found[found != 0].double()
    assert kept.min() == kept.max() == pytest.approx(1 / (1 - p), rel=4e-3 if dtype == torch.bfloat16 else 1e-4)


@pytest.mark.parametrize("p", [1e-7, 0.1, 0.30003, 0.999, 0.9999999])
def test_what_is_kept_is_scaled_by_the_share_that_is_kept_in_truth(p):
    dropped = min(round(p * LEVELS), LEVELS - 1)
    bits = torch.arange(LEVELS, dtype=torch.int32).to(torch.int16)  # every pattern once
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "random_", lambda self, *limits: self.copy_(bits.view(torch.int64)))
        found = DrawnAtOnce(p)(torch.ones(LEVELS))
    assert int((found == 0).sum()) == dropped
    assert float(found.double().mean()) == pytest.approx(1, rel=1e-6)


def test_neighbours_are_independent():
    fell = (drawn(0.5, torch.ones(COUNT)) == 0).double() - 0.5
    for step in (1, 2, 3, 4, 384):
        assert abs(float((fell[:-step] * fell[step:]).mean())) < 4 * 0.25 / COUNT**0.5


@pytest.mark.parametrize("shape", [(7,), (32, 10, 384), (2, 3, 5, 129)])
def test_threads_change_no_bit(shape):
    values, found, threads = torch.randn(shape), [], torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(drawn(0.1, values))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_gradients_pass_where_values_do_and_a_seed_repeats_both():
    values = torch.randn(1000, requires_grad=True)
    found = drawn(0.2, values)
    found.sum().backward()
    assert torch.equal(values.grad * values.detach(), found.detach())
    assert torch.equal(drawn(0.2, values), found)


def test_outside_training_values_are_as_they_were_and_nothing_is_drawn():
    values, before = torch.randn(9), torch.get_rng_state()
    assert DrawnAtOnce(0.5).eval()(values) is values
    assert torch.equal(torch.get_rng_state(), before)


def test_only_loras_dropout_is_replaced():
    base = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 4))
    model = get_peft_model(base, LoraConfig(r=2, lora_dropout=0.1, target_modules=["0"]))
    train = Train.model_validate(training.settings()["train"])
    install(model, train, "fp32", Normalisation([0.5], [0.5]), 8)
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert kinds == {"base_model.model.0.lora_dropout.default": DrawnAtOnce, "base_model.model.1": nn.Dropout}
    assert model.get_submodule("base_model.model.0.lora_dropout.default").p == 0.1


def test_without_dropout_there_is_nothing_to_replace():
    model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), LoraConfig(r=2, target_modules=["0"]))
    draw_at_once(model)
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())
