"""Put a PEFT adapter on a base model, and keep it in a folder that says everything needed to use it."""

import json
import logging
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vitlora.errors import VitloraError
from vitlora.files import read_json, sha256_file, write_json
from vitlora.labels import Labels
from vitlora.model import Normalisation, load_base
from vitlora.sections.train import Lora
from vitlora.targets import resolve_targets

BUNDLE, ADAPTER_WEIGHTS = "vitlora.json", "adapter_model.safetensors"


@dataclass(frozen=True)
class Adapted:
    """A PEFT model and what is known of it: full names of the adapted layers, trainable and total parameter counts."""

    model: Any
    adapted_modules: list[str]
    trainable: int
    total: int


def add_adapter(model: Any, fresh: Sequence[str], lora: Lora) -> Adapted:
    """Wrap a base model for LoRA training.

    Args:
        model: As ``load_base`` gives it.
        fresh: Names of its parameters that start out random; every one must become trainable.
        lora: PEFT's settings.

    Raises:
        VitloraError: A target or module to save names nothing, the head would stay random, or the rank exceeds a layer.
    """
    from peft import LoraConfig, get_peft_model

    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    heads = _check_heads(model, fresh, lora.modules_to_save)
    targets = resolve_targets(lora.target_modules, linear, heads)
    for name in targets:
        if lora.r > min(linear[name].weight.shape):
            raise VitloraError(
                f"lora.r: got {lora.r}; the rule: no larger than {name}, {min(linear[name].weight.shape)}"
            )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # PEFT divides by it; fractions are fine
        lora_dropout=lora.lora_dropout,
        bias=lora.bias,
        use_rslora=lora.use_rslora,
        target_modules=targets,
        modules_to_save=list(heads),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        peft_model = get_peft_model(model, config)
    adapted = [name for name, module in peft_model.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == len(targets), "PEFT adapted other layers than those resolved"
    trainable, total = peft_model.get_nb_trainable_parameters()
    return Adapted(peft_model, targets, trainable, total)


def _check_heads(model: Any, fresh: Sequence[str], modules_to_save: Sequence[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    for wanted in modules_to_save:
        if not any(name == wanted or name.endswith("." + wanted) for name in names):
            tops = sorted({name.split(".")[0] for name in names})
            raise VitloraError(
                f"lora.modules_to_save: got {wanted}, which names no module; top level: {', '.join(tops)}"
            )
    idle = [name for name in fresh if not any(f".{wanted}." in f".{name}" for wanted in modules_to_save)]
    if idle:
        heads = sorted({name.rsplit(".", 1)[0] for name in idle})
        raise VitloraError(
            f"lora.modules_to_save: got {', '.join(modules_to_save)}; the rule: {', '.join(heads)} is new and must be "
            "among them, or it would stay random"
        )
    return list(modules_to_save)


def save_adapter(model: Any, folder: Path, base: Path, labels: Labels, normalisation: Normalisation) -> None:
    """Write a PEFT adapter folder, the same bytes for the same weights, with labels and preprocessing beside it."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's stub of a model card; export writes a real one
    config = read_json(folder / "adapter_config.json")
    for key, value in config.items():  # PEFT keeps sets, whose order follows PYTHONHASHSEED
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            config[key] = sorted(value)
    config["base_model_name_or_path"] = Path(os.path.relpath(base)).as_posix()
    write_json(folder / "adapter_config.json", config)
    bundle = {
        "class_names": labels.class_names,
        "image_size": labels.image_size,
        "interpolation": labels.interpolation,
        "image_mean": normalisation.mean,
        "image_std": normalisation.std,
        "base": {
            "model_type": read_json(base / "config.json")["model_type"],
            "sha256": {path.name: sha256_file(path) for path in sorted(base.glob("*.safetensors"))},
        },
    }
    write_json(folder / BUNDLE, bundle)


def load_adapter(base: Path, folder: Path) -> tuple[Any, Labels, Normalisation]:
    """Load base and adapter from nothing but their two folders, and merge them.

    Returns:
        The merged classifier in float32 on the CPU, in eval mode; its labels; its normalisation.

    Raises:
        VitloraError: The adapter was trained on other base weights, lacks some of its own, or is no safetensors.
    """
    from peft import PeftModel

    if not (folder / ADAPTER_WEIGHTS).is_file():  # PEFT would look for pickled ones, then on the Hub
        raise VitloraError(f"{folder} has no {ADAPTER_WEIGHTS}; run the train stage again")
    bundle = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
    found = {path.name: sha256_file(path) for path in sorted(base.glob("*.safetensors"))}
    if found != bundle["base"]["sha256"]:
        raise VitloraError(f"{folder}: trained on other weights than {base} holds; run the train stage again")
    labels = Labels(bundle["class_names"], bundle["image_size"], bundle["interpolation"])
    model, _ = load_base(base, labels.class_names, labels.image_size)
    logging.getLogger("peft").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("error", message=".*missing adapter keys.*")
        try:
            peft_model = PeftModel.from_pretrained(model, folder)
        except (UserWarning, ValueError, RuntimeError, SafetensorError) as error:
            raise VitloraError(f"{folder}: does not fit {base}: {str(error).splitlines()[0]}") from None
    merged = peft_model.merge_and_unload(safe_merge=True)
    return merged.eval(), labels, Normalisation(bundle["image_mean"], bundle["image_std"])
