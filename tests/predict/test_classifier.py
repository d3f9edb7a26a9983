"""`from vitlora import Classifier`: every kind of picture that it takes gives the same answer."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from foreign import exported
from PIL import Image
from tiny import ROOT

from vitlora import Classifier, PictureError, Prediction, Unreadable
from vitlora.core.errors import VitloraError
from vitlora.storage.manifest import write_manifest

WHITE, BLACK = np.full((9, 12, 3), 255, np.uint8), np.zeros((12, 9, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A classifier of two classes with a known rule: the logits are -x and x, x the sum of the channels' means."""
    folder = exported(tmp_path_factory.mktemp("export"))
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(folder / "model.onnx")
    weights = np.array([[-1, 1]] * 3, np.float32)
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "w"))
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    rewrite(folder, class_names=["dark", "light"], calibration={"threshold": 0.4, "temperature": 1.0})
    return folder


def rewrite(folder, **changed):
    facts = json.loads((folder / "vitlora.json").read_text())
    (folder / "vitlora.json").write_text(json.dumps({**facts, **changed}))
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Classifier(folder)


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_one_picture_gives_label_confidence_all_probabilities_and_the_set(model):
    answer = model(WHITE)
    light = 1 / (1 + np.exp(-6))
    assert answer.label == "light"
    assert answer.confidence == pytest.approx(light, rel=1e-6)
    assert list(answer.probabilities) == ["light", "dark"]
    assert sum(answer.probabilities.values()) == pytest.approx(1)
    assert answer.prediction_set == ("light",)
    assert answer.name == ""
    with pytest.raises(AttributeError):
        answer.label = "dark"


@pytest.mark.parametrize(
    "kind",
    [
        *("path", "text", "bytes", "bytearray", "L", "RGBA", "P", "1", "LA", "CMYK", "YCbCr"),
        *("I;16", "array", "a view"),
    ],
)
def test_every_kind_of_picture_gives_the_same_answer(model, tmp_path, kind):
    data = png(WHITE)
    (tmp_path / "white.png").write_bytes(data)
    made = {
        "path": tmp_path / "white.png",
        "text": str(tmp_path / "white.png"),
        "bytes": data,
        "bytearray": bytearray(data),
        "I;16": Image.fromarray(np.full((9, 12), 65535, np.uint16)),
        "array": WHITE,
        "a view": np.repeat(WHITE, 2, axis=0)[::2],
    }
    picture = made[kind] if kind in made else Image.fromarray(WHITE).convert(kind)
    assert model(picture).probabilities == pytest.approx(model(WHITE).probabilities, abs=1e-6)


