"""Which layers an adapter goes to, whatever a model family or a `transformers` version calls them."""

import re
from collections.abc import Iterable, Sequence

from vitlora.errors import VitloraError

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


def resolve_targets(
    target_modules: str | Sequence[str] | None, linear: Iterable[str], heads: Sequence[str]
) -> list[str]:
    """Return the full names of the linear layers in the model's blocks that ``target_modules`` means.

    Args:
        target_modules: As in PEFT: names that end a module's path, a regex for the whole path, `all-linear`, or None
            for query and value. A name of another family's or version's spelling stands for this model's own.
        linear: Full names of the model's linear layers.
        heads: Names of modules that are trained in full; adapters never go there.

    Returns:
        Sorted full names, at least one.

    Raises:
        VitloraError: A name or pattern matches no linear layer; the message lists the names that exist.
    """
    # Only the repeated blocks: SigLIP carries a pooling head of the same layer names that a classifier never runs.
    blocks = (name for name in linear if re.search(r"\.\d+\.", name))
    candidates = sorted(name for name in blocks if not any(_ends(name, head) for head in heads))
    if target_modules == "all-linear":
        return candidates
    if isinstance(target_modules, str):
        found = [name for name in candidates if re.fullmatch(target_modules, name)]
        _require(found, target_modules, candidates)
        return found
    chosen: set[str] = set()
    for wanted in DEFAULT if target_modules is None else target_modules:
        found = _by_name(wanted, candidates)
        _require(found, wanted, candidates)
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


def _require(found: Sequence[str], wanted: str, candidates: Sequence[str]) -> None:
    if not found:
        endings = sorted({_without_numbers(name) for name in candidates})
        raise VitloraError(
            f"lora.target_modules: got {wanted}, which matches no linear layer; this model has {', '.join(endings)}"
        )


def _without_numbers(name: str) -> str:
    """Shorten encoder.layer.7.attention.q_proj to attention.q_proj, so that a list of names stays readable."""
    return re.split(r"\.\d+\.", name)[-1]
