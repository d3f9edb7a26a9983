"""Every block of docs/use.md, as a person would type it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from PIL import Image
from tiny import ROOT

from vitlora.core.files import read_csv
from vitlora.storage.squares import load_split

pytestmark = pytest.mark.slow
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/use.md").read_text(encoding="utf-8"), re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
SHELL = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
SCRIPTS = [text for kind, text in BLOCKS if kind == "js"]
PACKAGES = ("onnxruntime-node", "sharp", "@huggingface/transformers")


@pytest.fixture
def place(all_forms, tmp_path):
    """A folder as the page supposes it, and the class of cat.jpg."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models/export").symlink_to(all_forms / "export")
    (tmp_path / "models/base").symlink_to(all_forms / "base")
    square = Image.fromarray(load_split(all_forms / "test").images[0].transpose(1, 2, 0))
    square.save(tmp_path / "cat.jpg", "PNG")  # content decides, and a JPEG would not be the square any more
    (tmp_path / "pictures").mkdir()
    square.save(tmp_path / "pictures/one.png")
    return tmp_path, read_csv(all_forms / "scores/predictions.csv")[0]["predicted"]


def run(place, *command):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Each block in names of its own; after the first, which needs no torch, in one process: torch takes seconds.
EACH = """
import sys
for text in sys.argv[1:]:
    exec(text, {"__name__": "__main__"})
    print("end of a block")
"""


@pytest.mark.parametrize("blocks", [PYTHON[:1], PYTHON[1:]], ids=["without torch", "with"])
def test_python_blocks_run_and_name_the_class(place, blocks):
    folder, name = place
    said = run(folder, sys.executable, "-c", EACH, *blocks).split("end of a block\n")
    assert [each.strip() for each in said] == [*(name if "print" in text else "" for text in blocks), ""]


def test_the_shell_and_http_lines_run(place):
    folder, name = place
    predict, to_file, serve, curl = [line for line in SHELL if "page" not in line]
    vitlora = [sys.executable, "-m", "vitlora"]
    assert f" {name} " in run(folder, *vitlora, *predict.split()[1:])
    run(folder, *vitlora, *to_file.split()[1:])
    assert read_csv(folder / "answers.csv")[0]["class"] == name
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [*vitlora, *serve.split()[1:], "--port", port]
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        try:
            asked = [
                *curl.replace("8000", port).split(),
                "-s",
                "--retry",
                "60",
                "--retry-connrefused",
                "--retry-delay",
                "1",
            ]
            told = json.loads(run(folder, *asked))
            assert told["answers"][0]["label"] == name
        finally:
            server.terminate()
        assert server.wait(30) == 0


@pytest.mark.faults
@pytest.mark.parametrize("text", SCRIPTS, ids=["onnxruntime", "transformers.js"])
def test_javascript_blocks_name_the_class(place, text):
    if not shutil.which("node"):
        pytest.skip("no Node.js here")
    folder, name = place
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *PACKAGES]
    if subprocess.run(command, cwd=folder, capture_output=True, timeout=300).returncode:
        pytest.skip("the packages can't be fetched from npm here")
    (folder / "block.mjs").write_text(text)
    assert run(folder, "node", "block.mjs").strip() == name
