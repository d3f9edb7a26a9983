"""A repository with results of one run, committed, and results of another in the workspace."""

import numpy as np
import pytest
import results
import tiny

LABELS = np.arange(400) % 4


@pytest.fixture
def labels():
    return LABELS


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """One run committed on main; the working folder is the repository."""
    root = results.make_repository(tmp_path / "project")
    results.write_run(root, results.make_logits(LABELS, 0.8), LABELS)
    tiny.commit(root)
    monkeypatch.chdir(root)
    for key, value in tiny.environment(root).items():
        monkeypatch.setenv(key, value)
    return root
