"""Which parts of a picture speak for a class: gradient times activation where the last block begins.

It begins, and not ends, since of a Vision Transformer's last block only the class token is read: at its end the
gradient of all patches is zero. Attention itself is no answer: it says where a block looks, not what for.

The gradient at the picture alone misleads, since a sure model's answer hardly moves any more. So it is averaged over
steps from a grey picture, which speaks for nothing, to the picture. All steps of the last block run as one batch;
the blocks before it run once. Tiny models that look for one coloured cell of 16 had it hottest in 5 to 61 % of
pictures with the plain product (seven families), and in all of them along the path (tests/report/test_looked_at.py).

Source:
    Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017 (integrated gradients), applied to
    a layer within the model.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitlora.core.errors import VitloraError
from vitlora.model.base import Normalisation

INPUT = "hidden_states"  # what transformers calls a block's input, where it has a name
STEPS = 8  # from the grey picture to the picture
GREY = 127
MOST_EXTRA = 16  # tokens that are no patches: the class, its teacher's, registers


class Grid(NamedTuple):
    """How a block's input is laid out: rows and columns of patches, and how many tokens stand before the patches.

    ``channels`` is the axis of the channels: 1 in a feature map of a convolution, else the last.
    """

    rows: int
    columns: int
    extra: int
    channels: int


def looked_at(
    model: Any,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    labels: Sequence[int] | None = None,
    batch_size: int = 32,
) -> NDArray[np.float32]:
    """Return a heat map for each picture: what speaks for a class, by patch.

    It is the sum over channels of gradient times activation less that of a grey picture, negative ones set to 0, over
    the largest of the picture. The gradient is that of the class's log probability, so what speaks for all classes
    alike does not show, nor does what speaks against this one. A map holds zeros only where nothing speaks for it.

    Args:
        model: A classifier as ``load_adapter`` gives it, in eval mode, on any device; it is left as it was.
        images: uint8 (N, 3, H, H), squares of the size that it was trained on.
        normalisation: The base model's.
        labels: The class of each picture that the map is for; None is the class that the model names.
        batch_size: Pictures at once.

    Returns:
        float32 (N, rows, columns), 0 to 1: a few cells where the model has few patches.

    Raises:
        VitloraError: The model has no blocks whose input can be laid out as a grid.
    """
    device = next(model.parameters()).device
    with _frozen(model):
        grey = _pixels(np.full((1, *images.shape[1:]), GREY, np.uint8), normalisation, device)
        name, grid = find_block(model, grey)
        maps = [
            _explain(
                model, name, grid, _pixels(images[start : start + batch_size], normalisation, device), grey, chosen
            )
            for start, chosen in _parts(len(images), labels, batch_size)
        ]
    return np.concatenate(maps) if maps else np.empty((0, grid.rows, grid.columns), np.float32)


def _parts(count: int, labels: Sequence[int] | None, size: int) -> Iterator[tuple[int, Sequence[int] | None]]:
    for start in range(0, count, size):
        yield start, None if labels is None else labels[start : start + size]


def _pixels(images: NDArray[np.uint8], normalisation: Normalisation, device: torch.device) -> Tensor:
    return normalisation(torch.from_numpy(np.array(images)).to(device))


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Let no weight gather a gradient, nor the graph in front of the last block take memory."""
    before = [(weight, weight.requires_grad) for weight in model.parameters()]
    try:
        for weight, _ in before:
            weight.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for weight, needed in before:
            weight.requires_grad_(needed)


def find_block(model: Any, pixels: Tensor) -> tuple[str, Grid]:
    """Return the name of the last block, and how its input is laid out.

    Blocks are the members of lists of modules of one class, each with parts of its own. Which runs last, the model
    tells by running. Where blocks make stages, as in Swin, it is the first of the last stage that has the same grid:
    patches are as many, and have not yet been mixed within a window that may be the whole picture.

    Args:
        model: The classifier.
        pixels: float32 (1, 3, H, H), normalised.

    Raises:
        VitloraError: None takes what can be laid out as a grid.
    """
    ran: dict[str, Tensor] = {}
    hooks = [module.register_forward_pre_hook(_note(ran, name), with_kwargs=True) for name, module in _blocks(model)]
    try:
        with torch.no_grad():
            model(pixel_values=pixels)
    finally:
        for hook in hooks:
            hook.remove()
    for name, given in reversed(ran.items()):
        if grid := lay_out(tuple(given.shape), pixels.shape[-1], _patch(model)):
            return _first_alike(name, ran), grid
    kind = getattr(model.config, "model_type", type(model).__name__)
    raise VitloraError(f"no heat map of {kind}: it has no blocks whose input is a grid of patches")


