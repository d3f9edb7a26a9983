"""What doctor says of a machine and of prepared data."""

import argparse
from pathlib import Path

import training
from ruamel.yaml import YAML

from vitlora.cli.doctor import act


def test_it_measures_loader_and_step_of_the_prepared_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(training.prepare(tmp_path))
    Path("data/prepared").mkdir(parents=True)
    for name in ("train", "val", "labels.json"):
        Path("data/prepared", name).symlink_to(tmp_path / name)
    Path("models").mkdir()
    Path("models/base").symlink_to(tmp_path / "base")
    YAML().dump(training.settings(), Path("params.yaml"))
    act(argparse.Namespace(seconds=0.1))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("loader ") and "images/s, " in line for line in lines), lines
    assert any(line.startswith("step ") and ", 3 images" in line for line in lines), lines
    assert lines[-1].startswith(("the step is", "the loader is", "loading takes"))


def test_without_prepared_data_it_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    YAML().dump(training.settings(), Path("params.yaml"))
    act(argparse.Namespace(seconds=0.1))
    assert "run `dvc repro preprocess`" in capsys.readouterr().out
