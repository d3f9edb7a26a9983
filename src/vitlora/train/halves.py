"""Trained weights of a base in half precision, all made at once: autocast makes each by itself, in every step."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn

CAST = nn.Linear, nn.Conv2d  # autocast runs these in half precision; subclasses may do other things with their weights
GIVEN = "weight", "bias"  # by these names; others are what weights are first made from, as by torch's spectral_norm
AT_ONCE = 64  # gradients: float32 copies of all would be as large as the model


class Halves:
    """Stands half-precision copies in for the trained weights of linear layers and convolutions while a batch runs.

    Values and gradients are those of autocast, to the bit, by two launches in place of two for each tensor, of which a
    small batch has hundreds that take no less for being small. Adapters are left to autocast, as PEFT computes with
    weights outside their layers too.

    Args:
        model: An image classifier, or a PEFT model of one, on its device.
        trained: float32, the weights that are trained.
        dtype: That autocast computes in; None where it is not used.

    Attributes:
        leaves: What the batch is computed with and has gradients of, in the order of ``trained``.
    """

    def __init__(self, model: Any, trained: Sequence[Tensor], dtype: torch.dtype | None) -> None:
        self.leaves = list(trained)
        self._weights: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._places: list[tuple[dict[str, Any], str, Tensor]] = []
        if dtype is None or any(isinstance(module, PeftModel) for module in model.modules()):
            return
        held = [(module, name, weight) for module in model.modules() for name, weight in module._parameters.items()]
        owners = Counter(id(weight) for _, _, weight in held)
        rows = {id(weight): row for row, weight in enumerate(trained)}
        for module, name, weight in held:
            if type(module) in CAST and name in GIVEN and id(weight) in rows and owners[id(weight)] == 1:
                copy = torch.empty_like(weight, dtype=dtype, requires_grad=True)
                self.leaves[rows[id(weight)]] = copy
                self._weights.append(weight)
                self._copies.append(copy)
                self._places.append((module._parameters, name, copy))

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Let the model compute with copies of the weights as they are now; its backward pass belongs inside."""
        if not self._copies:
            yield
            return
        with torch.no_grad():
            torch._foreach_copy_(self._copies, self._weights)
        own = [place[name] for place, name, _ in self._places]
        for place, name, copy in self._places:
            place[name] = copy
        try:
            yield
        finally:
            for (place, name, _), weight in zip(self._places, own, strict=True):
                place[name] = weight


def add_gradients(sums: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Add gradients up, by few launches whatever their types and however they lie.

    Args:
        sums: float32, changed in place.
        found: Of the same shapes, float32, float16 or bfloat16.
    """
    for begin in range(0, len(sums), AT_ONCE):
        _add(sums[begin : begin + AT_ONCE], found[begin : begin + AT_ONCE])


def _add(sums: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    # One that lies otherwise, as a convolution's may, would have all of them added one by one.
    found = [
        value if value.stride() == place.stride() else torch.empty_like(place, dtype=value.dtype).copy_(value)
        for place, value in zip(sums, found, strict=True)
    ]
    narrow = [row for row, value in enumerate(found) if value.dtype != sums[row].dtype]
    if narrow:
        wide = [torch.empty_like(sums[row]) for row in narrow]
        torch._foreach_copy_(wide, [found[row] for row in narrow])
        for row, value in zip(narrow, wide, strict=True):
            found[row] = value
    torch._foreach_add_(list(sums), found)
