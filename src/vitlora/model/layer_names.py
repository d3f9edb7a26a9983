"""Adapters whose layers have the names of another `transformers` version, and names that `transformers` 4 knows.

What is compared is a layer's place, not its spelling: the numbers in its path, and the role that its last words have in
``vitlora.targets``. `vit.encoder.layer.3.attention.attention.query` and `vit.layers.3.attention.q_proj` are both the
query of block 3, whichever version wrote the one and loaded the other.
"""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.base import reason
from vitlora.model.seen import SEEN
from vitlora.model.targets import SPELLINGS

CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TRAINED = "trained.safetensors"  # what `head` and `full` train, which PEFT has no form for
PEFT_PREFIX = "base_model.model."
PLAIN = re.compile(r"(base_layer\.)?(weight|bias)")  # of a whole module, which is no layer's adapter
SELECTORS = ("exclude_modules", "layers_to_transform", "layers_pattern")  # have no say where targets are full names
Names = Literal["current", "old"]
Split = tuple[str, str]


def place(name: str) -> tuple[tuple[str, ...], str]:
    """Return where a module stands and what it is: numbers in its path, and its role's first spelling."""
    endings = [spelling for row in SPELLINGS for spelling in row if f".{name}".endswith(f".{spelling}")]
    longest = max(endings, key=len, default=name.rsplit(".", 1)[-1])  # attention.output.dense, not output.dense
    role = next((row[0] for row in SPELLINGS if longest in row), longest)
    return tuple(re.findall(r"\.(\d+)(?=\.)", name)), role


class Translator:
    """Finds the module of a loaded model that a name of any version means."""

    def __init__(self, model: Any) -> None:
        self.names = {name for name, part in model.named_modules() if any(True for _ in part.parameters(recurse=False))}
        count = Counter(map(place, self.names))
        self.by_place = {place(name): name for name in self.names if count[place(name)] == 1}

    def current(self, key: str) -> tuple[Split, Split]:
        """Divide a weight's name into module and rest, as the file has it and as this model has it.

        A name that means no module of this model comes back as it is; whoever loads it will refuse it.
        """
        words = key.split(".")
        for end in range(len(words) - 1, 0, -1):
            module, rest = ".".join(words[:end]), ".".join(words[end:])
            if module in self.names:
                return (module, rest), (module, rest)
            if place(module) in self.by_place:
                return (module, rest), (self.by_place[place(module)], rest)
        return (key, ""), (key, "")


def old_names(model: Any) -> Callable[[str], str]:
    """Return the function that gives a module its name in the published checkpoints, by transformers' own table."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    table = [item for item in get_model_conversion_mapping(model, add_legacy=False) if isinstance(item, WeightRenaming)]
    back = [item.reverse_transform() for item in reversed(table)]

    def rename(name: str) -> str:
        for item in back:
            name = item.rename_source_key(name)[0]
        return name

    return rename


def is_foreign(keys: Iterable[str], model: Any) -> bool:
    """Say whether a weight's name is of another version than the loaded model's."""
    translator = Translator(model)
    pairs = [translator.current(key.removeprefix(PEFT_PREFIX)) for key in keys]
    return any(before != after for before, after in pairs)


def rename_keys(
    weights: dict[str, torch.Tensor], model: Any, names: Names, folder: Path
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Give weights the wanted names.

    Args:
        weights: By name, with PEFT's prefix or without; of any version.
        model: A loaded base model, or its skeleton, without an adapter.
        names: The model's own, or those that transformers 4 knows.
        folder: For the message.

    Returns:
        The weights by their new names; the new name of each adapted layer by the one it had.

    Raises:
        VitloraError: Two weights would have one name.
    """
    translator, back = Translator(model), old_names(model)
    renamed: dict[str, torch.Tensor] = {}
    targets: dict[str, str] = {}
    for key, weight in weights.items():
        prefix = PEFT_PREFIX if key.startswith(PEFT_PREFIX) else ""
        (before, _), (module, rest) = translator.current(key.removeprefix(prefix))
        if names == "old" and rest:
            module = _checked(back(module), module, translator)
        new = prefix + (f"{module}.{rest}" if rest else module)
        if new in renamed:
            raise VitloraError(f"{folder}: {key} and another weight both mean {new}; the rule: one name for each")
        renamed[new] = weight
        if prefix and rest and not PLAIN.fullmatch(rest):
            targets[before] = module
    return renamed, targets


