"""What a model says when train saves it."""

import pytest
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
