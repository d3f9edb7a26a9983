"""One optimiser step against torch's own calls; what a GPU does with it is in test_gpu.py."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitlora.train.optimise import OptimiserStep


class Seen:
    """Counts updates on the device, and how many of them changed weights."""

    def __init__(self) -> None:
        self.tensors = (torch.zeros(2),)

    def __call__(self, sound: torch.Tensor) -> None:
        self.tensors[0].add_(torch.stack([torch.ones(()), sound.float()]))


class Classifier(nn.Module):
    """Two layers, one of them frozen, and a weight that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.unused = nn.Linear(4, 8), nn.Linear(8, 3), nn.Parameter(torch.ones(2))
        self.body.requires_grad_(False)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional.cross_entropy(self.head(self.body(batch["pixel_values"]).relu()), batch["labels"])


def batch(images: int, seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 4, generator=drawn)
    return {"pixel_values": pixels, "labels": torch.arange(images) % 3}


def cut(whole: dict[str, torch.Tensor], *sizes: int) -> list[dict[str, torch.Tensor]]:
    parts = {name: value.split(sizes) for name, value in whole.items()}
    return [{name: parts[name][place] for name in parts} for place in range(len(sizes))]


def step_of(model, optimizer=None, observer=None, max_norm=1.0, capture=False):
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=0.1, weight_decay=0.1)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return OptimiserStep(model, optimizer, scaler, model, max_norm, observer, capture)


@pytest.mark.parametrize("sizes", [(6,), (3, 3), (4, 2), (1, 2, 3)])
def test_micro_batches_of_any_size_make_the_step_of_their_images_together(sizes):
    model = Classifier()
    theirs = copy.deepcopy(model)
    optimise = step_of(model)
    optimizer = torch.optim.AdamW([theirs.unused, *theirs.head.parameters()], lr=0.1, weight_decay=0.1)
    for number in range(3):
        whole = batch(6, number)
        optimise(number, cut(whole, *sizes))
        (outcome,) = optimise.finished(0)
        loss = theirs(whole)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        assert outcome.loss == pytest.approx(loss.item(), rel=1e-5)
        assert outcome.norm == pytest.approx(norm.item(), rel=1e-5)
        for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.unused, torch.ones(2)), "what no loss reaches is not decayed either"


@pytest.mark.parametrize("spoil", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["AdamW", "SGD"])
def test_a_step_of_no_numbers_changes_no_weight_and_the_next_one_does(spoil, kind):
    model, observer = Classifier(), Seen()
    optimizer = getattr(torch.optim, kind)(model.head.parameters(), lr=0.1)
    optimise = step_of(model, optimizer, observer)
    good = batch(6)
    bad = {**good, "pixel_values": good["pixel_values"] * spoil}
    optimise(0, [good])
    before = copy.deepcopy(model.state_dict())
    optimise(1, [bad])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    optimise(2, [good])
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
    first, lost, last = optimise.finished(0)
    assert (first.number, lost.number, last.number) == (0, 1, 2)
    assert lost.norm != lost.norm or abs(lost.norm) == torch.inf
    assert 0 < last.loss < first.loss
    assert observer.tensors[0].tolist() == [3, 2]


def test_what_a_step_found_is_told_in_order_once_and_as_late_as_one_likes():
    optimise, told = step_of(Classifier()), []
    for number in range(5):
        optimise(number, [batch(3, number)])
        told.append([outcome.number for outcome in optimise.finished(1)])
    assert told == [[], [0], [1], [2], [3]]
    assert [outcome.number for outcome in optimise.finished(0)] == [4]
    assert not list(optimise.finished(0))


def test_a_model_in_evaluation_mode_is_put_back_to_training():
    model = Classifier()
    optimise = step_of(model)
    model.eval()
    optimise(0, [batch(3)])
    assert model.training
    assert model.head.training


def test_a_base_that_was_loaded_for_evaluation_trains_from_the_first_step_on():
    """As transformers loads one, and PEFT puts a module in training mode around it."""
    model = Classifier()
    model.body.eval()
    step_of(model)(0, [batch(3)])
    assert model.body.training


def test_an_optimiser_that_waits_for_the_device_is_not_captured_and_says_so(capsys):
    optimise = step_of(Classifier(), capture=True)
    assert not optimise.capture
    assert "note: the step is not captured as a CUDA graph: AdamW waits for the device" in capsys.readouterr().out
    optimise(0, [batch(3)])
    assert list(optimise.finished(0))


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "Adafactor"])
def test_what_is_not_trained_yet_keeps_its_value_undecayed_and_without_moments_then_begins_afresh(kind):
    model = Classifier()
    model.body.requires_grad_(True)
    theirs = copy.deepcopy(model)

    def optimizer_of(*modules):
        groups = [{"params": list(module.parameters())} for module in modules]
        return getattr(torch.optim, kind)(groups, lr=0.1, weight_decay=0.1)

    optimizer = optimizer_of(model.head, model.body)
    optimise = step_of(model, optimizer)
    optimise.train_only({id(weight) for weight in model.head.parameters()})
    theirs.body.requires_grad_(False)
    reference, first = optimizer_of(theirs.head), copy.deepcopy(model.body.state_dict())
    for number in range(5):
        if number == 2:
            optimise.train_only(None)
            theirs.body.requires_grad_(True)
            reference.add_param_group({"params": list(theirs.body.parameters())})
        optimise(number, [batch(6, number)])
        reference.zero_grad()
        theirs(batch(6, number)).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        if number < 2:
            assert all(torch.equal(value, first[name]) for name, value in model.body.state_dict().items())
            assert not any(optimizer.state.get(weight) for weight in model.body.parameters())
    for mine, other in zip(model.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert not torch.equal(model.body.weight, first["weight"])


def test_the_step_is_captured_anew_only_where_other_weights_are_trained():
    model = Classifier()
    optimise = step_of(model)
    head = {id(weight) for weight in model.head.parameters()}
    for weights, kept in ((None, True), (head, False), (head, True), (None, False), (None, True)):
        optimise.graphs["of the step before"] = None, []
        optimise.train_only(weights)
        assert bool(optimise.graphs) == kept
