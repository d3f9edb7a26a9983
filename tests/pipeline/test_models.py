"""What a finished run leaves behind, used as a stranger would: other processes, other tools, the same answers."""

import csv
import http.server
import json
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from vitlora.images.sandbox import Isolated
from vitlora.predict.pictures import opened, square
from vitlora.storage.squares import load_split
from vitlora.train.dataset import TrainImages
from vitlora.train.params import Augment

VERB = [sys.executable, "-m", "vitlora"]


def rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def predictions(finished_run):
    return rows(finished_run / "metrics/evaluate/predictions.csv")


def vitlora(root, *args):
    return tiny.run(root, *VERB, *args, env={"PYTHONPATH": "src"})


def test_scores_agree_with_scikit_learn_on_the_predictions_file(finished_run, predictions):
    scores = json.loads((finished_run / "metrics/evaluate/scores.json").read_text())
    actual, predicted = ([row[key] for row in predictions] for key in ("actual", "predicted"))
    assert scores["accuracy"] == pytest.approx(accuracy_score(actual, predicted), abs=1e-6)
    assert scores["macro_f1"] == pytest.approx(f1_score(actual, predicted, average="macro", zero_division=0), abs=1e-6)
    names = sorted(set(actual))
    matrix = [[int(line[name]) for name in names] for line in rows(finished_run / "metrics/evaluate/confusion.csv")]
    assert matrix == confusion_matrix(actual, predicted, labels=names).tolist()
    assert list(predictions[0]) == ["path", "actual", "predicted", "confidence", "sha256"]


@pytest.fixture(scope="module")
def answers(finished_run, predictions):
    """The test pictures' classes in a fresh process: by transformers alone, then by the adapter and its base."""
    script = """
import json, sys
from pathlib import Path
from transformers import pipeline
classify = pipeline("image-classification", model="models/export", device="cpu")
print(json.dumps([best[0]["label"] for best in classify(sys.argv[1:], top_k=1)]))
assert "vitlora" not in sys.modules
from vitlora.model.adapters import load_adapter
from vitlora.model.inference import score
from vitlora.storage.squares import load_split
model, labels, normalisation = load_adapter(Path("models/base"), Path("models/adapter"))
logits = score(model, load_split(Path("data/prepared/test")), normalisation, 5)
print(json.dumps([labels.class_names[row] for row in logits.argmax(1)]))
"""
    files = [f"pictures/{row['path']}" for row in predictions]
    done = tiny.run(finished_run, sys.executable, "-c", script, *files, env={"PYTHONPATH": "src"})
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_transformers_pipeline_gives_the_same_classes_from_the_original_files(answers, predictions):
    assert answers[0] == [row["predicted"] for row in predictions]


def test_the_adapter_loads_in_a_fresh_process_from_its_two_folders_alone(answers, predictions):
    assert answers[1] == [row["predicted"] for row in predictions]


def test_predict_gives_the_same_classes_and_confidences_as_evaluate(finished_run, predictions):
    done = vitlora(finished_run, "predict", "--json", *(f"pictures/{row['path']}" for row in predictions))
    assert done.returncode == 0, done.stderr
    for line, row in zip(done.stdout.splitlines(), predictions, strict=True):
        best = json.loads(line)["predictions"][0]
        assert best["class"] == row["predicted"]
        assert best["confidence"] == pytest.approx(float(row["confidence"]), abs=1e-4)


