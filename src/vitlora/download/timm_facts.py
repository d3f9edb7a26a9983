"""What a base model of timm says of itself: its config.json, in the form that timm writes, judged without torch.

timm keeps all in that one file: the architecture's name, its arguments, and how its pictures were prepared. Later
stages read transformers' form, so both files are written anew in that.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.download.base_facts import CONFIG, RESAMPLE, Facts
from vitlora.download.fields import File, is_count, part, read, three
from vitlora.download.licence import licence_named, read_licence

NAME = re.compile(r"\w+(\.\w+)?")  # of an architecture, with a tag or without; "hf-hub:..." would ask the network
# Arguments of timm.create_model itself, which choose other weights, files of any kind among them.
NOT_OF_THE_MODEL = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
ANOTHER = "take a base that timm's save_for_hf wrote, or one of the Hub's timm/..."


def check_timm(folder: Path) -> Facts:
    """Judge a base model in timm's layout by its config.json. The weights need not be there yet.

    Args:
        folder: With config.json as timm's `save_for_hf` writes it, or as transformers writes it of a timm model.

    Raises:
        VitloraError: Names file, field, what was got, the rule, and a cure.
    """
    if not (folder / CONFIG).is_file():
        raise VitloraError(f"model.path: {folder} has no {CONFIG}; the rule: a folder in timm's layout; {ANOTHER}")
    config = read(folder / CONFIG)
    name = _architecture(config)
    arguments = _arguments(config)
    own = part(config, "pretrained_cfg")
    if not own.content:
        raise VitloraError(
            f"model.path: {config.path}: no pretrained_cfg; the rule: mean, std and input_size that it was trained "
            'with; write it, such as "pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], '
            '"input_size": [3, 224, 224]}'
        )
    mean, std = three(own, "mean"), three(own, "std")
    side, resize = _side(own), own.get("interpolation")
    interpolation = resize if resize in RESAMPLE else None  # "random", of some that were trained with both
    said = ", ".join(said for said in (f"{side} px" if side else "", interpolation) if said)
    trained = f", trained at {said} (yours are image.size_px and image.interpolation)" if said else ""
    processor: dict[str, Any] = {"image_mean": mean, "image_std": std}
    processor |= {"size": {"height": side, "width": side}} if side else {}
    processor |= {"resample": RESAMPLE.index(interpolation)} if interpolation else {}
    return Facts(
        mean, std, processor, [f"base model: {name} of timm{trained}"], side, interpolation,
        _for_transformers(config, arguments), read_licence(folder) or licence_named(own.get("license")),
    )  # fmt: skip


def _architecture(config: File) -> str:
    name = config.get("architecture")
    if name is None:
        kind = config.get("model_type")
        hint = "; this is a model of transformers: set model.source: folder or hub" if kind else f"; {ANOTHER}"
        raise VitloraError(f"model.path: {config.path}: no architecture; the rule: the name that timm has for it{hint}")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise config.refusal("architecture", "the name of a model in timm, such as vit_tiny_patch16_224", ANOTHER)
    return printable(name)


def _arguments(config: File) -> dict[str, Any]:
    """Return the arguments of the architecture, but for the number of classes, which is ours."""
    arguments = part(config, "model_args")
    for key in NOT_OF_THE_MODEL:
        if key in arguments.content:
            rule = "arguments of the architecture; weights come from model.safetensors alone"
            raise arguments.refusal(key, rule, f"remove {key}")
    channels = arguments.get("in_chans", 3)
    if channels != 3:
        rule = "3, red, green and blue"
        raise arguments.refusal("in_chans", rule, "take a base that was trained on colour pictures", channels)
    return {key: value for key, value in arguments.content.items() if key not in ("num_classes", "in_chans")}


def _side(own: File) -> int | None:
    """Return the side of its squares, px, from timm's (channels, height, width)."""
    shape = own.get("input_size")
    if shape is None:
        return None
    if not (isinstance(shape, list) and len(shape) == 3 and all(map(is_count, shape)) and shape[0] == 3):
        raise own.refusal("input_size", "[3, side, side], in px", "write it so")
    if shape[1] != shape[2]:
        cure = "take a base that was trained on squares"
        raise own.refusal("input_size", "a square, as all pictures here become", cure)
    return int(shape[1])


def _for_transformers(config: File, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config with what transformers asks for, and without what says how many classes the old head has."""
    old = ("num_classes", "label_names", "label_descriptions", "id2label", "label2id", "num_labels", "problem_type")
    kept = {key: value for key, value in config.content.items() if key not in old}
    own = {key: value for key, value in kept["pretrained_cfg"].items() if key not in ("num_classes", "label_names")}
    return {**kept, "model_type": "timm_wrapper", "model_args": dict(arguments), "pretrained_cfg": own}
