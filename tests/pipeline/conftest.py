"""One finished run of the tiny project for all workers, copied for each test that changes something."""

import shutil

import pytest
from faults import harness


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    return harness.once(tmp_path_factory, "finished", lambda root: harness.build(root, {"train.save_steps": 1}))


@pytest.fixture
def project(finished_run, tmp_path):
    """A project whose five stages have run and whose results are committed."""
    return shutil.copytree(finished_run, tmp_path / "project", symlinks=True)
