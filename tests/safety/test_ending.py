"""A process that has done its work ends without taking apart what it holds."""

import subprocess
import sys

import pytest
import tiny

CODE = """
import atexit
import sys
from vitlora.safety.ending import ends_at_once

class Held:
    def __del__(self):
        print("taken apart")

done = ends_at_once()
atexit.register(print, "handlers run")
held = Held()
print("output", end=" ")
"""


@pytest.mark.parametrize(
    ("last", "said", "code"),
    [
        ("done.append(True)", "output handlers run\n", 0),
        ("", "output handlers run\ntaken apart\n", 0),
        ("sys.exit(3)", "output handlers run\ntaken apart\n", 3),
    ],
    ids=["done", "not done", "failed"],
)
def test_what_was_done_ends_at_once_after_all_handlers(last, said, code):
    done = subprocess.run(
        [sys.executable, "-c", CODE + last],
        env={"PYTHONPATH": str(tiny.ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == (said, code)
