"""Put a PEFT adapter on a base model, and keep it in a folder that says everything needed to use it."""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.boft import layer as boft
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, sha256_file, write_json
from vitlora.model.base import Normalisation, load_base
from vitlora.model.four_bits import PACKAGE, is_in_four_bits, round_weights
from vitlora.model.layer_names import ADAPTER_WEIGHTS, TRAINED, convert, is_foreign, rename_keys
from vitlora.model.methods import configure, layer_norms, ordered
from vitlora.model.mixture import Expert, expert_layers, is_mixture, load_mixture, merge, mix, save_mixture
from vitlora.model.params import MIXTURES, MOVING, RANKS, WITHOUT_ADAPTER, Lora, Merge, XLora
from vitlora.model.targets import means_fused, resolve_pattern, resolve_targets
from vitlora.model.timm_bases import libraries, refuse_passed_by, timm_heads
from vitlora.storage.labels import Labels

BUNDLE = "vitlora.json"
HEAD = "classifier"
IN_FOUR_BITS = "load_in_4bit"  # of the base, in the bundle
BASE_SOURCE = "source.json"  # in the base model's folder, by download
VERSIONS = ("peft", "torch", "transformers")


@dataclass(frozen=True)
class Adapted:
    """A model and what is known of it: full names of the adapted layers, trainable and total parameter counts."""

    model: Any
    adapted_modules: list[str]
    trainable: int
    total: int


@contextmanager
def quietly() -> Iterator[None]:
    """Keep back what PEFT says of things that are as they should be, and say the rest in lines of ours."""
    with warnings.catch_warnings(record=True) as said:
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        warnings.filterwarnings("ignore", message="Unsupported layer type .*LayerNorm")  # which ln_tuning is made for
        warnings.filterwarnings("ignore", message="The following rank_pattern keys did not match")  # AdaLoRA's own form
        warnings.filterwarnings("ignore", message="Sparse invariant checks are implicitly disabled")  # SHiRA's weights
        warnings.filterwarnings("ignore", message=r"(?s).*LoRA tensor\(s\) have invalid shape")  # AdaLoRA's empty ranks
        yield
    for line in dict.fromkeys(str(warning.message).splitlines()[0] for warning in said):
        print(f"note: {line}")


def _no_extension() -> None:
    """Stand in for BOFT's CUDA extension, which PEFT would compile, with pages of errors where that fails.

    It also decides how many factors there are, so that an adapter of one machine would not load on another.
    """


boft.get_fbd_cuda = _no_extension


def add_adapter(
    model: Any, fresh: Sequence[str], lora: Lora, total_steps: int, experts: Sequence[Expert] = ()
) -> Adapted:
    """Make a base model ready for the chosen method.

    Args:
        model: As ``load_base`` gives it.
        fresh: Names of its parameters that start out random; every one must become trainable.
        lora: Method, its keys, and where it goes.
        total_steps: Optimiser steps of the whole run.
        experts: What `xlora` and `merge` are made of.

    Raises:
        VitloraError: A target or module to save names nothing, the head would stay random, the rank exceeds a layer, or
            PEFT refuses the method's keys for this model.
    """
    heads = _check_heads(model, fresh, lora.modules_to_save)
    if lora.method in WITHOUT_ADAPTER:
        return _without_adapter(model, heads if lora.method == "head" else [])
    if lora.method in MIXTURES:
        return _mixture(model, lora, heads, experts)
    targets = _targets(model, lora, heads)
    with quietly():
        try:
            peft_model = get_peft_model(model, configure(lora, targets, heads, total_steps))
        except (ValueError, AssertionError, RuntimeError) as error:
            raise VitloraError(
                f"lora.method: {lora.method} cannot adapt this model so: {str(error).splitlines()[0]}"
            ) from None
    peft_model.initial_lora = _initial(peft_model) if lora.method in MOVING else None
    adapted = [name for name, module in peft_model.named_modules() if isinstance(module, BaseTunerLayer)]
    assert len(adapted) == len(targets), "PEFT adapted other layers than those resolved"
    trainable, total = peft_model.get_nb_trainable_parameters()
    return Adapted(peft_model, targets, trainable, total)


