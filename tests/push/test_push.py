"""`vitlora push` with the real Hub client against a small Hub on this machine; what it leaves there loads by its id."""

import json
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from hub_server import PushHub, environment, serving
from PIL import Image

from vitlora.core.files import read_csv
from vitlora.push.upload import lacking
from vitlora.storage.manifest import write_manifest
from vitlora.storage.squares import load_split

pytestmark = pytest.mark.slow
# As other people load it: by the id alone.
LOADED = """
import sys
from peft import PeftModel
from transformers import AutoModelForImageClassification, pipeline

print(pipeline("image-classification", model="me/pets", device="cpu")("one.png", top_k=1)[0]["label"])
base = AutoModelForImageClassification.from_pretrained("base", num_labels=3, ignore_mismatched_sizes=True)
PeftModel.from_pretrained(base, "me/pets", subfolder="adapter")
"""


@pytest.fixture(scope="module")
def done(all_forms):
    """A project with an exported model in all formats, and a picture."""
    Image.fromarray(load_split(all_forms / "test").images[0].transpose(1, 2, 0)).save(all_forms / "one.png")
    return all_forms


@pytest.fixture(scope="module")
def server():
    with serving(PushHub()) as server:
        yield server


@pytest.fixture
def hub(server):
    server.reset()
    server.last = {}
    return server


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def vitlora(done, hub, *args, code=0, token="hf_writer"):
    env = environment(hub.host, done / "cache", **({"HF_TOKEN": token} if token else {}))
    command = [sys.executable, "-m", "vitlora", *args]
    told = subprocess.run(command, cwd=done, env=env, capture_output=True, text=True, timeout=120)
    assert told.returncode == code, told.stderr
    return told.stdout, told.stderr


def test_a_dry_run_lists_files_with_their_sizes_and_sends_nothing(done, hub):
    shown, said = vitlora(done, hub, "push", "me/pets", "--model", "export", "--dry-run", "--private", token=None)
    names = [line.split()[-1] for line in shown.splitlines()[:-1]]
    assert names == sorted(contents(done / "export"))
    assert shown.splitlines()[-1].endswith("to me/pets, branch main; nothing was sent. If it is new it will be private")
    assert (hub.requests, said) == ([], "")


def test_what_is_pushed_is_the_folder_and_loads_by_its_id_in_transformers_peft_and_here(done, hub):
    shown, _ = vitlora(done, hub, "push", "me/pets", "--model", "export", "--private")
    (commit,) = {hub.last["me/pets"]}
    held = hub.repos["models/me/pets"][commit]
    assert held == contents(done / "export")
    assert hub.private == {"me/pets": True}
    assert {"onnx/model.onnx", "onnx/model_quantized.onnx", "config.json", "preprocessor_config.json"} <= set(held)
    expected = read_csv(done / "scores/predictions.csv")[0]
    env = environment(hub.host, done / "theirs", HF_TOKEN="hf_writer")
    command = [sys.executable, "-c", LOADED]
    loaded = subprocess.run(command, cwd=done, env=env, capture_output=True, text=True, timeout=300)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == expected["predicted"]
    line = next(line for line in shown.splitlines() if line.startswith("vitlora predict"))
    assert f"@{commit}" in line
    for model in (f"hf://me/pets@{commit}", "hf://me/pets"):
        assert line.split()[3].startswith("hf://me/pets@")
        out, _ = vitlora(done, hub, "predict", "--model", model, "--top=1", "--json", "one.png")
        found = json.loads(out)["predictions"][0]
        assert found["class"] == expected["predicted"]
        assert found["confidence"] == pytest.approx(float(expected["confidence"]), abs=1e-3)
    out, _ = vitlora(done, hub, "predict", "--model", "hf://me/pets", "--precision", "int8", "--json", "one.png")
    assert json.loads(out)["predictions"]


