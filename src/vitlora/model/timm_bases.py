"""Models of timm as transformers wraps them: their heads, and what must be set so that adapters and sizes work."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from vitlora.core.errors import VitloraError

TIMM = "timm_wrapper"
FITTED = ("img_size", "window_size")  # arguments that another size changes


def libraries(model_type: str) -> list[str]:
    """Return the names of the packages whose code a base model runs beside transformers'."""
    return ["timm"] if model_type == TIMM else []


def timm_heads(model: Any) -> list[str]:
    """Return the full names of a timm model's classifier layers; nothing of another model.

    Args:
        model: A classifier of transformers, without an adapter.
    """
    if model.config.model_type != TIMM:
        return []
    found = model.timm_model.get_classifier()
    layers = list(found) if isinstance(found, list | tuple) else [found]  # two, of a distilled model
    return [name for name, part in model.named_modules() if any(part is layer for layer in layers)]


def fit_timm(model: Any, image_size: int) -> None:
    """Make a timm model take squares of another size than it was trained at, and its layers take adapters.

    Positions are resampled once, as timm does it, where the model can; else a forward will say that it can't. Fused
    query, key and value of EVA, BEiT and Swin 2 add a bias of their own, and read the layer's weights past the layer,
    and so past any adapter on it, unless told otherwise; the sum is the same.

    Args:
        model: TimmWrapperForImageClassification.
        image_size: Side of the squares, px.

    Raises:
        VitloraError: The size is no multiple of the patch.
    """
    inner, config = model.timm_model, model.config
    config.pretrained_cfg = {**config.pretrained_cfg, "input_size": [3, image_size, image_size]}
    for part in inner.modules():
        if hasattr(part, "qkv_bias_separate"):
            part.qkv_bias_separate = True
    patches = getattr(inner, "patch_embed", None)
    now, patch = (getattr(patches, name, None) for name in ("img_size", "patch_size"))
    if not now or not patch or not hasattr(inner, "set_input_size") or tuple(now) == (image_size, image_size):
        return
    if image_size % patch[0]:
        raise VitloraError(
            f"image.size_px: got {image_size}; the rule: a multiple of the base model's patch, {patch[0]} px"
        )
    try:
        inner.set_input_size(img_size=(image_size, image_size))
    except (AssertionError, ValueError, RuntimeError):
        return
    # Whoever loads what is saved of it builds it at this size.
    changed = {key: value for key, value in getattr(inner, "_model_args", {}).items() if key in FITTED}
    config.model_args = {**(config.model_args or {}), **changed, "img_size": image_size}


def describe_squares(config: Any, interpolation: str) -> None:
    """Say in a timm model's config how pictures become squares here, for those who load it by timm itself.

    Args:
        config: Of a model that ``fit_timm`` has seen, which has set its size.
        interpolation: `bilinear` or `bicubic`.
    """
    ours = {"crop_pct": 1.0, "crop_mode": "center", "interpolation": interpolation}
    config.pretrained_cfg = {**config.pretrained_cfg, **ours}


def refuse_passed_by(model: Any, targets: Sequence[str]) -> None:
    """Refuse layers of a timm model that a forward never calls: it reads their weights itself, past any adapter.

    Args:
        model: A classifier of transformers, without an adapter.
        targets: Full names of the layers to adapt.

    Raises:
        VitloraError: Names the layers.
    """
    if model.config.model_type != TIMM:
        return
    called: set[str] = set()
    layers = {name: part for name, part in model.named_modules() if name in set(targets)}
    hooks = [part.register_forward_hook(partial(_note, called, name)) for name, part in layers.items()]
    side = model.config.pretrained_cfg["input_size"][-1]
    try:
        with torch.inference_mode():
            model(pixel_values=torch.zeros(1, 3, side, side))
    finally:
        for hook in hooks:
            hook.remove()
    idle = sorted({re.split(r"\.\d+\.", name)[-1] for name in layers.keys() - called})
    if idle:
        raise VitloraError(
            f"lora.target_modules: {', '.join(idle)} of {model.config.architecture} can take no adapter, since timm "
            "reads its weights past the layer; the rule: layers that are called; take others, such as `mlp`"
        )


def _note(called: set[str], name: str, *_: Any) -> None:
    called.add(name)
