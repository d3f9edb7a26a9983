"""A run can be followed while it goes on, and neither that nor a tracker changes a byte of what it makes."""

import json
from pathlib import Path

import pytest
import training
from transformers.integrations import integration_utils

from vitlora.core.errors import VitloraError
from vitlora.train.reporting import LIVE

TRACKERS = ["tensorboard", "wandb", "mlflow", "trackio", "clearml", "swanlab"]


def followed():
    return [json.loads(line) for line in LIVE.read_text().splitlines()]


def test_the_file_says_how_far_a_run_is_how_fast_and_how_long_it_takes(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    training.fit()
    rows = followed()
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [3, 6, 9]
    assert all(row["steps"] == training.STEPS and row["images_per_s"] > 0 for row in rows if "loss" in row)
    last = [row for row in rows if "eval_accuracy" in row][-1]
    assert (last["epoch"], last["seconds_left"]) == (2, 0)


def test_a_resumed_run_keeps_what_was_there_before(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    with training.stopped_after(7):
        training.fit()
    training.fit()
    assert [row["step"] for row in followed() if "loss" in row] == [3, 6, 9]


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed_is_refused_before_any_work(prepared, tmp_path, monkeypatch, name):
    if getattr(integration_utils, f"is_{name}_available")():
        pytest.skip(f"{name} is installed here")
    monkeypatch.chdir(training.link(prepared, tmp_path))
    with pytest.raises(VitloraError, match=rf"got {name}, which is not installed.*pip install.* {name}"):
        training.fit(train__report_to=[name])
    assert not Path("adapter").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_tracker_changes_no_byte_and_writes_beside_the_pipeline(prepared, tmp_path, monkeypatch, name):
    if not getattr(integration_utils, f"is_{name}_available")():
        pytest.skip(f"{name} is not installed here")
    monkeypatch.chdir(training.link(prepared, tmp_path))
    training.fit()
    golden, before = training.hashes(), {path.name for path in Path().iterdir()}
    training.fit(train__report_to=[name])
    assert training.hashes() == golden
    assert {path.name for path in Path().iterdir()} == before
    written = [path for path in Path(".work").rglob("*") if path.is_file() and name in str(path)]
    assert written
