"""Where a fault happens, and a run whose training is long enough to be hit amid its steps."""

import shutil

import pytest
import tiny
from faults import harness


@pytest.fixture
def scratch(tmp_path):
    """A folder for copies of the project, removed afterwards: hundreds of them would add up."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.fixture(scope="session")
def long_training(finished_run, tmp_path_factory):
    """The finished project, trained for longer; what follows has not run."""

    def train(root):
        shutil.copytree(finished_run, root, symlinks=True)
        tiny.set_params(root / "params.yaml", {"train.num_train_epochs": 12})
        assert harness.repro(root, "train") == ["train"]
        tiny.commit(root)

    return harness.once(tmp_path_factory, "long", train)


@pytest.fixture(scope="session")
def long_run(long_training, tmp_path_factory):
    def follow(root):
        shutil.copytree(long_training, root, symlinks=True)
        harness.repro(root)
        tiny.commit(root)

    return harness.once(tmp_path_factory, "long to the end", follow)


@pytest.fixture(scope="session")
def workers_run(tmp_path_factory):
    params = {"train.dataloader_num_workers": 2, "train.save_steps": 1}
    return harness.once(tmp_path_factory, "workers", lambda root: harness.build(root, params))