def _mixture(model: Any, lora: Lora, heads: list[str], experts: Sequence[Expert]) -> Adapted:
    with quietly():
        if isinstance(lora.own, XLora):
            peft_model = mix(model, experts, lora.own, heads)
            layers = expert_layers(peft_model)
        else:
            assert isinstance(lora.own, Merge)
            peft_model = merge(model, experts, lora.own, heads)
            # Not the config's target_modules: PEFT shortens twenty and more to endings such as q_proj.
            adapted = [name for name, module in peft_model.named_modules() if isinstance(module, BaseTunerLayer)]
            layers = [name.removeprefix("base_model.model.") for name in adapted]
    peft_model.initial_lora = None
    trainable, total = peft_model.get_nb_trainable_parameters()
    return Adapted(peft_model, layers, trainable, total)


def _initial(peft_model: Any) -> dict[str, torch.Tensor]:
    """Return what the adapter took out of the base weights, under the names it is saved by."""
    state = get_peft_model_state_dict(peft_model)
    return {name: weight.detach().cpu().clone() for name, weight in state.items() if ".lora_" in name}


def _targets(model: Any, lora: Lora, heads: list[str]) -> list[str]:
    if lora.method == "ln_tuning":
        return layer_norms(model)
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    targets = resolve_targets(lora.target_modules, linear, heads, lora.exclude_modules, lora.layers_to_transform)
    if means_fused(lora.target_modules, targets):
        kinds = ", ".join(sorted({name.rsplit(".", 2)[-2] + ".qkv" for name in targets if name.endswith(".qkv")}))
        print(f"note: this model has query, key and value in one layer, {kinds}: the adapter goes to all three")
    refuse_passed_by(model, targets)
    if key := RANKS.get(lora.method):
        own = lora.own.model_dump()
        pattern = resolve_pattern(own.get("rank_pattern", {}), targets, "rank_pattern")
        for name in targets:
            rank, most = (
                pattern.get(name, own.get(key, lora.r)),
                min(linear[name].in_features, linear[name].out_features),
            )
            if rank > most:
                where = "options.rank_pattern" if name in pattern else f"options.{key}" if key in own else key
                raise VitloraError(f"lora.{where}: got {rank}; the rule: no larger than {name}, {most}")
    return targets


def _without_adapter(model: Any, heads: list[str]) -> Adapted:
    """Train the heads alone, or everything where there are none."""
    names = [name for name, _ in model.named_parameters()]
    chosen = {name for name in names if not heads or any(f".{head}." in f".{name}" for head in heads)}
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in chosen)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Adapted(model, [], trainable, sum(weight.numel() for weight in model.parameters()))


def _check_heads(model: Any, fresh: Sequence[str], modules_to_save: Sequence[str]) -> list[str]:
    """Return the full names of the modules to train in full."""
    names = [name for name, _ in model.named_modules() if name]
    heads: dict[str, str] = {}
    for wanted in modules_to_save:
        found = head_modules(model, wanted)
        if not found:
            tops = sorted({name.split(".")[0] for name in names})
            raise VitloraError(
                f"lora.modules_to_save: got {wanted}, which names no module; top level: {', '.join(tops)}"
            )
        for name in found:
            other = next(
                (head for head in heads if f"{name}.".startswith(f"{head}.") or head.startswith(f"{name}.")), None
            )
            if other:
                raise VitloraError(
                    f"lora.modules_to_save: got {heads[other]} and {wanted}, where {max(name, other, key=len)} lies in "
                    f"{min(name, other, key=len)}; the rule: name each module once"
                )
            heads[name] = wanted
    idle = [name for name in fresh if not any(name.startswith(f"{head}.") for head in heads)]
    if idle:
        new = sorted({name.rsplit(".", 1)[0] for name in idle})
        raise VitloraError(
            f"lora.modules_to_save: got {', '.join(modules_to_save)}; the rule: {', '.join(new)} is new and must be "
            "among them, or it would stay random"
        )
    return list(heads)


def head_modules(model: Any, wanted: str) -> list[str]:
    """Return the full names of the modules that an entry of ``modules_to_save`` means.

    `classifier` is transformers' name for the new head; a model of timm has another one for the same thing.
    """
    names = [name for name, _ in model.named_modules() if name]
    found = [name for name in names if name == wanted or name.endswith("." + wanted)]
    return found or (timm_heads(model) if wanted == HEAD else [])


