"""Several adapters on one base model, by torch: the only file here that loads it, where adapters are asked for.

PEFT's own switch (``set_adapter``) wants heads of one shape and adapters of one kind in one model. Here each adapter is
a model of its own, whose weights that are equal to the first one's become the very same memory: so the base is there
once, whatever classes and methods its adapters have, and nothing is switched between two batches.
"""

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.evaluate.scores import softmax
from vitlora.serve.models import Served
from vitlora.serve.squares import square_maker

WEIGHTS = ("adapter_model.safetensors", "trained.safetensors")  # the latter of methods that PEFT has no form for


def on_one_base(base: Path, adapters: Sequence[tuple[str, Path]], pixels: int) -> list[Served]:
    """Return a model for each adapter.

    They keep no threshold of prediction sets, and their probabilities are not calibrated: both are found after training
    and stand in the exported folder only.

    Args:
        base: Base model folder.
        adapters: Name and folder of each, as stage train or `vitlora adapter` writes them.
        pixels: Most pixels of a picture.

    Raises:
        VitloraError: torch is not installed, a folder is missing, or an adapter was trained on another base.
    """
    _refuse_missing(base, [folder for _, folder in adapters])
    shared: dict[str, Any] = {}
    return [_on_base(base, name, folder, pixels, shared) for name, folder in adapters]


def _refuse_missing(base: Path, adapters: Sequence[Path]) -> None:
    """Look for packages and files before torch is imported, which takes seconds.

    Raises:
        VitloraError: One is not there.
    """
    package = next((name for name in ("torch", "peft", "transformers") if not find_spec(name)), None)
    if package:
        raise VitloraError(
            f"--adapter needs {package}, not installed here; the rule: adapters are served where the pipeline is, "
            "by `make setup` in a clone; an exported folder needs no torch"
        )
    wanted = [(base, ("config.json",)), (base, ("model.safetensors", "model.safetensors.index.json"))]
    wanted += [(folder, names) for folder in adapters for names in (("vitlora.json",), WEIGHTS)]
    for folder, names in wanted:
        if not any((folder / name).is_file() for name in names):
            option = "--base" if folder == base else "--adapter"
            raise VitloraError(
                f"{option}: {printable(str(folder))} holds no {names[0]}; `dvc repro` makes models/base and "
                "models/adapter"
            )


def _on_base(base: Path, name: str, folder: Path, pixels: int, shared: dict[str, Any]) -> Served:
    from vitlora.model.adapters import load_unmerged

    model, labels, normalisation = load_unmerged(base, folder)
    share(model, shared)
    return Served(
        name,
        "pytorch_peft",
        labels.class_names,
        labels.image_size,
        normalisation.mean,
        None,
        partial(_score, model, normalisation),
        square_maker(labels.image_size, labels.interpolation, pixels),
    )


def share(model: Any, shared: dict[str, Any]) -> None:
    """Let a model use the weights that another one has already, where they are equal to the bit.

    Args:
        model: Its equal weights are let go.
        shared: Weights by name, to which this model's others are added.
    """
    for place, weight in model.named_parameters():
        # A base weight has the same name with an adapter and without, but for what PEFT puts in front and around it.
        name = place.removeprefix("base_model.model.").replace(".base_layer.", ".")
        other = shared.setdefault(name, weight)
        if other is not weight and other.shape == weight.shape and bool((other == weight).all()):
            weight.data = other.data


def _score(model: Any, normalisation: Any, squares: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return probabilities, float32 (N, C), of uint8 (N, 3, size, size)."""
    import torch

    with torch.inference_mode():
        logits = model(pixel_values=normalisation(torch.from_numpy(squares))).logits
    return softmax(logits.float().numpy())
