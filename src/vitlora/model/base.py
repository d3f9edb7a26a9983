"""The base model with a fresh head, and the normalisation that it was trained with."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.model.timm_bases import TIMM, fit_timm, timm_heads

LAYER = re.compile(r"(?<=\.)\d+(?=\.)")
UNUSED = ("mask_token", "pooler")  # of pre-training; a classifier has no use for them


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel, of pixels scaled to 0..1; the base model's own."""

    mean: list[float]
    std: list[float]

    def __call__(self, images: Tensor) -> Tensor:
        """Turn uint8 (N, 3, H, W) into float32, in the order of torchvision's ToTensor and Normalize."""
        mean, std = (_channels(tuple(values), images.device) for values in (self.mean, self.std))
        return images.float().div_(255).sub_(mean).div_(std)

    @property
    def mean_bytes(self) -> tuple[int, int, int]:
        """The colour that comes nearest to 0."""
        red, green, blue = (round(255 * mean) for mean in self.mean)
        return red, green, blue


@cache  # copying three numbers to a GPU makes the processor wait for it
def _channels(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):  # its user may train
        return torch.tensor(values, device=device).view(1, -1, 1, 1)


def read_normalisation(base: Path) -> Normalisation:
    """Read mean and std from the base model's preprocessor_config.json.

    Raises:
        VitloraError: There is none.
    """
    path = base / "preprocessor_config.json"  # download wrote it, or looked at it
    if not path.is_file():
        raise VitloraError(
            f"{path}: missing; the rule: mean and std that the base model was trained with, which download writes; let "
            "download fetch it again: `dvc repro -f download`"
        )
    content = read_json(path)
    return Normalisation(content["image_mean"], content["image_std"])


def load_base(base: Path, class_names: Sequence[str], image_size: int) -> tuple[Any, list[str]]:
    """Load the base model in float32 with a head for these classes.

    Args:
        base: Folder of config and safetensors weights.
        class_names: Position = label.
        image_size: Side of the squares it will see, px.

    Returns:
        The model, on the CPU, and the names of the parameters that start out random: the head's.

    Raises:
        VitloraError: The weights don't fit the architecture or the config, the model can't take images of this size, or
            its head doesn't fit the classes.
    """
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.set_verbosity_error()  # the loader tells of the new head in a table; the rule below says what matters of it
    logging.disable_progress_bar()
    labels = dict(enumerate(class_names))
    try:
        config = AutoConfig.from_pretrained(
            base,
            id2label=labels,
            label2id={name: label for label, name in labels.items()},
            num_labels=len(labels),  # PVT keeps its own number beside the names
            return_dict=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        config.problem_type = None  # the old head's; without it labels of one class a picture mean cross entropy
        config.architectures = []  # else a distilled DeiT brings its teacher's head, which can't be trained
        model, report = AutoModelForImageClassification.from_pretrained(
            base,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except Exception as error:  # each architecture checks its config in its own way
        raise VitloraError(f"{base}: transformers cannot load it: {reason(error)}") from None
    fresh = sorted({*report["missing_keys"], *(_key(item) for item in report["mismatched_keys"])})
    fresh = [name for name in fresh if not any(part in name for part in UNUSED)]
    heads = timm_heads(model)
    backbone = [
        name
        for name in fresh
        if name.startswith(model.base_model_prefix + ".") and not any(name.startswith(f"{head}.") for head in heads)
    ]
    if backbone:
        raise VitloraError(f"{base}: {len(backbone)} weights of the backbone are missing, such as {backbone[0]}")
    _refuse_spare_layers(model, report["unexpected_keys"], base)
    native = _native(model.config)
    if model.config.model_type == TIMM:
        fit_timm(model, image_size)
    _try(model, base, len(labels), image_size, native)
    return model, fresh


def _refuse_spare_layers(model: Any, spare: Iterable[str], base: Path) -> None:
    """Refuse weights of layers like those that the model has: a config of fewer layers would drop them silently."""
    known = {_place(name, model) for name in model.state_dict()}
    lost = sorted(name for name in spare if LAYER.search(name) and _place(name, model) in known)
    if lost:
        raise VitloraError(
            f"{base}: config.json has fewer layers than the weights, which hold {lost[0]} and {len(lost) - 1} more; "
            "the rule: the config that the weights were saved with"
        )


def _place(name: str, model: Any) -> str:
    """Return a weight's name without the numbers of its layers; saved ones may lack the backbone's name in front."""
    return LAYER.sub("N", name.removeprefix(f"{model.base_model_prefix}."))


def reason(error: Exception) -> str:
    """Return the first line of an error of a library, and the error's name where that says more."""
    lines = [line.strip().rstrip(":") for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return lines[0] if lines and isinstance(error, OSError | ValueError) else ": ".join([name, *lines[:2]])


def _key(item: Any) -> str:
    return item if isinstance(item, str) else str(item[0])


def _native(config: Any) -> Any:
    """Return the side of the squares that a base was trained at, px: a number, or two that differ, or None."""
    known = getattr(config, "vision_config", config)
    trained = getattr(known, "image_size", None) or (getattr(known, "pretrained_cfg", None) or {}).get("input_size")
    if isinstance(trained, list | tuple):
        sides = set(trained[-2:])  # timm's have the channels in front
        return sides.pop() if len(sides) == 1 else trained
    return trained


def _try(model: Any, base: Path, classes: int, image_size: int, native: Any) -> None:
    """Let a grey square through: which sizes fit, each architecture knows in its own way, and some cut heads oddly."""
    kind = model.config.model_type
    try:
        with torch.inference_mode():
            logits = model(pixel_values=torch.zeros(1, 3, image_size, image_size)).logits
    except Exception as error:
        if native not in (None, image_size):
            raise VitloraError(
                f"image.size_px: got {image_size}; the rule: {native}, the size that {kind} in {base} was trained at"
            ) from None
        raise VitloraError(f"{base}: {kind} cannot take a square of {image_size} px: {reason(error)}") from None
    if logits.shape != (1, classes):
        raise VitloraError(
            f"{base}: {kind} gives {tuple(logits.shape)} for one picture; the rule: one number for each of {classes} "
            "classes; take a base of another kind"
        )


def device_of_choice() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
