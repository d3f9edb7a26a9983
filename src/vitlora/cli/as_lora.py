"""An adapter of another method written as plain LoRA, which more programs read, and what that costs."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.adapters import BUNDLE, load_adapter, load_unmerged, quietly, settle_config
from vitlora.model.base import device_of_choice
from vitlora.model.inference import score
from vitlora.model.layer_names import ADAPTER_WEIGHTS, require_new
from vitlora.model.seen import SEEN
from vitlora.storage.squares import Squares, load_split

NOISE_IMAGES, BATCH = 64, 64


def write_as_lora(folder: Path, out: Path, base: Path, rank: int, test: Path | None) -> dict[str, Any]:
    """Approximate every layer's update by the nearest matrix of a rank, keep the head, and measure the difference.

    Args:
        folder: An adapter of a method whose update PEFT can write as a matrix.
        out: Created; a whole bundle, with the comparison in its vitlora.json.
        base: Base model folder.
        rank: Of each update.
        test: A prepared split to compare on; random pictures without it.

    Returns:
        rank, images, max_logit_difference, agreement, and on a split accuracy_before and accuracy_after.

    Raises:
        VitloraError: The method has no such matrix, or the rank exceeds a layer.

    Source:
        ``peft.convert_to_lora``, by singular value decomposition.
    """
    require_new(out)
    bundle = read_json(folder / BUNDLE)
    model, labels, normalisation = load_unmerged(base, folder)
    _write(model, bundle["method"]["name"], out, base, rank)
    write_json(out / BUNDLE, bundle)
    if (folder / SEEN).is_file():
        shutil.copyfile(folder / SEEN, out / SEEN)
    squares = load_split(test) if test else _noise(labels.image_size)
    device = device_of_choice()
    scored = [score(load_adapter(base, each)[0].to(device), squares, normalisation, BATCH) for each in (folder, out)]
    report = {"rank": rank, **compare(scored[0], scored[1], squares.labels if test else None)}
    method = {**bundle["method"], "name": "lora", "settings": {"lora_alpha": rank, "r": rank}}
    write_json(out / BUNDLE, {**bundle, "method": method, "converted": {"from": bundle["method"], **report}})
    return report


def _write(model: Any, method: str, out: Path, base: Path, rank: int) -> None:
    from peft import convert_to_lora

    if not hasattr(model, "peft_config"):
        raise VitloraError(f"method {method} has no adapter to convert; the rule: one that PEFT keeps as an adapter")
    with quietly():
        try:
            config, weights = convert_to_lora(model, rank)
        except (TypeError, ValueError) as error:
            raise VitloraError(f"method {method} cannot become LoRA of rank {rank}: {_first(error)}") from None
        out.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(out)
    save_file({name: weight.contiguous() for name, weight in weights.items()}, out / ADAPTER_WEIGHTS)
    settle_config(out, base)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]


def _noise(size: int) -> Squares:
    """Return random pictures, the same each time."""
    images = np.random.default_rng(0).integers(0, 256, (NOISE_IMAGES, 3, size, size), np.uint8)
    return Squares(images, np.zeros(NOISE_IMAGES, np.int64), [""] * NOISE_IMAGES, [""] * NOISE_IMAGES)


def compare(
    before: NDArray[np.float32], after: NDArray[np.float32], labels: NDArray[np.int64] | None
) -> dict[str, float]:
    """Return how far logits (N, C) differ, the share of images given the same class, and accuracies given labels."""
    first, second = before.argmax(axis=1), after.argmax(axis=1)
    report: dict[str, float] = {
        "images": len(before),
        "max_logit_difference": float(np.abs(before - after).max()),
        "agreement": float((first == second).mean()),
    }
    if labels is not None:
        report |= {
            "accuracy_before": float((first == labels).mean()),
            "accuracy_after": float((second == labels).mean()),
        }
    return report
