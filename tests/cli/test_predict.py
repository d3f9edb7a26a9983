"""`vitlora predict` as people type it, on files and addresses, and how names from outside look on a terminal."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from foreign import GOOD, fill, predict
from PIL import Image
from tiny import DIGITS, ROOT, make_images, set_params

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.download.sources import from_folder
from vitlora.predict.inputs import names
from vitlora.storage.manifest import write_manifest


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture_server():
    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(png())))
            self.end_headers()
            self.wfile.write(png())

    asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_private_address_is_read_only_if_asked_for(model, picture_server):
    url, asked = picture_server
    _, said = predict(model, f"{url}/a.png", code=1)
    assert f"{url}/a.png: 127.0.0.1, not a public address; --allow-private" in said
    assert asked == []
    shown, _ = predict(model, "--allow-private", f"{url}/a.png")
    assert shown.startswith(f"{url}/a.png: ")
    assert asked == ["/a.png"]


@pytest.mark.slow
def test_control_characters_in_names_of_files_and_classes_are_escaped(model, tmp_path):
    for name in ("a\x1b]0;owned\x07.png", "b\r\n.png", "c\x9b2J.png", "d\u202egnp.exe", "é\u200d.png"):
        (tmp_path / name).write_bytes(png() if name != "b\r\n.png" else b"no picture")
    shown, said = predict(model, tmp_path, code=1)
    for text in (shown, said):
        assert all(char.isprintable() or char in "\n\u200d" for char in text)
    assert "a\\x1b]0;owned\\x07.png: \\x1b[2Jcat 50.0%, dog 50.0%\n" in shown
    assert "b\\r\\n.png: not a picture" in said
    shown, _ = predict(model, "--json", tmp_path, code=1)
    assert shown.isascii()
    assert json.loads(shown.splitlines()[0])["predictions"][0]["class"] == "\x1b[2Jcat"


@pytest.mark.slow
def test_pipes_and_devices_are_no_pictures_and_do_not_hang(model, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "x.png").write_bytes(png())
    _, said = predict(model, tmp_path / "pipe.png", "/dev/zero", tmp_path / "loop.png", code=1)
    assert f"{tmp_path}/pipe.png: not a regular file\n/dev/zero: not a regular file\n" in said
    assert list(names([str(tmp_path)])) == [f"{tmp_path}/{name}" for name in ("loop.png", "pipe.png", "up", "x.png")]
    shown, said = predict(model, tmp_path, code=1)
    assert shown.startswith(f"{tmp_path}/x.png: ")
    assert said.count("\n") == 4
    assert f"{tmp_path}/loop.png: Too many levels of symbolic links\n{tmp_path}/pipe.png: not a regular file\n" in said


@pytest.mark.slow
def test_a_byte_in_a_name_that_is_not_utf8_is_shown_as_an_escape_in_any_locale(model, tmp_path):
    odd = os.path.join(os.fsencode(tmp_path), b"\xff.png")
    with open(odd, "wb") as file:
        file.write(png())
    for env in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0"}):
        shown, _ = predict(model, odd, **env)
        assert f"{tmp_path}/\\udcff.png: " in shown


@pytest.mark.parametrize("content", [None, b"<html>", b"\xff"])
def test_a_model_folder_without_its_facts_is_one_line(model, tmp_path, content):
    (tmp_path / "model.onnx").write_bytes((model / "model.onnx").read_bytes())
    if content is not None:
        (tmp_path / "vitlora.json").write_bytes(content)
    write_manifest(tmp_path)
    _, said = predict(tmp_path, "x.png", code=1)
    assert said.startswith(f"error: {tmp_path}/vitlora.json")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cat/1.png", "cat/1.png"),
        ("Café Ünï 猫 🐈 می\u200cخواهم", "Café Ünï 猫 🐈 می\u200cخواهم"),  # noqa: RUF001
        ("👨\u200d👩", "👨\u200d👩"),
        ("\x1b[31m\x07\0\t\n", "\\x1b[31m\\x07\\x00\\t\\n"),
        ("\x7f\x85\x9b", "\\x7f\\x85\\x9b"),
        ("\u202e\u2066\u2028\ufeff", "\\u202e\\u2066\\u2028\\ufeff"),
        ("\udcff", "\\udcff"),
    ],
    ids=ascii,
)
def test_names_are_shown_as_they_are_but_for_what_steers_a_terminal(text, shown):
    assert printable(text) == shown


# Options


def piped(model, data, *args, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "vitlora", "predict", "--model", model, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        input=data,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


@pytest.mark.slow
def test_standard_input_is_a_picture_or_a_list(model, tmp_path):
    (tmp_path / "x y.png").write_bytes(png())
    assert piped(model, png(), "-")[0].startswith("-: ")
    assert piped(model, b"", "-", code=1)[1].startswith("-: empty file\n")
    shown, said = piped(model, f"{tmp_path}/x y.png\n{tmp_path}/gone\n".encode(), "--from-file", "-", code=1)
    assert shown.startswith(f"{tmp_path}/x y.png: ")
    assert said == f"{tmp_path}/gone: No such file or directory\nerror: 1 picture could not be read; named above\n"


def test_out_never_takes_the_place_of_a_pipe_or_device(model, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    args = command_line(["predict"]).parse_args(["predict", "--model", str(model), "x", "--out", f"{tmp_path}/pipe"])
    with pytest.raises(VitloraError, match=r"pipe is a pipe or device; the rule: a file"):
        args.act(args)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("words", [["-"], ["--from-file", "-"]], ids=str)
def test_a_closed_standard_input_is_one_line(model, monkeypatch, words):
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    args = command_line(["predict"]).parse_args(["predict", "--model", str(model), *words])
    with pytest.raises(VitloraError, match=r"^-: standard input is closed; the rule: "):
        args.act(args)


@pytest.mark.slow
def test_out_is_written_whole_and_every_picture_is_in_it(model, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(70):
        (pictures / f"{number:02}.png").write_bytes(png() if number % 9 else b"no picture")
    for form in ("csv", "jsonl"):
        shown, said = predict(model, "--format", form, "--out", tmp_path / form, pictures, code=1)
        assert shown == ""
        assert said.count("not a picture") == 8
        with (tmp_path / form).open(newline="") as file:
            rows = list(csv.DictReader(file)) if form == "csv" else [json.loads(line) for line in file]
        assert [row["image"] for row in rows] == [f"{pictures}/{number:02}.png" for number in range(70)]
        assert [number for number, row in enumerate(rows) if row.get("error")] == list(range(0, 70, 9))
    (tmp_path / "link").symlink_to("csv")
    predict(model, "--out", tmp_path / "link", pictures, code=1)
    assert (tmp_path / "csv").read_text().count("cat") == 62
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "jsonl", "link", "pictures"]


@pytest.mark.slow
def test_two_runs_to_one_file_do_not_mix(model, tmp_path):
    (tmp_path / "x.png").write_bytes(png())
    command = [sys.executable, "-m", "vitlora", "predict", "--model", model, "--out", tmp_path / "out", "-"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as waits:
        while not list(tmp_path.glob(".out*")):
            assert waits.poll() is None
            time.sleep(0.02)
        predict(model, "--out", tmp_path / "out", tmp_path / "x.png")
        assert (tmp_path / "out").read_text().startswith(f"{tmp_path}/x.png: ")
        assert waits.communicate(png(), timeout=60)[1] == b""
    assert (waits.returncode, (tmp_path / "out").read_text()[:3]) == (0, "-: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.png"]
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "x.png").stat().st_mode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--top", "0", "x.png"], "--top: got 0; the rule: at least 1"),
        (["--threshold", "1.5", "x.png"], "--threshold: got 1.5; the rule: 0 to 1"),
        (["--threshold", "nan", "x.png"], "--threshold: got nan; the rule: 0 to 1"),
        (["--json", "--format", "csv", "x.png"], "--json and --format: got csv; the rule: one of the two"),
        ([], "no IMAGE; the rule: "),
        (["-", "-"], "standard input is named twice; the rule: "),
        (["-", "--from-file", "-"], "standard input is named twice; the rule: "),
        (["--from-file", "gone"], "--from-file: cannot read gone"),
        (["--set", "x.png"], "keeps no threshold of prediction sets; leave --set out"),
        (["--out", "gone/x.csv", "x.png"], "--out: there is no folder gone; make it first"),
        (["--out", "x.png", "x.png"], "--out: x.png is a picture, which would be lost; the rule: another name"),
        (["--model", "gone", "x.png"], "gone holds no model.onnx; "),
    ],
    ids=str,
)
def test_a_mistake_in_the_options_is_one_line_and_its_cure_helps(model, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").write_bytes(png())
    args = command_line(["predict"]).parse_args(["predict", "--model", str(model), *words])
    with pytest.raises(VitloraError) as caught:
        args.act(args)
    assert said in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png"]
    cured = command_line(["predict"]).parse_args(["predict", "--model", str(model), "x.png"])
    cured.act(cured)


@pytest.mark.parametrize(("words", "code"), [(["--format", "xml", "x"], 2), (["--tops", "1", "x"], 2)])
def test_a_word_that_is_no_option_ends_with_2(model, words, code):
    with pytest.raises(SystemExit) as ended:
        command_line(["predict"]).parse_args(["predict", *words])
    assert ended.value.code == code


# Stages


def stage(root, **env):
    done = subprocess.run(
        [sys.executable, "-m", "stages.download", "--raw", root / "raw", "--base", root / "base"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", **env},
        capture_output=True,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def project(tmp_path):
    """Pictures in odd folders, and a base model of one number."""
    (tmp_path / "params.yaml").write_bytes(DIGITS.read_bytes())
    fill(tmp_path / "tiny", GOOD)
    make_images(tmp_path / "pictures", per_class=1)
    (tmp_path / "pictures/blue").rename(tmp_path / "pictures/bleu très pâle 🐈")
    values = {"data.source": "folder", "data.path": "pictures", "model.source": "folder", "model.path": "tiny"}
    set_params(tmp_path / "params.yaml", values)
    return tmp_path


@pytest.mark.slow
def test_the_c_locale_without_utf8_gives_the_same_bytes(project):
    results = []
    for env in ({}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        code, _, said = stage(project, **env)
        assert code == 0, said
        results.append({path.name: path.read_bytes() for path in (project / "raw").iterdir()})
    assert results[0] == results[1]
    assert "bleu très pâle 🐈".encode() in results[0]["classes.json"]


@pytest.mark.parametrize("name", ["a\x1b[2J", "b\n", "c\x7f", "d\u2028", "e\\f"])
def test_a_class_folder_with_a_control_character_or_backslash_is_refused(tmp_path, name):
    make_images(tmp_path / "pictures", per_class=1)
    (tmp_path / "pictures/blue").rename(tmp_path / "pictures" / name)
    with pytest.raises(VitloraError) as caught:
        from_folder(tmp_path / "pictures")
    assert f"has the class {name!r}; the rule: a name in UTF-8, without slashes and control" in str(caught.value)


def test_an_error_of_a_stage_shows_a_name_escaped_and_on_one_line(project):
    (project / "pictures/red").rename(project / "pictures/a\n\x1b[2J")
    code, _, said = stage(project)
    assert code == 1
    assert said.startswith("error: data.path: pictures has the class 'a\\n\\x1b[2J'; the rule: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["two words", "emoji 🐈", "CON", "-rf", "a" * 255, "é", "#", "'\"", "%s", "x..."])
def test_other_odd_class_names_are_kept_unchanged(tmp_path, name):
    make_images(tmp_path / "pictures", per_class=1)
    (tmp_path / "pictures/blue").rename(tmp_path / "pictures" / name)
    assert name in from_folder(tmp_path / "pictures").class_names


def test_a_bad_picture_is_named_with_its_control_characters_escaped(capsys):
    from vitlora.preprocess.params import Ingest
    from vitlora.preprocess.stage import refuse_bad

    with pytest.raises(VitloraError):
        refuse_bad(
            {"cat/\x1b[2J.png": "broken \x07"},
            9,
            Ingest(on_bad="fail", max_bad_fraction=0.1, on_left_out="fail", on_duplicate="fail"),
        )
    assert capsys.readouterr().out == "bad image: cat/\\x1b[2J.png: broken \\x07\n"


def test_a_socket_among_the_pictures_is_left_out_and_named(project):
    with socket.socket(socket.AF_UNIX) as held, pytest.MonkeyPatch.context() as patch:
        patch.chdir(project / "pictures/red")
        held.bind("s\x1b.png")
        code, shown, _ = stage(project)
    assert code == 0
    assert "note: 1 not used (a link, pipe, socket or device): red/s\\x1b.png\n" in shown


def test_a_reader_that_has_seen_enough_ends_a_verb_quietly():
    script = "from vitlora.core.entry import run; run(lambda: [print('x' * 1000) for _ in range(1000)])"
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "{script}" | head -1; echo ${{PIPESTATUS[0]}}'],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "141"


@pytest.mark.parametrize("litter", [[], ["Thumbs.db"], [".DS_Store", "@eaDir/1.jpg"]])
def test_a_folder_without_pictures_is_an_error(model, tmp_path, litter):
    folder = tmp_path / "empty"
    folder.mkdir()
    for name in litter:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    shown, said = predict(model, folder, code=1)
    assert shown == ""
    assert said == f"error: {folder}: no picture there; the rule: pictures, or folders of them\n"
