"""`vitlora evaluate` as people type it."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from foreign import classifier
from onnx import numpy_helper
from PIL import Image
from tiny import ROOT

from vitlora.core.files import read_json, write_json
from vitlora.storage.manifest import write_manifest
from vitlora.storage.squares import create_split, open_pixels

pytestmark = pytest.mark.slow
NAMES = ["\x1b[2Jcat", "dog"]


def evaluate(model, *args, code=0):
    """Run the verb; return what it printed and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "vitlora", "evaluate", "--model", model, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        timeout=60,
        text=True,
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def stored(folder, count=10, names=NAMES, size=8):
    """Write a test split as preprocess does; every second picture shows a dog."""
    test = folder / "test"
    create_split(
        test, size, [f"{place}.png" for place in range(count)], [place % 2 for place in range(count)], ["ab"] * count
    )
    open_pixels(test, "r+")[:] = np.random.default_rng(0).integers(0, 256, (count, 3, size, size))
    write_manifest(test)
    write_json(folder / "labels.json", {"class_names": names, "image_size": size, "interpolation": "bilinear"})
    return test


def test_shifts_are_a_table_for_people_and_numbers_for_machines(model, tmp_path):
    test = stored(tmp_path)
    shown, said = evaluate(model, "--shifts", "--test", test, "--out", tmp_path / "out")
    lines = shown.splitlines()
    assert lines[0] == "10 test pictures (all of them), the same under every condition; brackets: 95 % intervals"
    assert len(lines) == 3 + 25 + 2
    assert max(map(len, lines)) <= 100
    assert said == ""
    kept = read_json(tmp_path / "out/shifts.json")
    with (tmp_path / "out/shifts.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in kept["conditions"]]
    shown, _ = evaluate(model, "--shifts", "--test", test, "--images", "3", "--json")
    assert json.loads(shown)["images"] == 3
    assert len(json.loads(shown)["conditions"]) == 25


def test_shifts_refuse_what_they_would_score_wrongly(model, tmp_path):
    _, said = evaluate(model, "--shifts", "--test", tmp_path / "none", code=1)
    assert said.startswith(f"error: {tmp_path}/none: no stored pictures there")
    test = stored(tmp_path / "a", names=["cat", "dog"])
    _, said = evaluate(model, "--shifts", "--test", test, code=1)
    assert "was trained on other classes or image size than" in said
    _, said = evaluate(model, "--shifts", "--test", stored(tmp_path / "b", size=9), code=1)
    assert "was trained on other classes or image size than" in said
    _, said = evaluate(model, "--shifts", "--test", stored(tmp_path / "c", count=0), code=1)
    assert "no image to score" in said
    test = stored(tmp_path / "d")
    with (test / "images.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\0")
    _, said = evaluate(model, "--shifts", "--test", test, code=1)
    assert "images.npy: damaged" in said


@pytest.mark.parametrize(
    "given", [("--shifts", "--images", "0"), ("--shifts", "--images", "-3"), (), ("x", "--shifts")]
)
def test_arguments_that_mean_nothing_are_refused_in_a_line(model, given):
    _, said = evaluate(model, *given, code=1)
    assert said.startswith("error: ")
    assert "; the rule: " in said
    assert said.count("\n") == 1


@pytest.fixture(scope="session")
def colours(tmp_path_factory):
    """An exported model that names the strongest of two colours: red or green."""
    folder = tmp_path_factory.mktemp("colours")
    known = classifier()
    known.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(3, 2, dtype=np.float32) * 5, "w"))
    (folder / "model.onnx").write_bytes(known.SerializeToString())
    names = {"class_names": ["red", "green"], "image_size": 8, "interpolation": "bilinear"}
    write_json(folder / "vitlora.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **names})
    write_manifest(folder)
    return folder


def painted(root, **colours):
    """Write pictures of one colour each into class folders: `red=[(255, 0, 0), ...]`."""
    for name, pictures in colours.items():
        (root / name).mkdir(parents=True)
        for place, colour in enumerate(pictures):
            Image.fromarray(np.full((9, 11, 3), colour, np.uint8)).save(root / name / f"{place}.png")
    return root


RED, GREEN = (250, 20, 30), (20, 250, 30)


def test_a_folder_is_scored_and_its_mistakes_are_named(colours, tmp_path):
    root = painted(tmp_path / "mine", red=[RED] * 7 + [GREEN], Green=[GREEN] * 4)
    shown, said = evaluate(colours, root, "--out", tmp_path / "out")
    assert "12 pictures of 2 of the model's 2 classes" in shown
    assert "accuracy 91.7% [64.6%, 98.5%]" in shown
    assert "  red/7.png: taken for green 100.0% (red 0.0%)" in shown
    assert "not known" in shown
    assert said == "note: pictures of Green are scored as green\n"
    assert max(map(len, shown.splitlines()[1:])) <= 100
    assert read_json(tmp_path / "out/scores.json")["accuracy"] == pytest.approx(11 / 12, abs=1e-6)
    assert (tmp_path / "out/confusion.csv").read_text() == "actual,red,green\nred,7,1\ngreen,0,4\n"
    assert (tmp_path / "out/confusion.png").is_file()
    kept = read_json(tmp_path / "out/folder.json")
    shown, _ = evaluate(colours, root, "--json", "--out", tmp_path / "again")
    assert json.loads(shown) == kept
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_bad_pictures_are_named_counted_and_not_scored(colours, tmp_path):
    root = painted(tmp_path / "mine", red=[RED] * 3, green=[GREEN] * 2)
    (root / "red/empty.jpg").write_bytes(b"")
    (root / "green/page.png").write_bytes(b"<html></html>")
    (root / "green/cut.png").write_bytes((root / "green/0.png").read_bytes()[:40])
    (root / "green/.DS_Store").write_bytes(b"x")
    shown, said = evaluate(colours, root, "--json", code=1)
    found = json.loads(shown)
    assert (found["images"], found["accuracy"]) == (5, 1)
    assert sorted(found["bad"]) == ["green/cut.png", "green/page.png", "red/empty.jpg"]
    assert said.count("bad image: ") == 3
    assert said.endswith("error: 3 pictures could not be read, named above; the scores are of the others\n")
    for name in ("red", "green"):
        for path in (root / name).glob("?.png"):
            path.write_bytes(b"")
    _, said = evaluate(colours, root, code=1)
    assert "error: none of 8 pictures could be read; green/0.png: " in said


def test_a_class_that_the_model_does_not_know_is_refused_and_the_cure_that_is_told_works(colours, tmp_path):
    root = painted(tmp_path / "mine", redd=[RED] * 3, green=[GREEN] * 2, blue=[(0, 0, 255)])
    _, said = evaluate(colours, root, code=1)
    assert "does not know: blue (1 picture), redd (3 pictures, close to red)" in said
    shown, _ = evaluate(colours, root, "--map", "redd=red", "--ignore-unknown", "--json")
    found = json.loads(shown)
    assert (found["images"], found["accuracy"], found["ignored"]) == (5, 1, {"blue": 1})
    shown, _ = evaluate(colours, root, "--ignore-unknown")
    assert "no picture of red\n" in shown
    assert "left out, since the model does not know them: blue, redd\n" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("FOLDER", "--images", "3"), "--images: the rule: only with --shifts"),
        (("--shifts", "--map", "a=b"), "--map: the rule: only with FOLDER"),
        (("FOLDER", "--out", "FILE"), "is a file; the rule: a folder"),
        (("FOLDER", "--out", "nowhere/out"), "there is no folder nowhere; make it first"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(model, tmp_path, words, said):
    (tmp_path / "file").write_text("")
    places = {"FOLDER": str(tmp_path), "FILE": str(tmp_path / "file")}
    _, told = evaluate(model, *(places.get(word, word) for word in words), code=1)
    assert said in told
    assert "Traceback" not in told
