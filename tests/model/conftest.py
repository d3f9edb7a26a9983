"""What a model says when train saves it; a folder where any base model can be trained."""

import pytest
import training
from method_runs import logits

from vitlora.train import stage


@pytest.fixture
def trained_logits(monkeypatch):
    """The logits of every model that is saved, from before it is."""
    kept = []
    original = stage.save_adapter

    def save(model, *args):
        kept.append(logits(model))
        original(model, *args)

    monkeypatch.setattr(stage, "save_adapter", save)
    return kept


@pytest.fixture(scope="session")
def prepared_pictures(tmp_path_factory):
    return training.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def without_base(prepared_pictures, tmp_path, monkeypatch):
    """The working folder, with all inputs of train but the base model."""
    for part in training.INPUTS:
        if part != "base":
            (tmp_path / part).symlink_to(prepared_pictures / part)
    monkeypatch.chdir(tmp_path)
    return tmp_path