def test_a_picture_becomes_the_same_tensor_in_preprocess_training_and_prediction(finished_run):
    test = load_split(finished_run / "data/prepared/test")
    with Isolated() as child:
        for path, stored in zip(test.paths, test.images, strict=True):
            picture = opened(finished_run / "pictures" / path, False)
            assert np.array_equal(child.call(partial(square, 32, "bilinear"), picture), stored)
    whole = Augment(**{**tiny.AUGMENT, "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "horizontal_flip_p": 0.0})
    folder = finished_run / "data/prepared/train"
    images = TrainImages(folder, 40, "bilinear", whole, seed=0)
    row = next(row for row, size in enumerate(images.packed.numbers("width", "height").tolist()) if size == [40, 40])
    path = images.packed.about(row)["path"]
    with Isolated() as child:
        expected = child.call(partial(square, 40, "bilinear"), opened(finished_run / "pictures" / path, False))
    # A crop of the whole square picture at its own size is the picture itself, on either path.
    assert np.array_equal(images.load([row])[0].numpy(), expected)


def test_predict_takes_a_folder_an_address_and_names_a_bad_picture_without_stopping(finished_run, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(finished_run / "pictures"))
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host = f"http://127.0.0.1:{server.server_port}"
    try:
        given = [
            "pictures/blue",
            str(tmp_path / "bad.jpg"),
            f"{host}/red/01.png",
            f"{host}/red/none.png",
            "file:///etc/x",
        ]
        done = vitlora(finished_run, "predict", "--allow-private", *given)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 12 + 1
    assert "bad.jpg: not a picture of a known format" in done.stderr
    assert "none.png: 127.0.0.1 answered 404" in done.stderr
    assert "only http and https addresses are read" in done.stderr
    assert "error: 3 pictures could not be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_predict_starts_without_torch(finished_run):
    script = "import sys; sys.argv=['vitlora','predict','pictures/red/01.png']; import vitlora.cli as c; c.main()"
    check = "; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    done = tiny.run(finished_run, sys.executable, "-c", script + check, env={"PYTHONPATH": "src"})
    assert done.returncode == 0, done.stderr


def test_predict_without_a_model_says_what_to_do(tmp_path):
    (tmp_path / "src").symlink_to(tiny.ROOT / "src")
    done = vitlora(tmp_path, "predict", "x.jpg")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: models/export holds no model.onnx; `dvc repro` makes it")


def test_the_onnx_file_is_whole_takes_any_batch_and_names_no_folder(finished_run):
    import onnxruntime

    path = finished_run / "models/export/model.onnx"
    onnx.checker.check_model(onnx.load(path))
    content = path.read_bytes()
    assert b"site-packages" not in content
    assert str(tiny.ROOT).encode() not in content
    session = onnxruntime.InferenceSession(str(path))
    for batch in (1, 2, 7):
        assert session.run(["logits"], {"pictures": np.zeros((batch, 9, 40, 3), np.uint8)})[0].shape == (batch, 3)


def test_the_export_report_says_how_well_every_form_agrees(finished_run):
    report = json.loads((finished_run / "metrics/export.json").read_text())
    assert [row["format"] for row in report["formats"]] == ["pytorch", "transformers", "onnx"]
    assert (report["lowest_agreement"], report["largest_accuracy_drop"]) == (1.0, 0.0)
    for row in report["formats"]:
        assert row["agreement_interval"][0] < row["agreement"] <= row["agreement_interval"][1]
        assert (row["agreement"], row["largest_logit_difference"]) == (1.0, 0.0), row
    assert report["images"] == 6


def test_latency_stands_beside_the_results_and_is_no_output(finished_run):
    told = json.loads((finished_run / "metrics/ran/latency.json").read_text())
    assert told["outputs"] == json.loads((finished_run / "metrics/ran/export.json").read_text())["outputs"]
    assert set(told["formats"]) == {"transformers", "onnx"}
    assert all(row["batch_1_ms"] > 0 and row["batch_32_ms"] > 0 for row in told["formats"].values())
    assert told["processor"]


def test_export_refuses_predictions_that_are_not_those_recorded(project):
    path = project / "metrics/evaluate/predictions.csv"
    path.write_text(path.read_text().replace("red", "blue"))
    refused = tiny.run(project, tiny.DVC, "repro", "-s", "-f", "export")
    assert "predictions.csv: not what dvc.lock records" in refused.stderr


def test_plots_show_draws_curves_and_the_confusion_matrix(project):
    done = tiny.run(project, tiny.DVC, "plots", "show")
    assert done.returncode == 0, done.stderr
    page = (project / "dvc_plots/index.html").read_text()
    for title in ("Loss by epoch", "Validation accuracy by epoch", "Training loss by step", "Confusion matrix (test)"):
        assert f'"{title}"' in page
    assert list((project / "dvc_plots").rglob("*confusion.png"))


def test_a_preset_is_shown_then_copied(project):
    shown = vitlora(project, "preset", "digits", "--dry-run")
    assert 'data.source: "folder" -> "digits"' in shown.stdout
    assert "lora.r: 2 -> 16" in shown.stdout
    assert (project / "params.yaml").read_bytes() != (project / "presets/digits.yaml").read_bytes()
    vitlora(project, "preset", "digits")
    text = (project / "presets/digits.yaml").read_text()
    assert (project / "params.yaml").read_text() == text.replace("$schema=../", "$schema=")
    assert "has these values already" in vitlora(project, "preset", "digits").stdout
    listed = vitlora(project, "preset").stdout
    names = ["digits", "dinov3", "folder", "folder-offline", "food101", "siglip2", "timm"]
    assert [line.split()[0] for line in listed.splitlines()] == names
    unknown = vitlora(project, "preset", "fodo101")
    said = f"error: got fodo101; presets are {', '.join(names)}\n"
    assert (unknown.returncode, unknown.stderr) == (1, said)


def test_dvc_by_its_full_path_runs_stages_with_its_own_python(project):
    done = tiny.run(project, tiny.DVC, "repro", "-s", "-f", "preprocess", env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Running stage 'preprocess'" in done.stdout
