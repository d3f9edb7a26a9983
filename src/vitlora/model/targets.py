"""Which layers an adapter goes to, whatever a model family or a `transformers` version calls them."""

import re
from collections.abc import Iterable, Sequence

from vitlora.core.errors import VitloraError

# One row a role. The tutorial says query and value, which transformers 5 renamed in most families; hiera fuses them.
SPELLINGS = (
    ("query", "q_proj", "q_lin"),
    ("key", "k_proj", "k_lin"),
    ("value", "v_proj", "v_lin"),
    ("attention.output.dense", "o_proj", "out_proj", "out_lin"),
    ("intermediate.dense", "fc1", "up_proj"),
    ("output.dense", "fc2", "down_proj"),
)
DEFAULT = ("query", "value")
GROUPS = {
    "attention-qv": DEFAULT,
    "attention": ("query", "key", "value", "attention.output.dense"),
    "mlp": ("intermediate.dense", "output.dense"),
}


def resolve_targets(
    target_modules: str | Sequence[str] | None,
    linear: Iterable[str],
    heads: Sequence[str],
    exclude_modules: str | Sequence[str] | None = None,
    layers_to_transform: Sequence[int] | None = None,
) -> list[str]:
    """Return the full names of the linear layers in the model's blocks that ``target_modules`` means.

    Args:
        target_modules: As in PEFT: names that end a module's path, a regex for the whole path, `all-linear`, or None
            for query and value. A name of another family's or version's spelling stands for this model's own. Also
            `attention-qv`, `attention` and `mlp`, as far as the model has these layers apart.
        linear: Full names of the model's linear layers.
        heads: Names of modules that are trained in full; adapters never go there.
        exclude_modules: Names or a regex, likewise; these are left out.
        layers_to_transform: Numbers of the blocks, from 0; None is all.

    Returns:
        Sorted full names, at least one.

    Raises:
        VitloraError: A name or pattern matches no linear layer, or nothing is left; the message lists what exists.
    """
    chosen = _chosen(target_modules, linear, heads)
    if exclude_modules is not None:
        out = set(_chosen(exclude_modules, chosen, (), "exclude_modules"))
        chosen = [name for name in chosen if name not in out]
    if layers_to_transform is not None:
        numbers = sorted({_block(name) for name in chosen})
        missing = [number for number in layers_to_transform if number not in numbers]
        if missing:
            raise VitloraError(
                f"lora.layers_to_transform: got {missing[0]}; the rule: blocks from {numbers[0]} to {numbers[-1]}"
            )
        chosen = [name for name in chosen if _block(name) in layers_to_transform]
    if not chosen:
        raise VitloraError("lora.exclude_modules: leaves no layer to adapt; the rule: at least one")
    return chosen


def _block(name: str) -> int:
    """Return the number of the block that a layer is in; where blocks are in stages, the number within its stage."""
    return int(re.findall(r"\.(\d+)\.", name)[-1])


def _chosen(
    wanted: str | Sequence[str] | None, linear: Iterable[str], heads: Sequence[str], key: str = "target_modules"
) -> list[str]:
    # Only the repeated blocks: SigLIP carries a pooling head of the same layer names that a classifier never runs.
    blocks = (name for name in linear if re.search(r"\.\d+\.", name))
    candidates = sorted(name for name in blocks if not any(_ends(name, head) for head in heads))
    if wanted == "all-linear":
        return candidates
    if isinstance(wanted, str) and wanted in GROUPS:
        found = [name for role in GROUPS[wanted] for name in _by_name(role, candidates)]
        _require(found, wanted, candidates, key)
        return sorted(set(found))
    if isinstance(wanted, str):
        found = [name for name in candidates if re.fullmatch(wanted, name)]
        _require(found, wanted, candidates, key)
        return found
    chosen: set[str] = set()
    for name in DEFAULT if wanted is None else wanted:
        found = _by_name(name, candidates)
        _require(found, name, candidates, key)
        chosen.update(found)
    return sorted(chosen)


def _by_name(wanted: str, candidates: Sequence[str]) -> list[str]:
    found = [name for name in candidates if _ends(name, wanted)]
    if found:
        return found
    row = next((row for row in SPELLINGS if wanted in row), ())
    for spelling in row:
        # BERT-like families end both the attention's and the MLP's output in output.dense.
        found = [name for name in candidates if _ends(name, spelling)]
        if spelling == "output.dense":
            found = [name for name in found if not _ends(name, "attention.output.dense")]
        if found:
            return found
    return []


def _ends(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith("." + wanted)


def _require(found: Sequence[str], wanted: str, candidates: Sequence[str], key: str) -> None:
    if not found:
        endings = sorted({_without_numbers(name) for name in candidates})
        raise VitloraError(
            f"lora.{key}: got {wanted}, which matches no linear layer; this model has {', '.join(endings)}"
        )


def _without_numbers(name: str) -> str:
    """Shorten encoder.layer.7.attention.q_proj to attention.q_proj, so that a list of names stays readable."""
    return re.split(r"\.\d+\.", name)[-1]
