"""`vitlora evaluate` as people type it."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny import ROOT

from vitlora.core.files import read_json, write_json
from vitlora.storage.manifest import write_manifest
from vitlora.storage.squares import create_split, open_pixels

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


@pytest.mark.parametrize("given", [("--shifts", "--images", "0"), ("--shifts", "--images", "-3"), ()])
def test_arguments_that_mean_nothing_are_refused_in_a_line(model, given):
    _, said = evaluate(model, *given, code=1)
    assert said.startswith("error: ")
    assert "; the rule: " in said
    assert said.count("\n") == 1
