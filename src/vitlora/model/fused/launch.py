"""How the kernels are compiled and started."""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
import triton

from vitlora.core.cores import cores

# Triton compiles a kernel anew for whole numbers that are 1 or multiples of 16. These differ from layer to layer and in
# a last batch, and gain nothing by it; strides keep it, since it makes loads wide.
VARYING = ("rows", "layer", "threshold", "groups")
HOPPER = 9

_only_compiling: ContextVar[bool] = ContextVar("only_compiling", default=False)


class Kernel:
    """A function that Triton compiles, started as ``kernel[grid](...)``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.jit: Any = triton.jit(do_not_specialize=VARYING)(function)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        """Return what starts as many programs, or compiles only, inside ``only_compiling``."""
        return partial(self.jit.warmup, grid=grid) if _only_compiling.get() else self.jit[grid]


@cache
def is_measured(device: torch.device) -> bool:
    """Return whether this is a card that attention's and the products' kernels were measured on."""
    if device.type == "cpu":  # Triton's interpreter
        return True
    return torch.version.hip is None and torch.cuda.get_device_capability(device)[0] == HOPPER


def is_only_compiling() -> bool:
    """Return whether this runs inside ``only_compiling``."""
    return _only_compiling.get()


@contextmanager
def only_compiling() -> Iterator[None]:
    """Compile the kernels that are called inside, side by side, and run none; at the end all are ready."""
    with ThreadPoolExecutor(cores()) as pool, triton.AsyncCompileMode(pool):
        token = _only_compiling.set(True)
        try:
            yield
        finally:
            _only_compiling.reset(token)
