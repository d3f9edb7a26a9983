"""Several trained LoRA adapters on one base model: mixed token by token by X-LoRA's gate, or merged into one adapter.

X-LoRA is PEFT's own, which is written for language models: see ``Inner`` and ``PictureGate`` for what a picture needs.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import (
    LoraConfig,
    XLoraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.tuners.lora import LoraLayer
from peft.tuners.xlora.classifier import XLoraClassifier
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.methods import ordered
from vitlora.model.params import Merge, XLora

State = dict[str, Tensor]
GATE = "internal_xlora_classifier"
PAIR = re.compile(r"\.lora_[AB]\.")  # `.lora_` alone is in names such as `base_model.lora_model`


@dataclass(frozen=True)
class Expert:
    """A trained adapter of plain LoRA.

    Attributes:
        name: As the parameters have it.
        folder: Where its files are.
        class_names: What its head tells apart; position = row.
        config: PEFT's, without its head.
        weights: All that it has saved, its head's too, under PEFT's names.
    """

    name: str
    folder: Path
    class_names: list[str]
    config: Any
    weights: State

    @property
    def lora(self) -> State:
        """The low-rank pairs alone."""
        return {name: weight for name, weight in self.weights.items() if PAIR.search(name)}


class Inner(torch.nn.Module):
    """A classifier as the part `model` of a module, which is where PEFT's X-LoRA looks for the adapters' layers."""

    base_model_prefix = "model"  # as transformers' models name theirs

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """Run the classifier on float (N, 3, H, W); its output holds logits (N, C)."""
        return self.model(pixel_values=pixel_values, labels=labels, **kwargs)


class PictureGate(XLoraClassifier):  # type: ignore[misc]  # peft has no type information
    """PEFT's gate, which looks for the number of tokens in `input_ids`; a picture's show in the hidden states alone."""

    def make_dummy_scalings(self, pixel_values: Tensor, **kwargs: Any) -> Tensor:
        """Return the scalings of the first pass, (batch, 1, layers, adapters): the same for every token."""
        images = pixel_values.shape[0]  # not len, which the ONNX exporter takes for a constant
        scalings: Tensor = super().make_dummy_scalings(inputs_embeds=pixel_values.new_empty(images, 1))
        return scalings

    def forward(self, result: Any, **kwargs: Any) -> Tensor:
        """Return scalings, (batch, tokens, layers, adapters), from the first pass's hidden states."""
        # The first pass kept no gradients. torch 2.14 keeps none of its half-precision weights for the second either; a
        # torch that does would cut the head off.
        torch.clear_autocast_cache()
        scalings: Tensor = super().forward(result, inputs_embeds=result.hidden_states[-1])
        return scalings


def is_mixture(model: Any) -> bool:
    """Tell whether a model is mixed by a gate: its layers run twice an image, and it is no one set of weights."""
    return hasattr(getattr(model, "base_model", None), GATE)


@torch.no_grad()
def start_head(model: Any, experts: Sequence[Expert]) -> None:
    """Begin the new head's rows as the mean of the experts' for the same class; others stay as they are."""
    names = [model.config.id2label[row] for row in range(len(model.config.id2label))]
    for name, weight in model.named_parameters():
        known = [(expert, expert.weights.get(f"base_model.model.{name}")) for expert in experts]
        for row, class_name in enumerate(names):
            rows = [
                saved[expert.class_names.index(class_name)]
                for expert, saved in known
                if saved is not None and len(saved) == len(expert.class_names) and class_name in expert.class_names
            ]
            if rows:
                weight[row] = torch.stack(rows).mean(0)


def mix(model: Any, experts: Sequence[Expert], options: XLora, heads: Sequence[str]) -> Any:
    """Put experts and a fresh gate on a base model; gate and heads train, and experts where they are asked to.

    Args:
        model: As ``load_base`` gives it.
        experts: Two or more.
        options: Of the method.
        heads: Modules to train in full.

    Returns:
        PEFT's model.

    Raises:
        VitloraError: X-LoRA can't run on this model, or an expert has other layers.
    """
    hidden = getattr(model.config, "hidden_size", None)
    if hidden is None:
        raise VitloraError(
            f"lora.method: xlora cannot mix these adapters on {model.config.model_type}: its config has no "
            "hidden_size, which the gate needs; use method merge"
        )
    start_head(model, experts)
    with tempfile.TemporaryDirectory() as place:
        for number, expert in enumerate(experts):
            config = expert.config
            if not options.use_trainable_adapters:
                config.lora_dropout = 0.0  # nothing of it is trained
            _write(Path(place, str(number)), config, expert.lora)
        adapters = {str(number): str(Path(place, str(number))) for number in range(len(experts))}
        keys = options.model_dump(exclude={"adapters"})
        mixed = _build(model, XLoraConfig(hidden_size=hidden, adapters=adapters, **keys))
    for name, weight in mixed.named_parameters():
        if any(f".{head}." in name for head in heads):
            weight.requires_grad_(True)
    return mixed


