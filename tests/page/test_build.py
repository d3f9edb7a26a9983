"""The page holds the files that it was made of, whatever its texts say, and the same ones make the same page."""

import argparse
import base64
import hashlib
import json
import re
import shutil
import zlib
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest
from colours import FACTS, colour_model, write_export
from onnx import TensorProto

from vitlora.cli.page import act
from vitlora.core.errors import VitloraError
from vitlora.page import build as module
from vitlora.page.build import build
from vitlora.page.runtime import CODE, WASM
from vitlora.storage.squares import create_split, open_pixels

FILES = {CODE: b"export const one = 1;", WASM: bytes(range(256)) * 40}


@pytest.fixture(autouse=True)
def runtime(monkeypatch):
    """Files in place of the runtime's 14 MB, for what never opens the page."""
    monkeypatch.setattr(module, "runtime_files", lambda given, store: FILES)


@pytest.fixture
def exported(tmp_path):
    return write_export(tmp_path / "export", {"model.onnx": colour_model(), "model_int8.onnx": colour_model(scale=8.1)})


class Read(HTMLParser):
    """What a browser makes of a page: its elements with their attributes, and the text in them."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.within = [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.within = []
        self.elements.append((tag, dict(attrs), self.within))

    def handle_endtag(self, tag):
        self.within = None

    def handle_data(self, data):
        if self.within is not None:
            self.within.append(data)

    def all(self, tag, **wanted):
        found = [(attrs, "".join(texts)) for name, attrs, texts in self.elements if name == tag]
        return [(attrs, text) for attrs, text in found if wanted.items() <= attrs.items()]


def made(folder, tmp_path, said=None, name="page.html"):
    out = tmp_path / name
    build(folder, out, None, 0, None, (said if said is not None else []).append)
    return Read(out.read_text(encoding="utf-8"))


def unpacked(page, name):
    texts = [text for _, text in page.all("script", **{"data-of": name})]
    return zlib.decompress(base64.b64decode("".join(texts)))


def test_the_runtime_and_the_int8_model_are_in_it(exported, tmp_path):
    page = made(exported, tmp_path)
    assert unpacked(page, "runtime") == FILES[CODE]
    assert unpacked(page, "wasm") == FILES[WASM]
    assert unpacked(page, "model") == (exported / "model_int8.onnx").read_bytes()


@pytest.mark.parametrize("piece", [4, 40, 10_000_000])
def test_a_large_file_comes_in_pieces_each_of_which_can_be_decoded_by_itself(exported, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    page = made(exported, tmp_path)
    texts = [text for _, text in page.all("script", **{"data-of": "model"})]
    assert zlib.decompress(b"".join(map(base64.b64decode, texts))) == (exported / "model_int8.onnx").read_bytes()
    assert (len(texts) > 1) == (piece < 1000)


def test_equal_folders_make_equal_pages(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    made(exported, tmp_path, name="one.html")
    made(tmp_path / "copy", tmp_path, name="two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_the_policy_allows_its_own_scripts_and_style_and_no_connection(exported, tmp_path):
    page = made(exported, tmp_path)
    policy = dict(
        part.strip().split(" ", 1)
        for part in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0][0]["content"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert set(policy) == {"default-src", "script-src", "style-src", "worker-src", "img-src", "base-uri", "form-action"}
    run = [text for attrs, text in page.all("script") if "type" not in attrs]
    assert len(run) == 2
    for text, where in [*((each, "script-src") for each in run), (page.all("style")[0][1], "style-src")]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[where]
    assert not re.search(r"'unsafe-(inline|eval)'|http|\*", " ".join(policy.values()))


def test_nothing_in_it_names_another_place(exported, tmp_path):
    page = made(exported, tmp_path)
    addresses = [attrs[key] for _, attrs, _ in page.elements for key in ("src", "href", "action") if key in attrs]
    assert addresses == ["data:,"]
    assert not [attrs for _, attrs, _ in page.elements if any(key.startswith("on") for key in attrs)]
    assert "url(" not in page.all("style")[0][1]


ODD = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "</title><img src=x onerror=alert(1)>",
    "{{ packed }} {{ nothing }}",
    "\"quotes\" & 'more' \\u003c \\",
    "line\u2028and\u2029ends",
    "日本語 العربية עברית",
    "\ud800 half",
    "\x00\x1b[2J",
    r"\1\g<0>",
]


@pytest.mark.parametrize("name", ODD)
def test_a_class_may_have_any_name(tmp_path, name):
    facts = {**FACTS, "class_names": [name, "green", "red"]}
    plain = made(write_export(tmp_path / "plain", {"model_int8.onnx": colour_model()}), tmp_path)
    page = made(write_export(tmp_path / "odd", {"model_int8.onnx": colour_model()}, facts, f"# {name}"), tmp_path)
    assert [tag for tag, _, _ in page.elements] == [tag for tag, _, _ in plain.elements]
    found = json.loads(page.all("script", id="facts")[0][1])["classes"][0]
    assert found == "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)
    assert unpacked(page, "model") == colour_model()


def test_without_an_int8_model_the_other_is_taken_and_its_size_told_with_a_cure(tmp_path):
    folder = write_export(tmp_path / "export", {"model.onnx": colour_model()})
    said = []
    assert unpacked(made(folder, tmp_path, said), "model") == colour_model()
    assert re.search(r"note: .*model\.onnx is put in, 0\.0 MB; with onnx-int8 in export\.formats", said[0])
    write_export(folder, {"model_int8.onnx": colour_model(scale=9)})  # as `dvc repro` then does
    made(folder, tmp_path, said)
    assert len(said) == 1


def refused(folder, tmp_path):
    out = tmp_path / "page.html"
    out.write_text("the old page", encoding="utf-8")
    with pytest.raises(VitloraError) as caught:
        build(folder, out, None, 0, None, print)
    assert out.read_text(encoding="utf-8") == "the old page"
    assert not list(tmp_path.glob(".*.part"))
    return str(caught.value)


def test_a_model_that_takes_no_pictures_is_refused_and_a_new_export_cures_it(tmp_path):
    for name, form in (("pixel_values", TensorProto.FLOAT), ("input", TensorProto.UINT8)):
        folder = write_export(tmp_path / "export", {"model.onnx": colour_model(name, form)})
        assert "model.onnx takes pixel values; the rule: pictures" in refused(folder, tmp_path)
    made(write_export(folder, {"model.onnx": colour_model()}), tmp_path)


@pytest.mark.parametrize("name", ["model_int8.onnx", "vitlora.json"])
def test_a_damaged_folder_is_refused(exported, tmp_path, name):
    data = (exported / name).read_bytes()
    (exported / name).write_bytes(data[:50] + bytes([data[50] ^ 1]) + data[51:])
    assert re.search(rf"{name}: damaged", refused(exported, tmp_path))


def test_what_is_no_model_is_refused(tmp_path):
    for number, data in enumerate((b"", b"no model", colour_model()[:-40])):
        folder = write_export(tmp_path / str(number), {"model_int8.onnx": data})
        assert "model_int8.onnx" in refused(folder, tmp_path)


def test_a_model_whose_weights_lie_elsewhere_is_refused(tmp_path):
    model = onnx.load_from_string(colour_model())
    weight = model.graph.initializer[0]
    size = len(weight.raw_data)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "weights.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.extend(
        [
            onnx.StringStringEntryProto(key="location", value="weights.bin"),
            onnx.StringStringEntryProto(key="length", value=str(size)),
        ]
    )
    folder = write_export(tmp_path / "export", {"model_int8.onnx": model.SerializeToString()})
    assert "the rule: all inside the model" in refused(folder, tmp_path)


def test_a_model_that_no_browser_holds_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST", 100)
    assert "the rule: at most" in refused(exported, tmp_path)


def arguments(folder, tmp_path, **more):
    usual = {"model": folder, "out": tmp_path / "page.html", "examples": 10, "runtime": None}
    return argparse.Namespace(**{**usual, **more})


def test_the_verb_says_where_the_page_is_and_how_large(exported, tmp_path, capsys):
    act(arguments(exported, tmp_path))
    assert re.fullmatch(
        r".*page\.html, \d\.\d MB: open it in a browser, or send it to a phone\n", capsys.readouterr().out
    )


def test_pictures_of_the_project_are_put_into_the_page_of_its_own_model_only(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copytree(exported, tmp_path / "models/export")
    create_split(tmp_path / "data/prepared/test", 32, ["a.png", "b.png"], [0, 2], ["0" * 64] * 2)
    open_pixels(tmp_path / "data/prepared/test", "r+")[:] = np.uint8(90)
    labels = {key: FACTS[key] for key in ("class_names", "image_size", "interpolation")}
    (tmp_path / "data/prepared/labels.json").write_text(json.dumps(labels), encoding="utf-8")
    for folder, count, says in (
        ("models/export", 10, "with 2 test pictures in it"),
        (exported, 10, ""),
        ("models/export", 0, ""),
    ):
        act(arguments(tmp_path / folder, tmp_path, examples=count))
        out, told = capsys.readouterr()
        assert ("note: no test pictures are put in: they are of models/export only\n" in told) == (folder == exported)
        assert ("test picture" in out) == bool(says)
        assert says in out
        facts = Read((tmp_path / "page.html").read_text(encoding="utf-8")).all("script", id="facts")[0][1]
        assert [each["label"] for each in json.loads(facts)["examples"]] == ([0, 2] if says else [])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"examples": -1}, "--examples: got -1"),
        ({"out": "nowhere/page.html"}, "--out: there is no folder"),
        ({"out": "export"}, "--out: .* is a folder"),
        ({"model": "empty"}, "holds no model"),
    ],
)
def test_a_mistake_is_told_before_the_work(exported, tmp_path, more, says):
    more = {key: tmp_path / value if key != "examples" else value for key, value in more.items()}
    with pytest.raises(VitloraError, match=says):
        act(arguments(exported, tmp_path, **more))
