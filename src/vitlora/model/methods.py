"""PEFT's config for each `lora.method`."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from vitlora.model.params import LORA_FAMILY, PLAIN, Lora
from vitlora.model.targets import resolve_pattern

CONFIGS = {
    **dict.fromkeys(LORA_FAMILY, "LoraConfig"),
    "adalora": "AdaLoraConfig",
    "loha": "LoHaConfig",
    "lokr": "LoKrConfig",
    "oft": "OFTConfig",
    "boft": "BOFTConfig",
    "hra": "HRAConfig",
    "ia3": "IA3Config",
    "ln_tuning": "LNTuningConfig",
    "vera": "VeraConfig",
    "vblora": "VBLoRAConfig",
    "randlora": "RandLoraConfig",
    "fourierft": "FourierFTConfig",
    "waveft": "WaveFTConfig",
    "c3a": "C3AConfig",
    "shira": "ShiraConfig",
    "miss": "MissConfig",
    "road": "RoadConfig",
    "delora": "DeloraConfig",
    "gralora": "GraloraConfig",
}
MLP = re.compile(
    r"\.(fc[12](_[gx])?|pwconv[12]|(?<!attention\.)output\.dense|intermediate\.dense|(gate|up|down)_proj)$"
)


def configure(lora: Lora, targets: list[str], heads: Sequence[str], total_steps: int) -> Any:
    """Return PEFT's config object.

    Args:
        lora: The section; not `head` or `full`.
        targets: Full names of the layers to adapt.
        heads: Modules to train in full.
        total_steps: Optimiser steps of the whole run, for AdaLoRA's schedule.

    Raises:
        VitloraError: A key of rank_pattern or alpha_pattern means none of the layers.
    """
    import peft

    keys = lora.own.model_dump()
    if lora.method in LORA_FAMILY:
        keys = {**_plain(lora), **LORA_FAMILY[lora.method], **keys}
        keys |= {key: resolve_pattern(keys[key], targets, key) for key in ("rank_pattern", "alpha_pattern")}
    if lora.method == "adalora":
        keys |= schedule(keys.pop("tinit_fraction"), keys.pop("tfinal_fraction"), total_steps)
    if lora.method == "ia3":
        keys["feedforward_modules"] = [name for name in targets if MLP.search(name)]
    return getattr(peft, CONFIGS[lora.method])(target_modules=targets, modules_to_save=list(heads), **keys)


def described(lora: Lora, targets: Sequence[str]) -> dict[str, Any]:
    """Return what an adapter's bundle says of the method: name, settings it read, kinds of its layers, and heads."""
    settings = lora.own.model_dump()
    if lora.method in LORA_FAMILY:
        settings = {**_plain(lora), **settings}
    kinds = sorted({re.split(r"\.\d+\.", name)[-1] for name in targets})
    return {
        "name": lora.method,
        "settings": {key: value for key, value in settings.items() if value != {}},
        "layers": kinds,
        "modules_to_save": list(lora.modules_to_save),
    }


def _plain(lora: Lora) -> dict[str, Any]:
    return {name: getattr(lora, name) for name in PLAIN}


def ordered(config: dict[str, Any]) -> dict[str, Any]:
    """Return PEFT's saved config with its lists of names sorted: it keeps sets, whose order follows PYTHONHASHSEED."""
    names = {key for key, value in config.items() if isinstance(value, list) and all(isinstance(v, str) for v in value)}
    return {key: sorted(value) if key in names else value for key, value in config.items()}


def schedule(tinit_fraction: float, tfinal_fraction: float, total_steps: int) -> dict[str, int]:
    """Return AdaLoRA's steps; PEFT wants tinit < total_step - tfinal."""
    tfinal = max(1, round(tfinal_fraction * total_steps))
    tinit = min(round(tinit_fraction * total_steps), max(0, total_steps - tfinal - 1))
    return {"total_step": total_steps, "tinit": tinit, "tfinal": tfinal}


def layer_norms(model: torch.nn.Module) -> list[str]:
    """Return the names of the layer norms in the model's blocks, which ln_tuning adapts."""
    return [
        name
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.LayerNorm) and re.search(r"\.\d+\.", name)
    ]


def ranks(model: Any) -> list[tuple[str, str, int]]:
    """Return block, layer and rank of all layers whose update has one that may differ: LoRA's kin and AdaLoRA's.

    AdaLoRA's own count is of the ranks that it has not pruned.
    """
    config = getattr(model, "peft_config", {}).get("default")
    if config is None or config.peft_type.value not in ("LORA", "ADALORA"):
        return []
    used = {name.removesuffix(".lora_E"): sum(flags) for name, flags in _settled(config).items()}
    rows = []
    for name, part in model.base_model.model.named_modules():
        if hasattr(part, "lora_A"):
            block, kind = re.findall(r"\.(\d+)\.", name), re.split(r"\.\d+\.", name)[-1]
            rows.append((".".join(block), kind, int(used.get(name, part.r["default"]))))
    return sorted(rows, key=lambda row: ([int(number) for number in row[0].split(".")], row[1]))


def _settled(config: Any) -> dict[str, list[bool]]:
    return (config.rank_pattern or {}) if config.peft_type.value == "ADALORA" else {}
