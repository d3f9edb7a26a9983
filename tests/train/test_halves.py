"""Weights in half precision: values and gradients of autocast's own, to the bit."""

import copy
import weakref

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification

from vitlora.train.halves import Halves, add_gradients

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
SMALL = {
    "vit": {**TINY, "intermediate_size": 64},
    "dinov2": TINY,
    "dinov2_with_registers": TINY,
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "image_size": 32, "window_size": 4},
}
NONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none")
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, NONE])


def classifier(kind):
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(AutoConfig.for_model(kind, num_labels=3, **SMALL[kind])).train()


def loss_of(model, size):
    device = next(model.parameters()).device.type
    torch.manual_seed(2)  # Swin drops paths
    pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.autocast(device, torch.bfloat16):
        return model(pixel_values=pixels.to(device), labels=torch.tensor([0, 1, 2, 0]).to(device)).loss


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", sorted(SMALL))
def test_loss_and_gradients_are_those_of_autocast(kind, device):
    model, size = classifier(kind).to(device), SMALL[kind].get("image_size", 32)
    names, trained = zip(*model.named_parameters(), strict=True)
    loss = loss_of(model, size)
    expected = torch.autograd.grad(loss, trained, allow_unused=True)
    halves = Halves(model, trained, torch.bfloat16)
    with halves.instead():
        mine = loss_of(model, size)
        found = torch.autograd.grad(mine, halves.leaves, allow_unused=True)
    assert torch.equal(mine, loss)
    halved = [name for name, leaf in zip(names, halves.leaves, strict=True) if leaf.dtype == torch.bfloat16]
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert len(halved) == sum(len(list(layer.parameters())) for layer in layers) > 10
    for name, gradient, wanted in zip(names, found, expected, strict=True):
        assert (gradient is None) == (wanted is None), name
        assert wanted is None or torch.equal(gradient.float(), wanted), name
    assert all(mine is weight for mine, weight in zip(model.parameters(), trained, strict=True)), "they are put back"


def test_a_batch_is_computed_with_the_weights_as_they_are_then():
    model = classifier("vit")
    halves = Halves(model, list(model.parameters()), torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5)
    with halves.instead():
        mine = loss_of(model, 28)
    assert torch.equal(mine, loss_of(model, 28))


def test_weights_come_back_after_an_error():
    model = classifier("vit")
    own = list(model.parameters())
    with pytest.raises(ZeroDivisionError), Halves(model, own, torch.bfloat16).instead():
        raise ZeroDivisionError
    assert all(weight is before for weight, before in zip(model.parameters(), own, strict=True))


@pytest.mark.parametrize("why", ["shared", "subclass", "made", "frozen", "adapters", "full precision"])
def test_what_autocast_alone_knows_is_left_to_it(why):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    dtype: torch.dtype | None = torch.bfloat16
    if why == "shared":
        model[2].weight = model[0].weight
    elif why == "subclass":
        model[2] = type("Mine", (nn.Linear,), {})(4, 4)
    elif why == "made":
        nn.utils.spectral_norm(model[2])
    elif why == "frozen":
        model[2].requires_grad_(False)
    elif why == "adapters":
        from peft import LoraConfig, get_peft_model  # slow to import

        model = get_peft_model(model, LoraConfig(target_modules=["0"]))
    else:
        dtype = None
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    halved = sum(leaf.dtype == torch.bfloat16 for leaf in Halves(model, trained, dtype).leaves)
    assert halved == {"shared": 2, "subclass": 2, "made": 3, "frozen": 2, "adapters": 0, "full precision": 0}[why]


def test_gradients_of_any_type_and_order_are_added():
    drawn = torch.Generator().manual_seed(0)
    shapes = [(3,), (4, 3), (2, 3, 5, 5), (1, 1, 6)]
    sums = [torch.randn(shape, generator=drawn) for shape in shapes]
    found = [torch.randn(shape, generator=drawn) for shape in shapes]
    found[1] = found[1].bfloat16()
    found[2] = found[2].to(memory_format=torch.channels_last).half()
    found[3] = found[3].transpose(0, 1)
    expected = [place + value.float() for place, value in zip(copy.deepcopy(sums), found, strict=True)]
    add_gradients(sums, found)
    assert all(torch.equal(place, value) for place, value in zip(sums, expected, strict=True))


def test_few_gradients_at_a_time_are_copied_to_float32(monkeypatch):
    """Copies of all would be four bytes more for each trained weight, just where autocast has none."""
    made, sizes, original = [], [], torch.empty_like

    def noted(*args, **kwargs):
        made.append(weakref.ref(tensor := original(*args, **kwargs)))
        sizes.append(sum(other().numel() for other in made if other() is not None))
        return tensor

    monkeypatch.setattr(torch, "empty_like", noted)
    sums = [torch.zeros(2, 3) for _ in range(200)]
    add_gradients(sums, [torch.full((2, 3), row, dtype=torch.bfloat16) for row in range(200)])
    assert [place.unique().tolist() for place in sums] == [[row] for row in range(200)]
    assert max(sizes) == 6 * 64