def save_adapter(
    model: Any,
    folder: Path,
    base: Path,
    labels: Labels,
    normalisation: Normalisation,
    method: dict[str, Any],
    metrics: Mapping[str, Any] | None = None,
) -> None:
    """Write an adapter folder, the same bytes for the same weights, with labels and preprocessing beside it.

    It is PEFT's, but for `head` and `full`, whose trained weights stand under their own names.

    Args:
        model: Trained.
        folder: Created.
        base: Base model folder.
        labels: Class names, image size and filter.
        normalisation: Of the base model.
        method: Its `name`, `settings`, `layers` and `modules_to_save`, for people and for the model card.
        metrics: Scores on val of the epoch that is kept.
    """
    if is_mixture(model):
        save_mixture(model, folder, base)
    elif isinstance(model, PeftModel):
        _save_peft(model, folder, base)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        save_file({name: weight.detach().cpu().contiguous() for name, weight in trained.items()}, folder / TRAINED)
    source, config = base / BASE_SOURCE, read_json(base / "config.json")
    kind = {key: config[key] for key in ("model_type", "architecture") if key in config}  # the latter is timm's
    packed = is_in_four_bits(model)
    bundle = {
        "class_names": labels.class_names,
        "image_size": labels.image_size,
        "interpolation": labels.interpolation,
        "image_mean": normalisation.mean,
        "image_std": normalisation.std,
        "method": method,
        "metrics": dict(metrics or {}),
        "versions": {
            name: version(name) for name in (*VERSIONS, *libraries(config["model_type"]), *packed * [PACKAGE])
        },
        "base": {
            **({IN_FOUR_BITS: True} if packed else {}),
            **(read_json(source) if source.is_file() else {}),
            **kind,
            "sha256": {path.name: sha256_file(path) for path in sorted(base.glob("*.safetensors"))},
        },
    }
    write_json(folder / BUNDLE, bundle)


def _save_peft(model: Any, folder: Path, base: Path) -> None:
    with quietly():
        model.save_pretrained(folder, safe_serialization=True)
    if model.initial_lora:
        _undo_move(model.initial_lora, folder)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's stub of a model card; export writes a real one
    settle_config(folder, base)


def settle_config(folder: Path, base: Path) -> None:
    """Make adapter_config.json the same bytes each time, and its path to the base a relative one."""
    config = ordered(read_json(folder / "adapter_config.json"))
    config["base_model_name_or_path"] = Path(os.path.relpath(base)).as_posix()
    write_json(folder / "adapter_config.json", config)


def _undo_move(initial: dict[str, torch.Tensor], folder: Path) -> None:
    """Turn an adapter on moved base weights into one of twice the rank on the weights as they were.

    With W - s B0 A0 as base, s B A on it is s [B, -B0] [A; A0] on W; alpha doubles with the rank, so s stays.
    """
    weights = load_file(folder / ADAPTER_WEIGHTS)
    for name, first in initial.items():
        is_a = ".lora_A." in name
        weights[name] = torch.cat([weights[name], first if is_a else -first], dim=0 if is_a else 1)
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = read_json(folder / "adapter_config.json")
    config |= {"r": 2 * config["r"], "lora_alpha": 2 * config["lora_alpha"], "init_lora_weights": True}
    write_json(folder / "adapter_config.json", config)


def load_adapter(base: Path, folder: Path) -> tuple[Any, Labels, Normalisation]:
    """Load base and adapter from nothing but their two folders, and merge them.

    An X-LoRA mixture is no one set of weights, since its gate weighs the adapters for every token anew: it comes as
    PEFT's model, which is called as the others are. See ``is_mixture``.

    Returns:
        The merged classifier in float32 on the CPU, in eval mode; its labels; its normalisation.

    Raises:
        VitloraError: The adapter was trained on other base weights, lacks some of its own, holds one too many, or is no
            safetensors.
    """
    model, labels, normalisation = load_unmerged(base, folder)
    if isinstance(model, PeftModel) and not is_mixture(model):
        with quietly():
            model = model.merge_and_unload(safe_merge=True)
        _unwrap_heads(model)
    return model.eval(), labels, normalisation


