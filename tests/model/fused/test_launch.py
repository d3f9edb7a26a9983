"""What Triton compiles, and when: as the first step starts, and never again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vitlora

pytest.importorskip("triton", reason="this platform has no wheel of Triton")

pytestmark = pytest.mark.slow  # a process of its own

SCRIPT = Path(__file__).parents[2] / "support/triton_variants.py"


@pytest.fixture(scope="module")
def variants() -> tuple[dict[str, int], dict[str, int]]:
    kept = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    kept["PYTHONPATH"] = str(Path(vitlora.__file__).parents[1])
    ran = subprocess.run([sys.executable, SCRIPT], env=kept, capture_output=True, text=True, check=False)
    assert not ran.returncode, ran.stderr
    return tuple(json.loads(ran.stdout))


def test_layers_and_batches_of_any_size_share_what_is_compiled_before_the_first_step(variants):
    first, last = variants
    assert first == last


def test_one_variant_of_a_kernel_serves_all_layers_and_two_where_the_work_differs(variants):
    assert variants[1] == {
        "_add_norm": 2,  # the first layer has nothing to add
        "_attend": 2,  # in the last layer the class token asks alone
        "_grad_kv": 2,
        "_grad_q": 2,
        "_lora_down": 1,
        "_lora_input_grad": 1,
        "_multiply": 6,  # with GELU and h, GELU alone, its slope; for many rows and for few
        "_norm_backward": 1,
        "_patches": 2,  # memory orders
        "_tall_product": 2,  # with dropout for A, without for B
    }
