"""One finished run of the tiny project, copied for each test that changes something."""

import shutil

import pytest
import tiny


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    root = tiny.make_project(tmp_path_factory.mktemp("run") / "project")
    assert tiny.dvc(root, "repro") == ["download", "preprocess", "train", "evaluate", "export"]
    tiny.commit(root)
    return root


@pytest.fixture
def project(finished_run, tmp_path):
    """A project whose five stages have run and whose results are committed."""
    return shutil.copytree(finished_run, tmp_path / "project", symlinks=True)
