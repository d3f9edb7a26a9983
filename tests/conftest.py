"""Set what must stand before anything is imported."""

import os

import pytest
import torch

pytest.register_assert_rewrite("faults.harness")
pytest_plugins = ["faultlog"]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's own functions read it, when it is imported first


# Files that take longest, each for a good reason: many runs, many odd files, real servers and time limits.
SLOW = [
    "resume",
    "methods",
    "bundle",
    "fetch",
    "hostile_archives",
    "hostile_models",
    "ingest",
    "isolated",
    "predict",
    "duplicates",
]
SLOW += ["preprocess", "properties", "mixture"]


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker("slow")
