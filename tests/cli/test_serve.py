"""`vitlora serve`: what can't be served is refused before anything listens, with a cure that leads on."""

import os
import re
import socket
import subprocess
import sys

import pytest
from served import serving
from tiny import ROOT

from vitlora.cli import command_line, serve
from vitlora.core.errors import VitloraError


def act(*words):
    args = command_line(["serve"]).parse_args(["serve", *map(str, words)])
    serve.act(args)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-mb", "0"], r"--max-mb: got 0; the rule: 0\.001 to 2,000"),
        (["--max-mb", "nan"], r"--max-mb: got nan; the rule"),
        (["--max-pictures", "0"], r"--max-pictures: got 0; the rule: 1 to 10,000"),
        (["--max-pixels", "60000000"], r"--max-pixels: got 6e\+07; the rule: 4 to 52,000,000"),
        (["--max-seconds", "-1"], r"--max-seconds: got -1; the rule"),
        (["--max-read-seconds", "inf"], r"--max-read-seconds: got inf; the rule"),
        (["--max-requests", "0"], r"--max-requests: got 0; the rule"),
        (["--decoders", "0"], r"--decoders: got 0; the rule: 1 to 64"),
        (["--base", "models/base"], r"--base and --adapter: got one of them; the rule: both"),
        (["--adapter", "models/adapter"], r"--base and --adapter: got one of them; the rule: both"),
        (["no/such/folder"], r"no/such/folder holds no model\.onnx; name a folder that export made"),
        ([], r"models/export holds no model\.onnx; .*or name the folder: `vitlora serve FOLDER`"),
        (
            ["hf://me/pets"],
            r"hf://me/pets: got an address; the rule: a folder .*`hf download me/pets --local-dir pets`",
        ),
        (["a=hf://me/pets@0a1b"], r"`hf download me/pets --revision 0a1b --local-dir pets`"),
        (["https://example.com/model"], r"got an address; the rule: a folder of this machine; download it first"),
        (["a=x", "a=y"], r"two models are named a; the rule: a name each"),
        (["a b=x"], r"got the name 'a b'; the rule: letters"),
        (["--api-key-file", "no/such/file"], r"--api-key-file no/such/file: cannot be read \(No such file"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitloraError, match=said):
        act(*words)


@pytest.mark.parametrize(
    ("held", "said"),
    [("", "got no key"), (" \n\n", "got no key"), ("a b\n", "a key with spaces"), ("né", "outside ASCII")],
)
def test_a_file_without_a_good_key_is_refused(held, said, tmp_path, model):
    (tmp_path / "keys").write_text(held, encoding="utf-8")
    with pytest.raises(VitloraError, match=f"{said}.*; the rule: one key a line"):
        act("--api-key-file", tmp_path / "keys", model)


def test_an_empty_variable_is_no_open_door(monkeypatch, model):
    monkeypatch.setenv("VITLORA_API_KEY", "")
    with pytest.raises(VitloraError, match="VITLORA_API_KEY: got no key"):
        act(model)


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch, model):
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(VitloraError, match=r'needs uvicorn, not installed here; .*`pip install "vitlora\[serve\]"`'):
        act(model)


@pytest.mark.parametrize(
    "words", [["--host", "203.0.113.9"], ["--host", "no such host"], ["--port", "65536"], ["--port", "-1"]], ids=str
)
def test_an_address_that_is_not_ours_is_refused(words, model):
    with pytest.raises(VitloraError, match=r"cannot listen on .*; the rule: an address of this machine"):
        act(*words, model)


def test_a_taken_port_is_refused_and_port_0_takes_another(model):
    with socket.create_server(("127.0.0.1", 0)) as line:
        with pytest.raises(VitloraError, match=r"Address already in use; .*--port 0 takes a free one"):
            act("--port", line.getsockname()[1], model)
        with serving(f"cats={model}", "--decoders", "1") as server:  # by --port 0
            assert server.ask("GET", "/models")[2]["models"][0]["name"] == "cats"
            assert "note: " not in server.log.read_text()


def test_an_open_address_without_a_key_is_told(model):
    with serving(model, "--decoders", "1", "--host", "0.0.0.0", "--quiet") as server:
        assert server.log.read_text() == (
            "note: whoever reaches 0.0.0.0 may ask; --api-key-file or VITLORA_API_KEY sets a key\n"
        )
        assert server.ask("GET", "/health")[0] == 200
        assert server.end() == 0
        assert server.log.read_text().count("\n") == 1


def make(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("base", "adapter", "said"),
    [
        (["config.json", "model.safetensors"], [], r"--adapter: \S+/a holds no vitlora\.json; `dvc repro` makes"),
        (["config.json", "model.safetensors"], ["vitlora.json", "model.onnx"], r"holds no adapter_model\.safetensors"),
        (["config.json", "model.onnx"], ["vitlora.json", "trained.safetensors"], r"--base: \S+ holds no model\.safe"),
        (["vitlora.json"], ["vitlora.json", "trained.safetensors"], r"--base: \S+/b holds no config\.json"),
    ],
)
def test_a_missing_adapter_or_base_is_told_before_torch_is_imported(base, adapter, said, tmp_path):
    words = ["--base", make(tmp_path / "b", *base), "--adapter", make(tmp_path / "a", *adapter)]
    code = f"import sys; from vitlora.cli import main; sys.argv[1:] = {['serve', *map(str, words)]}\ntry: main()\n"
    code += "finally: print('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert re.search(said, done.stderr)
    assert (done.returncode, done.stdout) == (1, "False\n")
