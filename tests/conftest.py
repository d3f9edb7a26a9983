"""Set what must stand before anything is imported."""

import os

import pytest
import torch

pytest.register_assert_rewrite("faults.harness")
pytest_plugins = ["faultlog"]

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton's own functions read it, when it is imported first
