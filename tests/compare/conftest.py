"""A repository with results of one run, committed, and results of another in the workspace."""

import shutil

import numpy as np
import pytest
import results
import tiny

LABELS = np.arange(400) % 4


@pytest.fixture(scope="session")
def labels():
    return LABELS


@pytest.fixture(scope="session")
def committed(tmp_path_factory):
    root = results.make_repository(tmp_path_factory.mktemp("committed") / "project")
    results.write_run(root, results.make_logits(LABELS, 0.8), LABELS)
    tiny.commit(root)
    return root


@pytest.fixture
def repository(committed, tmp_path, monkeypatch):
    """One run committed on main; the working folder is the repository."""
    root = shutil.copytree(committed, tmp_path / "project")
    monkeypatch.chdir(root)
    for key, value in tiny.environment(root).items():
        monkeypatch.setenv(key, value)
    return root
