"""Learning rates that differ from layer to layer, as groups of torch's optimiser."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vitlora.core.errors import VitloraError
from vitlora.train.params import Train


def factors(model: Any, blocks: Sequence[torch.nn.Module], head: Sequence[str], train: Train) -> dict[int, float]:
    """Return what each trained parameter's learning rate is multiplied by, by its id.

    Args:
        model: With adapters or not.
        blocks: Of the backbone, from the first.
        head: Names of the head's parameters in the base model.
        train: The section. The last block has the factor 1, as have norms behind it; each block has ``layer_decay``
            times that of the block above it, and embeddings that of one more below; the head has a rate of its own.

    Raises:
        VitloraError: ``layer_decay`` is asked for, and the blocks are not one row, as in ConvNeXt and Swin.
    """
    alike = sum(type(module) is type(blocks[0]) for module in model.modules()) if blocks else -1
    if train.layer_decay < 1 and alike != len(blocks):  # others of the kind stand in other stages
        raise VitloraError(
            f"train.layer_decay: got {train.layer_decay}; the rule: 1.0 with this base model, whose blocks form "
            "no single row"
        )
    depth = {id(weight): number for number, block in enumerate(blocks, 1) for weight in block.parameters()}
    of_head = 1.0 if train.head_learning_rate is None else train.head_learning_rate / train.learning_rate
    found, heads = {}, head_weights(model, head)
    for name, weight in model.named_parameters():
        outside = 0 if "embed" in name else len(blocks)
        below = len(blocks) - depth.get(id(weight), outside)
        found[id(weight)] = of_head if id(weight) in heads else train.layer_decay**below
    return found


def head_weights(model: Any, head: Sequence[str]) -> set[int]:
    """Return the ids of the head's parameters.

    Args:
        model: With adapters or not.
        head: Names of the head's parameters in the base model.
    """
    named = ((name.replace(".modules_to_save.default", ""), weight) for name, weight in model.named_parameters())
    return {id(weight) for name, weight in named if name.endswith(tuple(head))}


def first_alone(model: Any, head: Sequence[str], train: Train) -> set[int]:
    """Return the ids of what is trained alone in the first epochs; nothing if there are no such epochs.

    Raises:
        VitloraError: ``head_only_epochs`` is asked for, and nothing of the head is new.
    """
    if not train.head_only_epochs:
        return set()
    if not head:
        raise VitloraError(
            f"train.head_only_epochs: got {train.head_only_epochs}; the rule: 0 with this base model, whose head has "
            "these classes already"
        )
    return head_weights(model, head)


def regroup(optimizer: torch.optim.Optimizer, factor: Mapping[int, float]) -> None:
    """Split an optimiser's groups so that each has one rate; those with the section's own rate come first."""
    groups = []
    for group in optimizer.param_groups:
        rates = sorted({factor[id(weight)] for weight in group["params"]})
        for rate in rates:
            chosen = [weight for weight in group["params"] if factor[id(weight)] == rate]
            groups.append({**group, "params": chosen, "lr": group["lr"] * rate})
    optimizer.param_groups[:] = sorted(groups, key=lambda group: group["lr"] != optimizer.defaults["lr"])
