"""Check weights from outside before they are loaded. Only safetensors are taken: plain numbers, which run no code."""

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.text import printable

MAX_TENSORS = 10_000  # the largest vision transformers have some 2,000
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Of each kind of float: whole numbers as wide, and the bits that are all set in NaN and in infinity.
EXPONENTS = {
    "F64": (np.uint64, 0x7FF0000000000000),
    "F32": (np.uint32, 0x7F800000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
}
WHOLE_NUMBERS = (
    "I64",
    "I32",
    "I16",
    "I8",
    "U8",
    "BOOL",
)  # positions and masks that some models keep with their weights
PIECE = 1 << 24
WEIGHTS = "model.safetensors"
LFS = b"version https://git-lfs."  # how its pointers begin, which a clone without it leaves
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]


def check_weights(folder: Path, names: list[str]) -> None:
    """Refuse a model whose safetensors are missing, damaged, not finite, or lead elsewhere.

    Args:
        folder: A base model.
        names: Its files that count.

    Raises:
        VitloraError: Names the file and, where one is to blame, the tensor.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED) if folder.is_dir() else []
    if not weights:
        found = f"; {', '.join(pickled[:3])} may run code when loaded" if pickled else ""
        raise VitloraError(
            f"model.path: {folder} has no *.safetensors; weights in other formats are not loaded{found}; where you "
            "trust them, AutoModel.from_pretrained(FOLDER).save_pretrained(NEW) converts them; copy "
            "preprocessor_config.json into NEW too; those of timm's models: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'FOLDER/model.safetensors')"
        )
    _check_names(folder, names, weights)
    for name in weights:
        _check_file(folder / name)
    for name in names:
        if name.endswith(".index.json"):
            _check_index(folder / name, weights)


def _check_names(folder: Path, names: list[str], weights: list[str]) -> None:
    """Refuse weights that transformers would not find."""
    if WEIGHTS in names or f"{WEIGHTS}.index.json" in names:
        return
    shown = printable(", ".join(weights[:3]))
    if len(weights) > 1:
        cure = f"put {WEIGHTS}.index.json beside them, which tells what is in which"
    elif weights[0].startswith("adapter_"):
        cure = "it holds an adapter: set model.path to the model that it belongs to"
    else:
        cure = f"if save_pretrained wrote it, name it {WEIGHTS}"
    raise VitloraError(f"model.path: {folder} has {shown}; the rule: {WEIGHTS}, or its parts and index; {cure}")


def _check_file(path: Path) -> None:
    """Let safetensors check that every byte belongs to one tensor; then look at names, kinds, and the numbers."""
    try:
        with safe_open(path, "numpy") as file:
            count = len(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as raw:
            pointer = raw.read(len(LFS)) == LFS
        why = "Git LFS's note of it in its place" if pointer else printable(str(error))
        raise VitloraError(f"model.path: {path} is no whole safetensors file: {why}; fetch it anew") from None
    if count > MAX_TENSORS:
        raise VitloraError(f"model.path: {path} has {count:,} tensors; the rule: at most {MAX_TENSORS:,}")
    with path.open("rb") as raw:
        start = 8 + int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(start - 8))
    header.pop("__metadata__", None)
    for name, entry in header.items():
        kind, (begin, end) = entry["dtype"], entry["data_offsets"]
        if kind in EXPONENTS:
            _refuse_not_finite(path, name, kind, start + begin, end - begin)
        elif kind not in WHOLE_NUMBERS or name.endswith((".weight", ".bias")):
            rule = ", ".join(EXPONENTS)
            raise VitloraError(f"model.path: {path}: {printable(name)} is of kind {kind}; the rule: {rule}")


def _refuse_not_finite(path: Path, name: str, kind: str, begin: int, length: int) -> None:
    """Look for NaN and infinity piece by piece, so that memory stays flat."""
    whole, mask = EXPONENTS[kind]
    with path.open("rb") as file:
        file.seek(begin)
        for done in range(0, length, PIECE):
            values = np.frombuffer(file.read(min(PIECE, length - done)), np.dtype(whole).newbyteorder("<"))
            if ((values & whole(mask)) == mask).any():
                raise VitloraError(f"model.path: {path}: {printable(name)} holds NaN or infinity")


def _check_index(path: Path, weights: list[str]) -> None:
    """Refuse an index that sends the loader to another file than those beside it."""
    try:
        named = set(read_json(path)["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise VitloraError(f"model.path: {path} is no index of weights") from None
    strays = sorted(str(name) for name in named - set(weights))
    if strays:
        raise VitloraError(f"model.path: {path} names {printable(strays[0])}, which is not in the folder")
