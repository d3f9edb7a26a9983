"""A project with two runs that the report shows."""

import numpy as np
import pytest
import results
import tiny
from reports import EACH, NAMES, make_pictures, make_report_run


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    """A project with one run committed, and another, a little worse, in the workspace."""
    root = results.make_repository(tmp_path_factory.mktemp("report") / "project")
    labels = np.repeat(np.arange(len(NAMES)), EACH)
    first = results.make_logits(labels, 0.9, 0)
    make_report_run(root, first, labels)
    tiny.commit(root)
    make_report_run(root, results.flip(first, [1, 40, 70, 95]), labels, params={"lora.r": 4})
    make_pictures(root, labels)
    return root


@pytest.fixture
def in_project(two_runs, monkeypatch):
    monkeypatch.chdir(two_runs)
    return two_runs