def _checked(old: str, current: str, translator: Translator) -> str:
    if translator.current(f"{old}.weight")[1][0] != current:
        raise VitloraError(f"{current} has no name of its own in transformers 4; such an adapter cannot be renamed")
    return old


def rename_config(config: dict[str, Any], targets: dict[str, str]) -> dict[str, Any]:
    """Return PEFT's config with full names for all that names a layer.

    Args:
        config: adapter_config.json.
        targets: New name of each adapted layer by its old one.
    """
    renamed = {**config, "target_modules": sorted(targets.values())}
    renamed |= {key: None for key in SELECTORS if config.get(key) is not None}
    if config.get("feedforward_modules"):
        chosen = config["feedforward_modules"]
        wanted = [chosen] if isinstance(chosen, str) else chosen
        found = {new for old, new in targets.items() if any(_means(name, old) for name in wanted)}
        renamed["feedforward_modules"] = sorted(found)
    for key in ("rank_pattern", "alpha_pattern"):
        if config.get(key):
            renamed[key] = _patterns(config[key], targets)
    return renamed


def _patterns(patterns: dict[str, Any], targets: dict[str, str]) -> dict[str, Any]:
    """Spell every pattern out, layer by layer; AdaLoRA's are names of weights, such as `….query.lora_E`."""
    found: dict[str, Any] = {}
    for old, new in targets.items():
        for pattern, value in patterns.items():
            if _means(pattern, old):
                found.setdefault(new, value)  # PEFT takes the first that matches
            elif old in pattern:
                found[pattern.replace(old, new)] = value
    return found


def _means(pattern: str, name: str) -> bool:
    return re.fullmatch(rf"(.*\.)?({pattern})", name) is not None


def convert(folder: Path, out: Path, model: Any, names: Names) -> int:
    """Write an adapter folder again under other names.

    Args:
        folder: PEFT's, with our vitlora.json or without, or one of `head` or `full`.
        out: Created; must be empty.
        model: Its base model, or that model's skeleton.
        names: The model's own, or those that transformers 4 knows.

    Returns:
        How many weights have another name now.

    Raises:
        VitloraError: The folder holds no adapter, or the new one is there already.
    """
    file = next((name for name in (ADAPTER_WEIGHTS, TRAINED) if (folder / name).is_file()), None)
    if file is None:
        raise VitloraError(f"{folder} has no {ADAPTER_WEIGHTS}; the rule: a folder that PEFT or the train stage wrote")
    require_new(out)
    try:
        weights = load_file(folder / file)
        config = read_json(folder / CONFIG) if file == ADAPTER_WEIGHTS else None
    except (SafetensorError, OSError, ValueError) as error:
        raise VitloraError(f"{folder}: cannot be read: {str(error).splitlines()[0]}") from None
    renamed, targets = rename_keys(weights, model, names, folder)
    out.mkdir(parents=True, exist_ok=True)
    save_file(renamed, out / file, metadata={"format": "pt"})
    if config is not None:
        write_json(out / CONFIG, rename_config(config, targets))
    for ours in ("vitlora.json", SEEN):
        if (folder / ours).is_file():
            shutil.copyfile(folder / ours, out / ours)
    return len(renamed.keys() - weights.keys())


def require_new(out: Path) -> None:
    """Refuse a place that holds something.

    Raises:
        VitloraError: It does.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VitloraError(f"{out} is there already; name a folder that is not")


def skeleton(base: Path) -> Any:
    """Return a base model's modules without their weights, which is all that names need.

    Raises:
        VitloraError: The folder holds no model that transformers knows.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    try:
        # A number of labels, whichever: a model of timm has none of its own.
        config = AutoConfig.from_pretrained(base, num_labels=2, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    except Exception as error:  # as in load_base
        raise VitloraError(f"{base}: transformers cannot load it: {reason(error)}") from None
