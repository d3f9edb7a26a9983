"""The built wheel in an environment of its own: nothing of the pipeline is there, and predict and the API work."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from foreign import exported
from PIL import Image
from tiny import ROOT

pytestmark = pytest.mark.slow
UNREACHED = ("error sending request", "dns error", "Could not connect", "Failed to fetch", "timed out", "tunnel error")
TOOLS = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
ENV = {name: value for name, value in os.environ.items() if name not in TOOLS}


def uv(*words):
    """Run uv; where no package index answers, the test is skipped with uv's own reason."""
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words],
        env=ENV,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode and any(words in done.stderr for words in UNREACHED):
        pytest.skip(f"the package index can't be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    uv("build", "--wheel", "--out-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `bin` of an environment with the wheel, and beside it an exported folder and a picture."""
    root = tmp_path_factory.mktemp("small")
    uv("venv", "--python", sys.executable, str(root / "venv"))
    uv("pip", "install", "--python", str(root / "venv"), f"{wheel}[predict]")
    (root / "models/export").mkdir(parents=True)
    exported(root / "models/export")
    Image.new("RGB", (30, 20), "white").save(root / "cat.jpg")
    return root


def run(root, *words):
    return subprocess.run(words, env=ENV, cwd=root, capture_output=True, text=True, check=False, timeout=60)


def test_the_wheel_holds_the_package_with_its_templates_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {path for path in (ROOT / "src/vitlora").rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert names == {str(path.relative_to(ROOT / "src")) for path in ours}
    assert {"vitlora/report/page.html", "vitlora/export/card.md", "vitlora/py.typed"} <= names


def test_two_builds_are_equal_to_the_bit(wheel, tmp_path):
    uv("build", "--wheel", "--out-dir", str(tmp_path))
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_install_is_small(installed):
    (site,) = (installed / "venv/lib").glob("python*/site-packages")
    found = {path.name.split("-")[0].lower() for path in site.glob("*.dist-info")}
    assert {"vitlora", "numpy", "pillow", "onnxruntime", "simplejpeg"} <= found
    assert not {"torch", "transformers", "peft", "dvc", "datasets", "onnx", "scipy", "pydantic", "rich"} & found
    assert sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) < 250e6


def test_the_verb_and_the_three_lines_work_there(installed):
    said = run(installed, "venv/bin/vitlora", "predict", "--json", "cat.jpg")
    assert said.returncode == 0, said.stderr
    (row,) = map(json.loads, said.stdout.splitlines())
    (installed / "three.py").write_text(
        "from vitlora import Classifier\n"
        'model = Classifier("models/export")\n'
        'print([*model("cat.jpg").probabilities])\n'
    )
    answered = run(installed, "venv/bin/python", "three.py")
    assert answered.returncode == 0, answered.stderr
    assert answered.stdout == f"{[each['class'] for each in row['predictions']]}\n"
    assert said.stderr == answered.stderr == ""


def test_processes_work_in_a_script_that_guards_its_own_code(installed):
    (installed / "many.py").write_text(
        "from vitlora import Classifier\n"
        'if __name__ == "__main__":\n'
        '    with Classifier("models/export", workers=2) as model:\n'
        '        print(len(model(["cat.jpg"] * 99)))\n'
    )
    answered = run(installed, "venv/bin/python", "many.py")
    assert (answered.returncode, answered.stdout) == (0, "99\n"), answered.stderr


@pytest.mark.parametrize("verb", ["compare", "recover", "report", "run"])
def test_another_verb_says_where_it_works(installed, verb):
    said = run(installed, "venv/bin/vitlora", verb)
    assert said.returncode == 1
    assert said.stderr.startswith(f"error: `vitlora {verb}` is of the pipeline, which is not installed here; ")
    assert said.stderr.count("\n") == 1


def test_serve_says_which_extra_brings_what_it_needs(installed):
    """The extra itself is tried in tests/serve/test_container.py."""
    said = run(installed, "venv/bin/vitlora", "serve")
    assert said.returncode == 1
    assert said.stderr.startswith("error: `vitlora serve` needs fastapi, uvicorn, python-multipart, prometheus-client")
    assert '`pip install "vitlora[serve]"`' in said.stderr


def test_help_lists_what_works_there(installed):
    said = run(installed, "venv/bin/vitlora", "--help")
    assert (said.returncode, said.stderr) == (0, "")
    assert "predict" in said.stdout
    assert "serve" in said.stdout
    assert "compare" not in said.stdout


def test_it_can_be_asked_for_without_the_script(installed):
    assert run(installed, Path("venv/bin/python"), "-m", "vitlora", "predict", "cat.jpg").stdout.startswith("cat.jpg: ")
