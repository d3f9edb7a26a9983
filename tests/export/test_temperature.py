"""A temperature in the weights divides the logits, whatever the architecture's head."""

import pytest
import torch
from tiny import make_base
from torch import nn

from vitlora.export.temperature import divide_logits
from vitlora.model.base import load_base


class Averaged(nn.Module):
    """Two heads whose mean is the logits, as a distilled DeiT has."""

    def __init__(self):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(48, 3) for _ in range(2))

    def forward(self, pixel_values):
        flat = pixel_values.flatten(1)
        return type("Output", (), {"logits": sum(head(flat) for head in self.heads) / 2})


def test_the_logits_are_divided_and_the_head_alone_changes(tmp_path):
    make_base(tmp_path / "base")
    model, _ = load_base(tmp_path / "base", ["a", "b", "c"], 32)
    model.eval()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    pictures = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        raw = model(pixel_values=pictures).logits
        assert divide_logits(model, 1.6, 32)
        divided = model(pixel_values=pictures).logits
    assert torch.allclose(divided * 1.6, raw, atol=1e-5)
    assert not torch.allclose(divided, raw, atol=1e-3)
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    assert {name.split(".")[0] for name in changed} == {"classifier"}
    assert not any(module._forward_hooks for module in model.modules())


def test_a_head_of_two_layers_is_left_alone():
    model = Averaged()
    before = [weight.clone() for weight in model.parameters()]
    assert not divide_logits(model, 2.0, 4)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_without_bias_is_divided_too(bias):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.head = nn.Linear(48, 3), nn.Linear(3, 3, bias=bias)

        def forward(self, pixel_values):
            return type("Output", (), {"logits": self.head(self.inner(pixel_values.flatten(1)))})

    model = Plain()
    picture = torch.rand(1, 3, 4, 4)
    with torch.no_grad():
        raw = model(picture).logits
        assert divide_logits(model, 0.5, 4)
        assert torch.allclose(model(picture).logits, raw / 0.5, atol=1e-6)
