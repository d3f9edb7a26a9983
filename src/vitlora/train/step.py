"""How a step runs on the device at hand: fused, compiled or eager, and in how large a micro-batch."""

from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel

from vitlora.core.errors import VitloraError
from vitlora.model.base import Normalisation
from vitlora.model.fused.choose import try_to_fuse
from vitlora.model.mixture import is_mixture
from vitlora.processes.peers import ALONE, Peers
from vitlora.train.dropout import draw_at_once
from vitlora.train.params import Train
from vitlora.train.positions import resample_by_products

# What a step keeps for its backward pass, measured on ViT-B/16 on an H100: eager autocast 55.8 MB an image, which is 31
# bytes for each token, layer and unit of width; fused 20.
ACTIVATION_BYTES = 34


SPARE = 0.8  # share of the free memory that activations may take


@dataclass(frozen=True)
class Way:
    """How the step runs.

    Attributes:
        step: `fused`, `compiled` or `eager`.
        note: Why it is not the one asked for; empty if it is.
        captured: Whether it is to be captured as a CUDA graph.
    """

    step: str
    note: str = ""
    captured: bool = False

    @property
    def takes_bytes(self) -> bool:
        """Whether the model normalises by itself."""
        return self.step.startswith("fused")


def precision(train: Train) -> str:
    """Return what the device will compute in: `fp16`, `bf16` or `fp32`.

    fp16 needs a GPU; bf16 a GPU or a processor with bf16 instructions.
    """
    if torch.cuda.is_available():
        return "fp16" if train.fp16 else "bf16" if train.bf16 else "fp32"
    return "bf16" if train.bf16 and torch.cpu._is_avx512_bf16_supported() else "fp32"


def install(model: Any, train: Train, kind: str, normalisation: Normalisation, image_size: int) -> Way:
    """Make a model on its device train the wanted way, or the next best.

    Args:
        model: An image classifier or a PEFT model of one.
        train: The Trainer's settings.
        kind: Precision: `fp16`, `bf16` or `fp32`.
        normalisation: Of the base model.
        image_size: px.

    Raises:
        VitloraError: ``activation_checkpointing`` is asked for, and the base model can't.
    """
    way = _install(model, train, kind, normalisation, image_size)
    if not way.takes_bytes and next(model.parameters()).device.type == "cuda":
        resample_by_products(model, image_size)
    return way


def _install(model: Any, train: Train, kind: str, normalisation: Normalisation, image_size: int) -> Way:
    if train.activation_checkpointing:
        recompute(model)
    if next(model.parameters()).device.type != "cuda":
        draw_at_once(model)
        return Way("eager")  # all else is written for GPUs
    wanted, captured = train.step, train.cuda_graph
    if train.load_in_4bit:
        return Way("eager", "a base in four bits is unpacked layer by layer" if wanted != "eager" or captured else "")
    if train.activation_checkpointing:  # what was drawn at random is put back from the processor, within the step
        other = wanted != "eager" or captured
        return Way("eager", "activation_checkpointing runs blocks a second time, one by one" if other else "")
    if wanted == "eager":
        return Way("eager", captured=captured)
    if is_mixture(model):
        return Way("eager", "X-LoRA runs every layer twice, with other scalings each time", captured)
    reason = try_to_fuse(model, kind, normalisation, image_size) if wanted == "fused" else ""
    if wanted == "fused" and not reason:
        return Way("fused", captured=captured)
    if captured and wanted == "fused":
        return Way("eager", reason, captured)
    for layer in blocks(model):
        layer.compile(dynamic=False)  # the whole model in one graph was slower than eager
    return Way("compiled", reason, captured)


def recompute(model: Any) -> None:
    """Let a model keep the inputs of its blocks alone, and run each again in the backward pass; dropout draws the same.

    Args:
        model: An image classifier or a PEFT model of one, but not of X-LoRA.

    Raises:
        VitloraError: Its architecture is not made for it, or holds batch norms, which would count each batch twice.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    norms = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in base.modules())
    try:
        if norms:
            raise ValueError("its batch norms would count each batch twice")
        named = "activation_checkpointing_enable", "gradient_checkpointing_enable"  # transformers 5.17 has the second
        enable = next(getattr(base, name) for name in named if hasattr(base, name))
        enable({"use_reentrant": False})
    except ValueError as error:
        why = str(error).split(". ")[0].rstrip(".")
        raise VitloraError(
            f"train.activation_checkpointing: got true; the rule: false with {base.config.model_type}: {why}"
        ) from None


def blocks(model: Any) -> list[Any]:
    """Return the repeated blocks: the members of the longest list, or sequence, of modules of one kind."""
    kinds = torch.nn.ModuleList, torch.nn.Sequential
    lists = [list(module) for module in model.modules() if isinstance(module, kinds)]
    return max((blocks for blocks in lists if len({type(block) for block in blocks}) == 1), key=len, default=[])


def micro_batch(
    train: Train, config: Any, image_size: int, at_most: int | None = None, peers: Peers = ALONE
) -> tuple[int, int]:
    """Return the images of one micro-batch and how many are accumulated for a step.

    With ``train.join_micro_batches`` they are joined on a GPU, as far as its free memory holds the activations.

    Args:
        train: The Trainer's settings.
        config: Of the base model.
        image_size: px.
        at_most: Images of a micro-batch, where more have turned out too many; micro-batches fill the step evenly.
        peers: The processes that share each step; they all decide alike.
    """
    apart = train.per_device_train_batch_size, train.gradient_accumulation_steps
    if at_most:
        images = next(count for count in range(at_most, 0, -1) if apart[0] * apart[1] % count == 0)
        return images, apart[0] * apart[1] // images
    patch, width, layers = (getattr(config, name, None) for name in ("patch_size", "hidden_size", "num_hidden_layers"))
    if not (train.join_micro_batches and torch.cuda.is_available() and patch and width and layers):
        return apart
    an_image = ((image_size // patch) ** 2 + 1) * width * layers * ACTIVATION_BYTES
    room = SPARE * torch.cuda.mem_get_info()[0]
    for count in (count for count in range(1, apart[1]) if apart[1] % count == 0):
        images = apart[0] * (apart[1] // count)
        if not peers.any(-(-images // peers.count) * an_image >= room):
            return images, count
    return apart
