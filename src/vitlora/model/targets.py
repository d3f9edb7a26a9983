"""Which layers an adapter goes to, whatever a model family or a `transformers` version calls them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from vitlora.core.errors import VitloraError

# One row a role. The tutorial says query and value, which transformers 5 renamed in most families; hiera and timm fuse
# them. Gated MLPs have two layers in: what is let through, and the gate.
SPELLINGS = (
    ("query", "q_proj", "q_lin"),
    ("key", "k_proj", "k_lin"),
    ("value", "v_proj", "v_lin"),
    ("attention.output.dense", "o_proj", "out_proj", "out_lin", "attn.proj"),
    ("intermediate.dense", "fc1", "up_proj", "fc1_x", "pwconv1"),
    ("gate_proj", "fc1_g"),
    ("output.dense", "fc2", "down_proj", "pwconv2"),
)
FUSED = "qkv"  # one layer for query, key and value
Value = TypeVar("Value", int, float)
# Words in front of a role that only say where it is: encoder.layer.3.attention.attention.query.
AROUND = {"", "attention", "attn", "block", "blocks", "encoder", "layer", "layers", "mlp", "self", "self_attn"}
DEFAULT = ("query", "value")
QKV = ("query", "key", "value")
GROUPS = {
    "attention-qv": DEFAULT,
    "attention": ("query", "key", "value", "attention.output.dense"),
    "mlp": ("intermediate.dense", "gate_proj", "output.dense"),
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
            `attention-qv`, `attention` and `mlp`. Query and value together stand for `qkv` where a model has that in
            their place; ``means_fused`` tells.
        linear: Full names of the model's linear layers.
        heads: Full names of modules that are trained in full; adapters never go there.
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


def means_fused(target_modules: str | Sequence[str] | None, targets: Sequence[str]) -> bool:
    """Say whether adapters go to query, key and value in one layer, which the names in ``target_modules`` don't say.

    Args:
        target_modules: As given to ``resolve_targets``.
        targets: As it answered.
    """
    if isinstance(target_modules, str):
        by_role = target_modules in GROUPS
    else:
        by_role = target_modules is None or not any(_ends(name, FUSED) for name in target_modules)
    return by_role and any(_ends(name, FUSED) for name in targets)


def resolve_pattern(pattern: Mapping[str, Value], targets: Sequence[str], key: str) -> dict[str, Value]:
    """Return the value of each adapted layer that a key means; of several keys the first, as in PEFT.

    Args:
        pattern: A layer's name, in any family's spelling, or a regex for the end of its path, and its value.
        targets: Full names of the adapted layers.
        key: The pattern's own, for messages.

    Raises:
        VitloraError: A key means no adapted layer, or none that an earlier one doesn't.
    """
    found: dict[str, Value] = {}
    for wanted, value in pattern.items():
        meant = _by_name(wanted, targets) or _by_end(wanted, targets, key)
        if not meant:
            kinds = ", ".join(sorted({_without_numbers(name) for name in targets}))
            raise VitloraError(f"lora.options.{key}: got {wanted}, which means no adapted layer; these are {kinds}")
        if found.keys() >= set(meant):
            raise VitloraError(f"lora.options.{key}: got {wanted} behind one that means its layers too; put it first")
        found = {**dict.fromkeys(meant, value), **found}
    return dict(sorted(found.items()))


def _by_end(wanted: str, targets: Sequence[str], key: str) -> list[str]:
    try:
        end = re.compile(rf"(.*\.)?({wanted})")
    except re.error as error:
        raise VitloraError(
            f"lora.options.{key}: got {wanted}; the rule: a name, or a regex that compiles ({error})"
        ) from None
    return [name for name in targets if end.fullmatch(name)]


def _block(name: str) -> int:
    """Return the number of the block that a layer is in; where blocks are in stages, the number within its stage."""
    return int(re.findall(r"\.(\d+)\.", name)[-1])


def _chosen(
    wanted: str | Sequence[str] | None, linear: Iterable[str], heads: Sequence[str], key: str = "target_modules"
) -> list[str]:
    # Only the repeated blocks: SigLIP carries a pooling head of the same layer names that a classifier never runs.
    blocks = (name for name in linear if re.search(r"\.\d+\.", name))
    candidates = sorted(name for name in blocks if not any(f"{name}.".startswith(f"{head}.") for head in heads))
    if wanted == "all-linear":
        _require(candidates, wanted, candidates, key)
        return candidates
    if isinstance(wanted, str) and wanted in GROUPS:
        found = [name for role in GROUPS[wanted] for name in _by_name(role, candidates)]
        found += _fused(GROUPS[wanted], candidates, key)
        _require(found, wanted, candidates, key)
        return sorted(set(found))
    if isinstance(wanted, str):
        found = [name for name in candidates if re.fullmatch(wanted, name)]
        hint = f"; text is a regex for a layer's whole path: write [{wanted}]" if _by_name(wanted, candidates) else ""
        _require(found, wanted, candidates, key, hint)
        return found
    names = DEFAULT if wanted is None else wanted
    fused = _fused(names, candidates, key)
    chosen = set(fused)
    for name in names:
        if fused and _role(name) in QKV:
            continue
        found = _by_name(name, candidates)
        alone = (
            f"; query, key and value are one layer here: write [{FUSED}]" if _fused(DEFAULT, candidates, key) else ""
        )
        _require(found, name, candidates, key, alone if _role(name) in QKV else "")
        chosen.update(found)
    return sorted(chosen)


def _fused(names: Iterable[str], candidates: Sequence[str], key: str) -> list[str]:
    """Return the layers of query, key and value in one that query and value together mean, where there are no others.

    One of the two alone can't be had, and what is to be left out must be said by the layer's own name.
    """
    roles = {_role(name) for name in names}
    if key != "target_modules" or not roles.issuperset(DEFAULT) or any(_by_name(role, candidates) for role in QKV):
        return []
    return [name for name in candidates if _ends(name, FUSED)]


def _role(name: str) -> str:
    """Return the first spelling of a role that is named without a path; the name itself if it is none."""
    return next((row[0] for row in SPELLINGS if name in row), name)


def _by_name(wanted: str, candidates: Sequence[str]) -> list[str]:
    found = [name for name in candidates if _ends(name, wanted)]
    if found:
        return found
    row = next((row for row in SPELLINGS if any(_ends(wanted, spelling) for spelling in row)), ())
    around = wanted.removesuffix(next((spelling for spelling in row if _ends(wanted, spelling)), "")).split(".")
    numbers = _numbers(".".join(around))
    if not AROUND.issuperset(word for word in around if not word.isdecimal()):
        return []
    for spelling in row:
        # BERT-like families end both the attention's and the MLP's output in output.dense.
        found = [name for name in candidates if _ends(name, spelling)]
        found = [name for name in found if not numbers or _numbers(name)[-len(numbers) :] == numbers]
        if spelling == "output.dense":
            found = [name for name in found if not _ends(name, "attention.output.dense")]
        if found:
            return found
    return []


def _numbers(name: str) -> list[str]:
    return [word for word in name.split(".") if word.isdecimal()]


def _ends(name: str, wanted: str) -> bool:
    return name == wanted or name.endswith("." + wanted)


def _require(found: Sequence[str], wanted: str, candidates: Sequence[str], key: str, hint: str = "") -> None:
    if not found and not candidates:
        raise VitloraError(
            f"lora.{key}: got {wanted}, and this model has no linear layer in its blocks that is left to adapt; the "
            "rule: at least one; set lora.method: head or full, take another base, or less into lora.modules_to_save"
        )
    if not found:
        endings = sorted({_without_numbers(name) for name in candidates})
        raise VitloraError(
            f"lora.{key}: got {wanted}, which matches no linear layer{hint}; this model has {', '.join(endings)}"
        )


def _without_numbers(name: str) -> str:
    """Shorten encoder.layer.7.attention.q_proj to attention.q_proj, so that a list of names stays readable."""
    return re.split(r"\.\d+\.", name)[-1]