def test_a_second_push_takes_forms_away_that_are_no_longer_exported_and_leaves_other_files(done, hub, tmp_path):
    vitlora(done, hub, "push", "me/pets", "--model", "export")
    hub.repos["models/me/pets"][hub.last["me/pets"]] |= {"LICENSE": b"MIT", ".gitattributes": b"*.onnx filter=lfs\n"}
    fewer = tmp_path / "fewer"
    shutil.copytree(done / "export", fewer)
    shutil.rmtree(fewer / "adapter")
    for name in ("model_int8.onnx", "onnx/model_quantized.onnx"):
        (fewer / name).unlink()
    write_manifest(fewer)
    vitlora(done, hub, "push", "me/pets", "--model", fewer)
    held = set(hub.repos["models/me/pets"][hub.last["me/pets"]])
    assert held == set(contents(fewer)) | {"LICENSE", ".gitattributes"}


@pytest.mark.parametrize(("token", "said"), [(None, "nobody is logged in"), ("hf_reader", "the token may not write")])
def test_without_the_right_to_write_it_says_what_to_do(done, hub, token, said):
    _, told = vitlora(done, hub, "push", "me/pets", "--model", "export", code=1, token=token)
    assert told.startswith(f"error: me/pets: the Hub refuses (HTTP 401): {said}")
    assert "`hf auth login`" in told
    assert told.count("\n") == 1


def test_what_can_not_be_pushed_is_refused_in_a_line_before_anything_is_sent(done, hub, tmp_path):
    for name in ("pets", "me/pets/x", "me pets/x", "https://example.com/me", "../x", "me/pets@main", "hf://me/pets"):
        _, told = vitlora(done, hub, "push", name, "--model", "export", code=1)
        assert "the rule: a Hub id, owner/name" in told
    shutil.copytree(done / "export", tmp_path / "odd")
    (tmp_path / "odd/notes.txt").write_text("mine")
    _, told = vitlora(done, hub, "push", "me/pets", "--model", tmp_path / "odd", code=1)
    assert "notes.txt: not in the manifest; the rule: a whole export" in told
    _, told = vitlora(done, hub, "push", "me/pets", "--model", tmp_path / "gone", code=1)
    assert "holds no model.onnx" in told
    for option in (["--branch", ""], ["--branch", "a b..c"], ["--message", " "]):
        _, told = vitlora(done, hub, "push", "me/pets", "--model", "export", *option, code=1)
        assert told.startswith(f"error: {option[0]}: got ")
    assert hub.requests == []


@pytest.mark.parametrize(
    "model", ["hf://me", "hf://me/pets@", "hf://", "hf://me/pets@a b", "hf://../x", "https://huggingface.co/me/pets"]
)
def test_an_id_that_is_none_is_refused(done, hub, model):
    _, told = vitlora(done, hub, "predict", "--model", model, "one.png", code=1)
    assert "the rule: hf://owner/name" in told or told.endswith("the rule: a folder, or hf://me/pets\n")
    assert hub.requests == []


def test_a_model_that_is_not_there_is_one_line(done, hub):
    _, told = vitlora(done, hub, "predict", "--model", "hf://me/nothing", "one.png", code=1)
    assert told.startswith("error: hf://me/nothing: 127.0.0.1")
    assert "has no such model or commit (HTTP 404)" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("commit", ["", "@main", f"@{'a' * 40}"])
def test_a_hub_that_can_not_be_reached_is_one_line_at_once(done, commit):
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    closed = SimpleNamespace(host=host)
    begun = time.monotonic()
    _, told = vitlora(done, closed, "predict", "--model", f"hf://me/pets{commit}", "one.png", code=1)
    assert told.startswith(f"error: hf://me/pets{commit}: cannot reach {host} (")
    assert told.count("\n") == 1
    assert time.monotonic() - begun < 20, "the client tries for 24 s where it is let"


def test_it_says_what_will_not_load_the_model():
    whole = ["model.safetensors", "onnx/model.onnx", "onnx/model_quantized.onnx", "adapter/adapter_config.json"]
    assert list(lacking(whole, "lora")) == []
    programs = ["transformers", "transformers.js", "transformers.js", "PEFT"]
    for name, program in zip(whole, programs, strict=True):
        (line,) = lacking([each for each in whole if each != name], "lora")
        assert line.startswith(f"{program} can't load it")
    assert list(lacking(whole[:3], "full")) == ["PEFT can't load it: lora.method full has no adapter"]