def _first_alike(last: str, ran: dict[str, Tensor]) -> str:
    """Return the first block of the same stage whose input has the form of the last one's; without stages the last."""
    stage = last.rpartition(".")[0]
    if sum(part.isdigit() for part in stage.split(".")) == 0:
        return last
    return next(
        name for name, given in ran.items() if name.rpartition(".")[0] == stage and given.shape == ran[last].shape
    )


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len({type(each) for each in module}) == 1:
            yield from (
                (f"{name}.{place}", each)
                for place, each in enumerate(module)
                if next(each.children(), None) is not None
            )


def _note(ran: dict[str, Tensor], name: str) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get(INPUT)
        if isinstance(given, Tensor):
            ran.pop(name, None)  # so that the order is that of the last runs
            ran[name] = given

    return hook


def _patch(model: Any) -> int | None:
    config = getattr(model.config, "vision_config", model.config)
    side = getattr(config, "patch_size", None)
    return (
        side[0] if isinstance(side, list | tuple) and len(set(side)) == 1 else side if isinstance(side, int) else None
    )


def lay_out(shape: tuple[int, ...], image_size: int, patch: int | None) -> Grid | None:
    """Return how a block's input is laid out, or None if it is no grid of the one picture.

    Args:
        shape: (1, C, rows, columns), (1, rows, columns, C) or (1, tokens, C).
        image_size: Side of the square, px.
        patch: Side of a patch as the config says it, px; models that merge patches have fewer tokens.
    """
    if len(shape) == 4 and shape[0] == 1:
        if shape[2] == shape[3]:
            return Grid(shape[2], shape[3], 0, 1)
        return Grid(shape[1], shape[2], 0, 3) if shape[1] == shape[2] else None
    if len(shape) != 3 or shape[0] != 1:
        return None
    tokens = shape[1]
    stated = image_size // patch if patch else 0
    side = stated if 0 <= tokens - stated**2 <= MOST_EXTRA and stated else math.isqrt(tokens)
    extra = tokens - side**2
    fits = side > 0 and (side == stated or extra in (0, 1))  # of merged patches the side is guessed, so no leeway
    return Grid(side, side, extra, 2) if fits else None


def _explain(
    model: Any, name: str, grid: Grid, pixels: Tensor, grey: Tensor, labels: Sequence[int] | None
) -> NDArray[np.float32]:
    block = model.get_submodule(name)
    seen: list[Tensor] = []
    path: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs[INPUT]).detach())

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        path.append(_between(seen[-1], seen[0]).requires_grad_())
        return ((path[-1], *args[1:]), kwargs) if args else (args, {**kwargs, INPUT: path[-1]})

    with _hooked(block, look), torch.no_grad():
        model(pixel_values=grey)
        logits = model(pixel_values=pixels).logits
    with _hooked(block, replace):
        along = model(pixel_values=pixels).logits
    wanted = logits.argmax(dim=1) if labels is None else torch.as_tensor(labels, device=logits.device)
    score = along.log_softmax(dim=1).gather(1, wanted.repeat(STEPS)[:, None]).sum()  # for it, rather than for others
    (gradient,) = torch.autograd.grad(score, path[-1])
    mean = gradient.reshape(STEPS, *seen[-1].shape).mean(dim=0)
    product = (mean * (seen[-1] - seen[0])).sum(dim=grid.channels)
    if product.ndim == 2:
        product = product[:, grid.extra :].reshape(-1, grid.rows, grid.columns)
    heat = product.clamp(min=0)
    largest = heat.amax(dim=(1, 2), keepdim=True)
    shares: NDArray[np.float32] = (heat / largest.where(largest > 0, torch.ones_like(largest))).float().cpu().numpy()
    return shares


def _between(there: Tensor, here: Tensor) -> Tensor:
    """Return the middle of each step from ``here`` (1, ...) to ``there`` (N, ...), step after step: (STEPS N, ...)."""
    return torch.cat([here + (there - here) * ((step + 0.5) / STEPS) for step in range(STEPS)])


@contextmanager
def _hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
