"""What evaluate leaves is enough for all that comes later, and every exported form gives its confidences."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import training
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from torchvision.transforms.v2.functional import resize

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.evaluate.calibration import prediction_sets
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.model.adapters import load_adapter
from vitlora.storage.squares import load_split

pytestmark = pytest.mark.slow
MEANS = ("balanced_accuracy", "macro_f1", "log_loss", "brier")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A tiny project, trained, evaluated and exported."""
    root = training.prepare(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        training.fit()
        training.evaluate_here()
        training.export_here()
    return root


@pytest.fixture
def inside(done, monkeypatch):
    monkeypatch.chdir(done)


@pytest.mark.parametrize("name", ["val", "test"])
def test_logits_belong_to_the_rows_beside_them(inside, name):
    squares, names = load_split(Path(name)), read_json(Path("evaluated/class_names.json"))
    logits = np.load(f"evaluated/{name}_logits.npy")
    assert (logits.dtype, logits.shape) == (np.float32, (len(squares.labels), len(names)))
    rows = read_csv(Path(f"evaluated/{name}.csv"))
    assert [row["path"] for row in rows] == squares.paths
    assert [row["sha256"] for row in rows] == squares.digests
    assert [row["actual"] for row in rows] == [names[label] for label in squares.labels]


def test_confidences_are_the_logits_at_the_temperature(inside):
    found = read_json(Path("evaluated/calibration.json"))
    shares = softmax(np.load("evaluated/test_logits.npy") / found["temperature"], axis=1)
    rows = read_csv(Path("scores/predictions.csv"))
    names = read_json(Path("evaluated/class_names.json"))
    assert [row["predicted"] for row in rows] == [names[label] for label in shares.argmax(axis=1)]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(shares.max(axis=1), abs=6e-5)
    labels = load_split(Path("test")).labels
    held = prediction_sets(shares, found["threshold"])[np.arange(len(labels)), labels].mean()
    said = {row["score"]: float(row["value"]) for row in read_csv(Path("scores/intervals.csv"))}
    assert said["set_coverage"] == pytest.approx(held, abs=1e-6)
    assert read_json(Path("scores/scores.json"))["accuracy"] == pytest.approx(said["accuracy"])


def test_scores_that_are_no_numbers_are_refused(done, tmp_path, monkeypatch):
    """Half precision may overflow on some pictures only; the largest of such scores is the first class."""
    for name in ("base", "val", "test", "labels.json"):
        (tmp_path / name).symlink_to(done / name)
    monkeypatch.chdir(shutil.copytree(done / "adapter", tmp_path / "adapter").parent)
    weights = load_file("adapter/adapter_model.safetensors")
    heads = {name: weight.sign() * 3e38 for name, weight in weights.items() if name.endswith("classifier.weight")}
    save_file({**weights, **heads}, "adapter/adapter_model.safetensors")
    with pytest.raises(
        VitloraError, match=r"\.(png|jpg) and \d+ more: the model's scores in fp32 are not finite; train"
    ):
        training.evaluate_here()


@pytest.mark.parametrize(("tta", "said"), [("flip", "the mirror image"), ("crops", "corners and mirror images")])
def test_scores_of_more_looks_stand_beside_the_others(done, tmp_path, monkeypatch, capsys, tta, said):
    """And nothing else changes: export, which checks itself against these files, goes through."""
    for name in ("base", "adapter", "val", "test", "labels.json"):
        (tmp_path / name).symlink_to(done / name)
    monkeypatch.chdir(tmp_path)
    training.evaluate_here(tta=tta)
    assert f"with {said} accuracy" in capsys.readouterr().out
    before, now = (read_csv(place / "scores/intervals.csv") for place in (done, tmp_path))
    assert now[: len(before)] == before
    for name in ("scores/predictions.csv", "evaluated/calibration.json", "evaluated/test_logits.npy"):
        assert (tmp_path / name).read_bytes() == (done / name).read_bytes(), name
    model, _, normalisation = load_adapter(Path("base"), Path("adapter"))
    images = torch.from_numpy(load_split(Path("test")).images.copy())
    with torch.inference_mode():
        looks = [model(pixel_values=normalisation(pixels)).logits for pixels in seen_so(images, tta)]
    logits, labels = (sum(looks) / len(looks)).numpy(), load_split(Path("test")).labels
    added = {row["score"]: row for row in now[len(before) :]}
    assert set(added) == {f"{name}_with_{tta}" for name in ("accuracy", "top_2_accuracy", *MEANS)}
    accuracy = added[f"accuracy_with_{tta}"]
    assert float(accuracy["value"]) == pytest.approx((logits.argmax(axis=1) == labels).mean())
    assert float(accuracy["low"]) < float(accuracy["high"])
    assert float(added[f"log_loss_with_{tta}"]["value"]) != float(said_of(before, "log_loss"))
    scores = {**read_json(done / "scores/scores.json"), **{name: float(row["value"]) for name, row in added.items()}}
    assert read_json(Path("scores/scores.json")) == pytest.approx(scores)
    training.export_here()


def seen_so(images, tta):
    """The looks themselves, made by hand: of 32 px a corner has 28."""
    corners = [(slice(a, a + 28), slice(b, b + 28)) for a in (0, 4) for b in (0, 4)] if tta == "crops" else []
    larger = [resize(images[..., rows, columns], [32, 32], antialias=True) for rows, columns in corners]
    return [turned for each in (images, *larger) for turned in (each, each.flip(-1))]


def said_of(rows, score):
    return next(row["value"] for row in rows if row["score"] == score)


def test_onnx_and_transformers_pipeline_give_evaluates_confidences(inside):
    from transformers import pipeline

    rows, squares = read_csv(Path("scores/predictions.csv")), load_split(Path("test"))
    expected = [float(row["confidence"]) for row in rows]
    bundle = read_json(Path("export/vitlora.json"))
    assert bundle["calibration"]["in_weights"] is True
    onnx = OnnxClassifier(Path("export/model.onnx"), bundle["image_mean"], bundle["image_std"])
    assert softmax(onnx.score(squares.images, 4), axis=1).max(axis=1) == pytest.approx(expected, abs=1e-3)
    classify = pipeline("image-classification", model="export", device="cpu")
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in squares.images]
    assert [best[0]["score"] for best in classify(pictures, top_k=1)] == pytest.approx(expected, abs=1e-3)


def test_export_refuses_a_temperature_that_evaluate_did_not_use(inside):
    path = Path("evaluated/calibration.json")
    before = path.read_bytes()
    found = json.loads(before)
    write_json(path, {**found, "temperature": found["temperature"] * 1.5})
    try:
        with pytest.raises(VitloraError, match=r"a confidence of onnx is .* from evaluate's; the rule: "):
            training.export_here()
    finally:
        path.write_bytes(before)