def _build(model: Any, config: Any) -> Any:
    try:
        _refuse_foreign(model, config.adapters.values())
        mixed = get_peft_model(Inner(model), config)
        _check_experts(mixed, config.adapters)
        tuner = mixed.base_model
        gate = getattr(tuner, GATE)
        device = next(gate.parameters()).device
        setattr(tuner, GATE, PictureGate(model, config, gate.n_classes, gate.n_layers, device))
        side = getattr(model.config, "image_size", 224)
        with torch.no_grad():  # windows and convolutions, whose tokens are none of the gate's, show here
            mixed.eval()(pixel_values=torch.zeros(1, 3, side, side))
    except (ValueError, KeyError, AttributeError, TypeError, RuntimeError) as error:
        raise VitloraError(
            f"lora.method: xlora cannot mix these adapters on {model.config.model_type}: "
            f"{str(error).splitlines()[0]}; use method merge"
        ) from None
    return mixed


def _refuse_foreign(model: Any, folders: Iterable[str]) -> None:
    layers = dict(model.named_modules())
    for folder in folders:
        for key in load_file(Path(folder) / SAFETENSORS_WEIGHTS_NAME):
            match = re.fullmatch(r"base_model\.model\.(.*)\.lora_[AB]\.weight", key)
            if not match or match[1] not in layers:
                raise ValueError(f"{key} is not of this model")


def _check_experts(mixed: Any, adapters: Mapping[str, str]) -> None:
    """Look for weights that PEFT has passed over."""
    for name, folder in adapters.items():
        wanted, given = _of_expert(mixed, name).keys(), load_file(Path(folder) / SAFETENSORS_WEIGHTS_NAME).keys()
        if wanted != given:
            raise ValueError(f"adapter {name} lacks or leaves over {min(wanted ^ given)}")


def _of_expert(mixed: Any, name: str) -> State:
    """Return an expert's weights under the names that an adapter of its own has them by."""
    pattern = re.compile(rf"model\.(.*\.lora_[AB])\.{name}\.weight")
    matches = ((pattern.fullmatch(key), weight) for key, weight in mixed.base_model.lora_model.named_parameters())
    return {f"base_model.{match[1]}.weight": weight for match, weight in matches if match}


def expert_layers(mixed: Any) -> list[str]:
    """Return the full names of the adapted layers in the base model."""
    inner = mixed.base_model.lora_model.model.model
    return [name for name, module in inner.named_modules() if isinstance(module, LoraLayer)]


def save_mixture(mixed: Any, folder: Path, base: Path) -> None:
    """Write gate and head, and a folder in PEFT's form for each expert: all that loading needs beside the base."""
    tuner, path = mixed.base_model, Path(os.path.relpath(base)).as_posix()
    for name in tuner.xlora_config.adapters:
        config = tuner.lora_model.peft_config[name]
        config.base_model_name_or_path = path
        _write(folder / name, config, _of_expert(mixed, name))
    trained = {key: weight for key, weight in mixed.named_parameters() if weight.requires_grad and not PAIR.search(key)}
    tuner.xlora_config.adapters = {name: name for name in tuner.xlora_config.adapters}
    tuner.xlora_config.base_model_name_or_path = path
    _write(folder, tuner.xlora_config, trained)


def _write(folder: Path, config: Any, weights: State) -> None:
    config.save_pretrained(folder)
    write_json(folder / CONFIG_NAME, ordered(read_json(folder / CONFIG_NAME)))
    state = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(state, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def load_mixture(model: Any, folder: Path, fresh: Sequence[str]) -> Any:
    """Put a saved mixture on a base model.

    Args:
        model: As ``load_base`` gives it.
        folder: That ``save_mixture`` has written.
        fresh: Names of the model's parameters that the folder must bring.

    Raises:
        VitloraError: The folder's files don't fit the model or each other.
    """
    try:
        config = XLoraConfig.from_pretrained(folder)
        config.base_model_name_or_path = None  # PEFT warns if it is another name for the base
        trained = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        config.adapters = {name: str(folder / Path(name).name) for name in config.adapters}
        missing = [name for name, place in config.adapters.items() if not _is_there(Path(place))]
        if missing:  # PEFT would look for pickled ones, then on the Hub
            raise VitloraError(f"{folder / missing[0]}: no adapter in safetensors; run the train stage again")
        mixed = _build(model, config)
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise VitloraError(f"{folder}: cannot be read: {str(error).splitlines()[0]}") from None
    known = dict(mixed.named_parameters())
    due = {name for name in known if GATE in name or name.removeprefix("base_model.lora_model.model.model.") in fresh}
    odd = [name for name, weight in trained.items() if name not in known or known[name].shape != weight.shape]
    odd += sorted(due - trained.keys())
    if odd:
        raise VitloraError(f"{folder}: {odd[0]} is missing or does not fit the base model; run the train stage again")
    mixed.load_state_dict(trained, strict=False)
    return mixed.eval()


def _is_there(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME))


