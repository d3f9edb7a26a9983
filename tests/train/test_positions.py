"""Positions by a product are those that the base resamples, and learn alike."""

import copy

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from vitlora.train.positions import resample_by_products

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 14}
BASES = {
    "dinov2": lambda size: Dinov2Model(Dinov2Config(**TINY, image_size=size)),
    "registers": lambda size: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**TINY, image_size=size)),
}


@pytest.fixture(params=BASES)
def base(request):
    torch.manual_seed(0)
    return BASES[request.param](154)


def embedded(model, size):
    """Return what a model makes of two pictures before its first block, and the gradient of its positions."""
    module, pixels = model.embeddings, torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    found = module(pixels)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    return found.detach(), *torch.autograd.grad((found * weights).sum(), module.position_embeddings)


def test_positions_and_their_gradients_are_those_of_the_base(base):
    apart = embedded(base, 84)
    resample_by_products(base, 84)
    for ours, theirs in zip(embedded(base, 84), apart, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_other_sizes_are_resampled_as_the_base_does(base):
    apart = embedded(base, 56)
    resample_by_products(base, 84)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(embedded(base, 56), apart, strict=True))


def test_positions_that_fit_are_left_alone_and_nothing_is_saved(base):
    names = list(base.state_dict())
    resample_by_products(base, 154)
    assert "interpolate_pos_encoding" not in vars(base.embeddings)
    resample_by_products(base, 84)
    assert list(base.state_dict()) == names


def test_a_copy_has_positions_of_its_own(base):
    resample_by_products(base, 84)
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.embeddings.position_embeddings.zero_()
    assert not torch.equal(embedded(base, 84)[0], embedded(other, 84)[0])
