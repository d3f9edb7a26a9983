"""Where PEFT's layers make and keep small tensors: a captured step can't fetch them from the processor."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def settle(model: Any, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """Move what a model's layers keep on the processor, and return the context that its passes are to run in.

    Layers make small tensors where torch makes all by default, so inside the context that is the device. LoHa and LoKr
    are an exception: in each pass they compare a number drawn with ``module_dropout``, for which the processor would
    wait. Where they drop no module the outcome is always the same, and it may be drawn on the processor. Where they do,
    a captured step would repeat one outcome for ever, so it must not come about.

    Args:
        model: With adapters or not.
        device: That the step runs on.
    """
    for module in model.modules():
        places = getattr(module, "indices", None)  # FourierFT's, int64 (2, n), no buffer
        if isinstance(places, dict):
            places.update({name: where.to(device) for name, where in places.items()})
    drops = [module.module_dropout for module in model.modules() if hasattr(module, "module_dropout")]
    if drops and not any(value for by_adapter in drops for value in by_adapter.values()):
        return nullcontext
    return lambda: torch.device(device)