@torch.no_grad()
def mean_scalings(mixed: Any, batches: Iterator[Tensor]) -> Tensor:
    """Return how much of each adapter the gate lets in, after top-k, as a mean over all tokens of all images.

    Args:
        mixed: The model.
        batches: pixel_values.

    Returns:
        float32 (layers, adapters), in the order of ``expert_layers``.
    """
    tuner, sums, count = mixed.eval().base_model, [], 0
    layers = [module.forward.__self__ for module in tuner.modules() if isinstance(module, LoraLayer)]
    for pixel_values in batches:
        mixed(pixel_values=pixel_values)
        scalings = tuner.get_latest_scalings()
        by_layer = [layer.get_maybe_topk_scalings(scalings).mean(1).sum(0) for layer in layers]
        sums.append(torch.stack(by_layer))
        count += len(pixel_values)
    mean: Tensor = torch.stack(sums).sum(0).float().cpu() / count
    return mean


def merge(model: Any, experts: Sequence[Expert], options: Merge, heads: Sequence[str]) -> Any:
    """Make one adapter of several and put it on the base model; only the heads train.

    DARE prunes at random, with torch's generator, which training has seeded.

    Args:
        model: As ``load_base`` gives it.
        experts: One or more.
        options: Of the method.
        heads: Modules to train in full.

    Returns:
        PEFT's model with one plain LoRA adapter.

    Raises:
        VitloraError: An expert has other layers than the model, or PEFT refuses to combine them so.
    """
    start_head(model, experts)
    try:
        config, weights = _combine(model, experts, options)
        merged = get_peft_model(model, LoraConfig(**config, lora_dropout=0.0, modules_to_save=list(heads)))
        _set(merged, {**get_peft_model_state_dict(merged), **weights}, "default")
    except (ValueError, KeyError, RuntimeError) as error:
        raise VitloraError(f"lora.method: merge cannot combine so: {str(error).splitlines()[0]}") from None
    for name, weight in merged.named_parameters():
        if PAIR.search(name):
            weight.requires_grad_(False)
    return merged


def _combine(model: Any, experts: Sequence[Expert], options: Merge) -> tuple[dict[str, Any], State]:
    """Return the combined adapter's settings and weights, and leave the model as it was."""
    # A bare number would be taken for a layer's by PEFT, which leaves out what is named after another adapter.
    names = [f"expert{number}" for number in range(len(experts))]
    peft_model = get_peft_model(model, experts[0].config, adapter_name=names[0])
    for name, expert in zip(names, experts, strict=True):
        if name != names[0]:
            peft_model.add_adapter(name, expert.config)
        _set(peft_model, expert.lora, name)
        # The layers know their scale by now. PEFT would make the combined one's sqrt(r) instead of 1.
        peft_model.peft_config[name].use_rslora = False
    weights = options.weights or [1 / len(experts)] * len(experts)
    keys = {"combination_type": options.combination_type, "density": options.density, "svd_rank": options.svd_rank}
    peft_model.add_weighted_adapter(names, weights, "combined", **keys)
    state = get_peft_model_state_dict(peft_model, adapter_name="combined")
    combined = peft_model.peft_config["combined"]
    layers = [key for key, module in model.named_modules() if isinstance(module, LoraLayer)]
    assert len(state) == 2 * len(layers), "PEFT has left out a part"
    for name, weight in state.items():  # also where the rank asked for is more than a layer has
        if combined.r not in weight.shape:
            raise ValueError(f"svd_rank {combined.r} is more than {name} has")
    peft_model.unload()
    return {"r": combined.r, "lora_alpha": combined.r, "target_modules": layers}, dict(state)


def _set(peft_model: Any, weights: State, name: str) -> None:
    result = set_peft_model_state_dict(peft_model, weights, adapter_name=name)
    missing = [key for key in result.missing_keys if re.search(rf"\.lora_[AB]\.{name}\.weight$", key)]
    odd = [*result.unexpected_keys, *missing]
    if odd:
        raise ValueError(f"{odd[0]} is missing from an adapter, or not of this model")
