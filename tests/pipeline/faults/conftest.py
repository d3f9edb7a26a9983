"""Where a fault happens, and a run whose training is long enough to be hit amid its steps."""

import shutil

import pytest
from faults import harness


@pytest.fixture
def scratch(tmp_path):
    """A folder for copies of the project, removed afterwards: hundreds of them would add up."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def long_run(tmp_path_factory):
    params = {"train.num_train_epochs": 12, "train.save_steps": 1}
    return harness.once(tmp_path_factory, "long", lambda root: harness.build(root, params))


@pytest.fixture(scope="session")
def workers_run(tmp_path_factory):
    params = {"train.dataloader_num_workers": 2, "train.save_steps": 1}
    return harness.once(tmp_path_factory, "workers", lambda root: harness.build(root, params))
