"""A base whose linear layers are kept in four bits (QLoRA), by bitsandbytes: a seventh of their memory.

A layer's weights are rounded on the CPU whatever trains, so that they are the same everywhere. While training they stay
packed, and each pass unpacks them. Later nothing is packed any more: the base is loaded with the rounded values in
float32, which is the same model, and merges and exports as any other.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from vitlora.core.errors import VitloraError

PACKAGE = "bitsandbytes"
VERSION = "0.50.2"  # that was tried
KIND, BLOCK = "nf4", 64  # values for normally distributed weights, and how many share a scale
KEY = "train.load_in_4bit"


def is_in_four_bits(model: Any) -> bool:
    """Tell whether a model's base is packed."""
    return bool(getattr(model, "is_loaded_in_4bit", False))


def pack(model: Any, heads: Sequence[str], image_size: int) -> None:
    """Replace the linear layers of a base by packed ones, in place; PEFT puts adapters on them as on others.

    Args:
        model: As ``load_base`` gives it, without adapters.
        heads: Modules that are trained in full, which stay as they are.
        image_size: Side of a square, px.

    Raises:
        VitloraError: bitsandbytes is not installed, or the model takes weights out of its layers.
    """
    bitsandbytes = _bitsandbytes()
    for name, layer in _layers(model, heads):
        packed = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=torch.float32,  # beneath autocast
            compress_statistics=False,
            quant_type=KIND,
        )
        packed.support_avx512bf16_for_cpu = False  # it would compute in bfloat16 on some processors
        packed.weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, blocksize=BLOCK, quant_type=KIND, compress_statistics=False
        )
        packed.bias = layer.bias
        model.set_submodule(name, packed.to("cpu"))  # this rounds
    model.is_loaded_in_4bit = True  # PEFT asks
    try:
        with torch.inference_mode():
            model(pixel_values=torch.zeros(1, 3, image_size, image_size))
    except Exception as error:
        raise VitloraError(
            f"{KEY}: got true; the rule: false with {model.config.model_type}, which takes weights out of its layers "
            f"({str(error).splitlines()[0]})"
        ) from None


@torch.no_grad()
def round_weights(model: Any, heads: Sequence[str]) -> None:
    """Give the linear layers of a base, in place, the values that ``pack`` rounds theirs to. Arguments as there."""
    functional = _bitsandbytes().functional
    for _, layer in _layers(model, heads):
        packed, state = functional.quantize_4bit(
            layer.weight.data, blocksize=BLOCK, compress_statistics=False, quant_type=KIND
        )
        rounded: Tensor = functional.dequantize_4bit(packed, state)
        layer.weight.copy_(rounded)


def _layers(model: Any, heads: Sequence[str]) -> list[tuple[str, nn.Linear]]:
    """Return the layers that are packed: no subclasses, such as that of attention, whose weights others read."""
    return [
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer) is nn.Linear and not any(f"{name}.".startswith(f"{head}.") for head in heads)
    ]


def _bitsandbytes() -> Any:
    if find_spec(PACKAGE) is None:
        raise VitloraError(
            f"{KEY}: got true, and {PACKAGE} is not installed; the rule: installed beside vitlora: "
            f"`.venv/bin/uv pip install --python .venv {PACKAGE}=={VERSION}`"
        )
    import bitsandbytes

    return bitsandbytes