def _unwrap_heads(model: Any) -> None:
    """Put the trained heads in the place of PEFT's wrappers: ln_tuning's merge leaves these, whose names none knows."""
    wrapped = [(name, part) for name, part in model.named_modules() if isinstance(part, ModulesToSaveWrapper)]
    for name, part in wrapped:
        model.set_submodule(name, part.modules_to_save[part.active_adapters[0]])


def load_unmerged(base: Path, folder: Path) -> tuple[Any, Labels, Normalisation]:
    """Load base and adapter as ``load_adapter`` does, but leave them apart, where PEFT has a form for that."""
    if not any(
        (folder / name).is_file() for name in (ADAPTER_WEIGHTS, TRAINED)
    ):  # PEFT would look for pickled ones, then on the Hub
        raise VitloraError(f"{folder} has no {ADAPTER_WEIGHTS}; run the train stage again")
    bundle = json.loads((folder / BUNDLE).read_text(encoding="utf-8"))
    found = {path.name: sha256_file(path) for path in sorted(base.glob("*.safetensors"))}
    if found != bundle["base"]["sha256"]:
        raise VitloraError(f"{folder}: trained on other weights than {base} holds; run the train stage again")
    labels = Labels(bundle["class_names"], bundle["image_size"], bundle["interpolation"])
    model, fresh = load_base(base, labels.class_names, labels.image_size)
    if bundle["base"].get(IN_FOUR_BITS):
        round_weights(
            model, [name for wanted in bundle["method"]["modules_to_save"] for name in head_modules(model, wanted)]
        )
    try:
        if (folder / TRAINED).is_file():
            _overlay(model, fresh, bundle["method"], folder)
        elif bundle["method"].get("name") == "xlora":
            with quietly():
                model = load_mixture(model, folder, fresh)
        else:
            model = _load_peft(model, base, folder)
    except (ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise VitloraError(f"{folder}: does not fit {base}: {str(error).splitlines()[0]}") from None
    return model.eval(), labels, Normalisation(bundle["image_mean"], bundle["image_std"])


def _overlay(model: Any, fresh: Sequence[str], method: dict[str, Any], folder: Path) -> None:
    trained, _ = rename_keys(load_file(folder / TRAINED), model, "current", folder)
    heads = [name for wanted in method.get("modules_to_save", []) for name in head_modules(model, wanted)]
    known = dict(model.named_parameters())
    expected = {n for n in known if n in fresh or any(f".{head}." in f".{n}" for head in heads)}
    _require_same(trained, known if method.get("name") == "full" else expected, folder)
    odd = [name for name, weight in trained.items() if known[name].shape != weight.shape]
    if odd:
        raise VitloraError(f"{folder}: {odd[0]} does not fit the base model; run the train stage again")
    model.load_state_dict(trained, strict=False)


def _load_peft(model: Any, base: Path, folder: Path) -> Any:
    """Do as ``PeftModel.from_pretrained`` does, which only warns of what is missing and is silent on what is odd."""
    with tempfile.TemporaryDirectory() as scratch:
        place = folder
        if is_foreign(_keys(folder), model):
            place = Path(scratch) / "renamed"
            convert(folder, place, model, "current")
        logging.getLogger("peft").setLevel(logging.ERROR)
        with quietly():
            config = PeftConfig.from_pretrained(place)
            config.inference_mode = True
            peft_model = PeftModel(model, config)
            # Left to itself it would look for the base model's configuration on the Hub, for the sake of vocabularies.
            _require_same(_keys(place), get_peft_model_state_dict(peft_model, save_embedding_layers=False), folder)
            peft_model.load_adapter(place, "default", torch_device="cpu")
    return peft_model


def _keys(folder: Path) -> list[str]:
    with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
        return list(file.keys())


def _require_same(given: Iterable[str], expected: Iterable[str], folder: Path) -> None:
    missing, odd = sorted(set(expected) - set(given)), sorted(set(given) - set(expected))
    for names, what in ((missing, "is missing"), (odd, "belongs to no layer of the adapted model")):
        if names:
            more = f", as are {len(names) - 1} more" if len(names) > 1 and names is missing else ""
            raise VitloraError(f"{folder}: does not fit the base model: {names[0]} {what}{more}; train it again")
