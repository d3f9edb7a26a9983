"""Set what must stand before anything is imported."""

import gc
import os
import signal
from contextlib import chdir
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; as the Makefile has it

import pytest
import torch

from vitlora.storage.manifest import write_manifest

pytest.register_assert_rewrite("faults.harness", "param_files", "tiny", "training")
pytest_plugins = ["faultlog"]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's own functions read it, when it is imported first

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background, whose children would ignore it too
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish():
    """Take what is imported out of the rubbish collector's way, which every training calls: 0.3 s of 0.7 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The tiny project's data and base, as the first two stages leave them; for reading only."""
    import training

    return training.prepare(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A working folder with the inputs of train and evaluate."""
    import training

    monkeypatch.chdir(tmp_path)
    return training.link(prepared, tmp_path)


@pytest.fixture(scope="session")
def all_forms(tmp_path_factory):
    """A tiny project, trained, evaluated, and exported in all formats whose package is installed; not to be changed."""
    import training

    root = training.prepare(tmp_path_factory.mktemp("all_forms"))
    with chdir(root):
        training.fit()
        training.evaluate_here()
        training.export_here(training.FORMATS, max_accuracy_drop=1)
        write_manifest(Path("export"))
    return root
