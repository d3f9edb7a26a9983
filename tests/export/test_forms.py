"""Every format of a tiny model: written, read back as its users do, scored, equal in bytes the second time."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny
import training
from training import FORMATS

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.export import forms, params
from vitlora.export.narrow import to_int8
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.export.params import FILES
from vitlora.safety.check import check_document
from vitlora.storage.manifest import write_manifest
from vitlora.storage.squares import load_split

pytestmark = pytest.mark.slow
SRC = str(tiny.ROOT / "src")
needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")


@pytest.fixture
def inside(all_forms, monkeypatch):
    monkeypatch.chdir(all_forms)


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_has_its_files_and_a_row_that_says_how_near_it_is(inside, form):
    row = training.format_rows("export.json")[form]
    places = [Path("export") / name for name in FILES[form]]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*"))]
    assert row["bytes"] == sum(file.stat().st_size for file in files) > 0
    narrow = form.endswith(("-fp16", "-int8"))
    assert row["largest_logit_difference"] <= (0.5 if narrow else 0.001)
    assert row["mean_logit_difference"] <= row["largest_logit_difference"]
    if not narrow:
        assert row["agreement"] == 1.0


def test_a_second_export_gives_the_same_bytes(inside):
    training.export_here(FORMATS, "again", max_accuracy_drop=1)
    write_manifest(Path("again"))
    first, second = (training.hashes_of(Path(name)) for name in ("export", "again"))
    assert {name.replace("again/", "export/"): digest for name, digest in second.items()} == first


def test_an_exported_adapter_says_nothing_of_the_pictures_it_was_trained_on(inside):
    assert Path("adapter/pictures.csv").is_file()
    assert not list(Path("export").rglob("pictures.csv"))


def test_only_products_with_weights_are_int8_and_each_column_has_its_scale(inside):
    graph = onnx.load("export/model_int8.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert "MatMulInteger" in kinds
    assert not {"ConvInteger", "QLinearConv", "QLinearAdd"} & set(kinds)
    scales = [each for each in graph.initializer if each.name.endswith("_scale")]
    assert scales
    assert all(each.dims[0] > 1 for each in scales)


def test_the_picture_form_of_a_file_is_its_plain_form_with_eyes(inside):
    names = read_json(Path("export/vitlora.json"))["class_names"]
    squares = load_split(Path("test"))
    for suffix, plain in (("", "model"), ("_fp16", "model_fp16"), ("_int8", "model_quantized")):
        sessions = [
            onnxruntime.InferenceSession(f"export/{path}", providers=["CPUExecutionProvider"])
            for path in (f"model{suffix}.onnx", f"onnx/{plain}.onnx")
        ]
        pixels = (np.asarray(squares.images, np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        (expected,) = sessions[1].run(["logits"], {"pixel_values": pixels})
        shares, logits = sessions[0].run(None, {"pictures": squares.images.transpose(0, 2, 3, 1)})
        assert logits == pytest.approx(expected, abs=1e-6)
        assert shares.shape == (len(squares.labels), len(names))
        assert shares.sum(axis=1) == pytest.approx(1)


def test_the_int8_answer_of_a_picture_does_not_depend_on_its_company(inside):
    facts, images = read_json(Path("export/vitlora.json")), load_split(Path("test")).images
    for name in ("model_int8.onnx", "onnx/model_quantized.onnx"):
        classifier = OnnxClassifier(Path("export") / name, facts["image_mean"], facts["image_std"])
        together = classifier.score(images, 32)
        assert np.array_equal(together[2:3], classifier.score(images[2:3], 32))
        assert np.array_equal(together[::-1], classifier.score(images[::-1], 4))


def test_a_narrow_form_that_lost_accuracy_fails_the_stage_and_says_what_to_do(inside, monkeypatch):
    def lamed(graph):
        narrow = to_int8(graph)
        for each in narrow.graph.initializer:
            if each.name.endswith("_scale"):
                each.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(each), each.name))
        return narrow

    broken = [(lamed if plain == "plain-int8" else make, plain, full) for make, plain, full in forms.ONNX]
    monkeypatch.setattr(forms, "ONNX", broken)
    with pytest.raises(
        VitloraError, match=r"onnx-int8 has .* points of accuracy less .* Leave onnx-int8 out of"
    ) as told:
        training.export_here(["onnx", "onnx-int8"], "lame", max_accuracy_drop=0.02)
    assert "transformers" not in str(told.value)
    training.export_here(["onnx"], "lame", max_accuracy_drop=0.02, onnx_opset=19)
    assert onnx.load("lame/model.onnx").opset_import[0].version == 19


def test_a_form_that_is_another_model_fails_the_stage(inside):
    path = Path("evaluated/calibration.json")
    before = path.read_bytes()
    write_json(path, {**read_json(path), "temperature": read_json(path)["temperature"] * 1.5})
    try:
        with pytest.raises(VitloraError, match="a confidence of plain is"):
            training.export_here(["onnx", "plain"], "warm")
    finally:
        path.write_bytes(before)


def test_a_model_that_is_not_the_one_evaluated_fails_the_stage(inside):
    path = Path("scores/predictions.csv")
    before = path.read_text()
    names = {"blue": "green", "green": "red", "red": "blue"}
    rows = [{**row, "predicted": names[row["predicted"]]} for row in read_csv(path)]
    path.write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]) + "\n")
    try:
        rule = "onnx gives another class than evaluate on 6 of 6 images; the rule: 0"
        with pytest.raises(VitloraError, match=rule):
            training.export_here(["onnx"], "other")
    finally:
        path.write_text(before)


def test_a_format_whose_package_is_missing_is_refused_before_any_work_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr(params, "find_spec", lambda name: None)
    document = training.settings({"export.formats": ["onnx", "openvino", "executorch"]})
    with pytest.raises(VitloraError, match=r"uv pip install --python .venv openvino==.* executorch==") as told:
        check_document(document, Path("params.yaml"))
    assert "or leave openvino and executorch out" in str(told.value)
    check_document(training.settings({"export.formats": ["onnx", "plain-int8"]}), Path("params.yaml"))


@needs_openvino
def test_openvino_is_imported_without_what_reports_on_users(inside):
    code = "import sys\nfrom vitlora.export.openvino_model import openvino\nopenvino().Core().read_model(sys.argv[1])\n"
    code += "assert not [name for name in sys.modules if name.startswith('openvino_telemetry.')]"
    env = {**os.environ, "PYTHONPATH": SRC}
    assert subprocess.run([sys.executable, "-c", code, "export/openvino/model.xml"], env=env).returncode == 0
