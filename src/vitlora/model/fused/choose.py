"""The one door to the fused step: whether a model can take it, and making it do so."""

import importlib.util
from typing import Any

import torch

from vitlora.model.base import Normalisation
from vitlora.model.mixture import is_mixture

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def try_to_fuse(model: Any, kind: str, normalisation: Normalisation, image_size: int) -> str:
    """Replace a model's passes by the fused ones, or return why that can't be. Arguments as in ``install``."""
    if is_mixture(model):
        return "X-LoRA runs every layer twice"
    if kind not in DTYPES:
        return "fused computes in fp16 or bf16"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    from vitlora.model.fused.backbone import fuse, why_not_fused

    reason = why_not_fused(model) or _why_not_this_size(model, image_size)
    if not reason:
        fuse(model, normalisation.mean, normalisation.std, image_size, DTYPES[kind])
    return reason


def _why_not_this_size(model: Any, image_size: int) -> str:
    """The kernel that lays out patches knows no border; only a size that the base was trained at may leave one."""
    patch = model.config.patch_size
    side = patch if isinstance(patch, int) else patch[0]
    return f"{image_size} px are no multiple of its patch, {side} px" if image_size % side else ""
