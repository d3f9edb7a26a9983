"""A temperature put into a model's own weights, so that whoever runs it gets calibrated confidences."""

from typing import Any

import torch
from torch import Tensor, nn


def divide_logits(model: Any, temperature: float, image_size: int) -> bool:
    """Divide weights and bias of the last layer, in place, where the logits are what one linear layer gives.

    Args:
        model: A classifier of transformers or PEFT.
        temperature: What the logits are divided by.
        image_size: Side of the square in px.

    Returns:
        Whether it was done; a head of two layers that are averaged, say, is left as it is.
    """
    last = _last_layer(model, image_size)
    if last is None:
        return False
    with torch.no_grad():
        for weight in (last.weight, last.bias):
            if weight is not None:
                weight.div_(temperature)
    return True


def _last_layer(model: Any, image_size: int) -> nn.Linear | None:
    """Return the linear layer that ran last and gave just the logits; a square of noise tells it from others."""
    seen: list[tuple[nn.Linear, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda layer, _, output: seen.append((layer, output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        with torch.inference_mode():
            picture = torch.rand(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
            logits = model(pixel_values=picture.to(next(model.parameters()).device)).logits
    finally:
        for handle in handles:
            handle.remove()
    return next((layer for layer, output in reversed(seen) if torch.equal(output, logits)), None)