def test_a_pil_image_is_turned_and_laid_on_white_as_its_file_is(model, tmp_path):
    half = np.concatenate([np.zeros((8, 24, 4), np.uint8), np.full((8, 24, 4), (90, 20, 50, 128), np.uint8)], axis=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(half).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as image:
        assert model(image).probabilities == model(tmp_path / "turned.png").probabilities


def test_several_come_back_in_order_whatever_iterable_they_are_in(model, tmp_path):
    (tmp_path / "b.png").write_bytes(png(BLACK))
    pictures = [WHITE, tmp_path / "b.png", Image.fromarray(WHITE), png(BLACK)] * 30
    found = model(iter(pictures))
    assert [each.label for each in found] == ["light", "dark"] * 60
    assert found == model(tuple(pictures))
    assert model(np.stack([WHITE, WHITE // 255])) == [model(WHITE), model(WHITE // 255)]
    assert model([]) == []


def test_a_bad_picture_is_named_and_each_goes_on(model, tmp_path):
    (tmp_path / "cut.png").write_bytes(png(WHITE)[:40])
    with pytest.raises(PictureError, match=r"cut\.png: "):
        model(tmp_path / "cut.png")
    with pytest.raises(PictureError, match=r"gone\.png: No such file"):
        model([WHITE, str(tmp_path / "gone.png")])
    with pytest.raises(PictureError, match=r"^picture 2: not a picture"):
        model([WHITE, BLACK, b"<html>"])
    answers = list(model.each([WHITE, tmp_path / "cut.png", b"", tmp_path, BLACK]))
    assert [type(each) for each in answers] == [Prediction, Unreadable, Unreadable, Unreadable, Prediction]
    assert answers[2] == Unreadable("", "empty file")


@pytest.mark.parametrize(
    ("picture", "error"),
    [
        (np.zeros((9, 9)), ValueError),
        (np.zeros((9, 9, 3), np.float32), ValueError),
        (np.zeros((9, 9, 4), np.uint8), ValueError),
        (np.zeros((3, 9, 9), np.uint8), ValueError),
        ([7], TypeError),
        ([None], TypeError),
    ],
    ids=repr,
)
def test_what_is_no_picture_by_its_type_is_refused_with_the_rule(model, picture, error):
    with pytest.raises(error, match="the rule: "):
        model(picture)


@pytest.mark.parametrize("mode", ["I", "F", "PA", "RGBa"])
def test_a_mode_whose_black_and_white_nobody_knows_is_refused_and_rgb_helps(model, mode):
    image = Image.new(mode, (9, 9))
    with pytest.raises(PictureError, match="convert it to RGB"):
        model(image)
    assert model(image.convert("RGBA" if mode == "RGBa" else "RGB")).confidence > 0


@pytest.mark.slow
def test_processes_give_the_same_answers_and_a_failed_call_leaves_none_to_the_next(folder, model, tmp_path):
    pictures = [png(np.full((9, 9 + step, 3), step, np.uint8)) for step in range(100)]
    with Classifier(folder, workers=2) as other:
        assert other(pictures) == model(pictures)
        with pytest.raises(PictureError, match="picture 1: "):
            other([WHITE, b"no picture", *pictures])
        assert other(pictures[50:]) == model(pictures[50:])
        running = other.each(pictures)
        next(running)
        with pytest.raises(RuntimeError, match="one call at a time"):
            other(WHITE)
        running.close()
        assert other(WHITE) == model(WHITE)
    with pytest.raises(RuntimeError, match="closed"):
        other(WHITE)


@pytest.mark.parametrize(("threshold", "held"), [(0.0, ("light", "dark")), (0.6, ("light",)), (1.0, ("light",))])
def test_the_set_holds_what_reaches_the_threshold_and_always_the_likeliest(folder, tmp_path, threshold, held):
    other = rewrite(shutil.copytree(folder, tmp_path / "x"), calibration={"threshold": threshold})
    assert Classifier(other)(WHITE).prediction_set == held


def test_without_a_threshold_there_is_no_set(folder, tmp_path):
    for number, calibration in enumerate(({}, {"threshold": None})):
        other = rewrite(shutil.copytree(folder, tmp_path / str(number)), calibration=calibration)
        assert Classifier(other)(WHITE).prediction_set is None


@pytest.mark.parametrize("harm", ["gone", "model", "facts", "manifest", "key", "list"])
def test_a_damaged_folder_is_refused(folder, tmp_path, harm):
    other = shutil.copytree(folder, tmp_path / "x")
    if harm == "gone":
        (other / "model.onnx").unlink()
    elif harm in ("model", "facts"):
        path = other / {"model": "model.onnx", "facts": "vitlora.json"}[harm]
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    elif harm == "manifest":
        (other / "MANIFEST.sha256").unlink()
    else:
        (other / "vitlora.json").write_text("[]" if harm == "list" else '{"class_names": ["a"]}')
        write_manifest(other)
    with pytest.raises(VitloraError, match=str(other)):
        Classifier(other)


def test_importing_vitlora_loads_nothing_and_the_classifier_neither_torch_nor_a_tool_of_the_pipeline(folder):
    script = f"""
import sys
import vitlora
assert not {{"numpy", "PIL", "onnxruntime"}} & set(sys.modules)
model = vitlora.Classifier({str(folder)!r})
import numpy
print(model(numpy.zeros((9, 9, 3), "uint8")).label)
heavy = "torch transformers peft dvc datasets onnx pydantic ruamel scipy sklearn rich tqdm accelerate ssl".split()
assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "dark\n"), done.stderr


def test_names_that_are_not_public_are_no_attributes():
    import vitlora

    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        vitlora.Clasifier  # noqa: B018


def test_the_api_is_typed_for_those_who_import_it():
    assert (Path(ROOT) / "src/vitlora/py.typed").exists()


@pytest.mark.parametrize("one", ["a.png", b"bytes", Path("a.png"), None, 3])
def test_one_picture_is_not_taken_for_several(model, one):
    """A path would be read letter by letter."""
    with pytest.raises(TypeError, match="the rule: pictures in a list"):
        list(model.each(one))
