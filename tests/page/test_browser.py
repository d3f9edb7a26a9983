"""The page in a real browser, opened as a file: what it says is what ``vitlora predict`` says, and it asks nobody."""

import base64
import io
import json
import os
import shutil

import numpy as np
import pytest
from browser import BROWSER, browser
from corpus import make_corpus
from PIL import Image

from vitlora import Classifier
from vitlora.core.errors import VitloraError
from vitlora.page.build import build
from vitlora.page.runtime import kept_in, runtime_files
from vitlora.storage.manifest import write_manifest
from vitlora.storage.squares import create_split, open_pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 70), "red": (200, 50, 40)}
SIZE = 32
FACTS = {
    "class_names": list(COLOURS),
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "image_size": SIZE,
    "interpolation": "bilinear",
    "calibration": {"coverage": 0.95, "images": 10, "temperature": 1.0, "threshold": 0.5},
}
KINDS = {"jpg": {"quality": 85}, "png": {}, "webp": {"quality": 80}, "gif": {}, "bmp": {}}
BOUND = {"fp32": 0.002, "int8": 0.1}  # as docs/page.md states it
READY = "document.documentElement.dataset.ready"
DONE = "document.querySelector('#state').textContent === 'Done'"
SHARES = "[...document.querySelectorAll('.card')].map((card) => JSON.parse(card.dataset.shares ?? 'null'))"
ANSWERS = "[...document.querySelectorAll('.card')].map((card) => card.querySelector('.text').innerText)"


def picture(rng, name):
    """Return a noisy picture of about one colour, of any size."""
    width, height = rng.integers(20, 200, 2)
    pixels = rng.normal(0, 25, (height, width, 3)) + COLOURS[name] + rng.normal(0, 40, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(100):
        kind = list(KINDS)[number % len(KINDS)]
        image = picture(rng, list(COLOURS)[number % 3])
        image.save(folder / f"{number:03d}.{kind}", **KINDS[kind])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny ViT whose head was fitted to three colours, exported in float32 and int8 as the pipeline does."""
    import torch
    from sklearn.linear_model import LogisticRegression
    from transformers import ViTConfig, ViTForImageClassification

    from vitlora.export.narrow import to_int8
    from vitlora.export.onnx_model import onnx_graph, save
    from vitlora.export.picture_graph import with_pictures
    from vitlora.images.pixels import resize_and_crop

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(**shape, image_size=SIZE, patch_size=8, num_labels=3)).eval()
    rng = np.random.default_rng(1)
    squares = np.stack([resize_and_crop(picture(rng, list(COLOURS)[row % 3]), SIZE, "bilinear") for row in range(90)])
    with torch.no_grad():
        seen = model.vit(torch.tensor(squares / np.float32(127.5) - 1)).last_hidden_state[:, 0].numpy()
        fitted = LogisticRegression(C=0.1, max_iter=1000).fit(seen, np.arange(90) % 3)
        model.classifier.weight.copy_(torch.tensor(fitted.coef_))
        model.classifier.bias.copy_(torch.tensor(fitted.intercept_))
    folder = tmp_path_factory.mktemp("export")
    graph = onnx_graph(model, 1.0, SIZE, 20)
    how = (SIZE, "bilinear", FACTS["image_mean"], FACTS["image_std"])
    save(with_pictures(graph, *how), folder / "model.onnx")
    save(with_pictures(to_int8(graph), *how), folder / "model_int8.onnx")
    (folder / "vitlora.json").write_text(json.dumps(FACTS), encoding="utf-8")
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def given(exported, pictures):
    """What predict gives: probabilities (100, 3)."""
    answers = Classifier(exported)(pictures)
    return np.array([[answer.probabilities[name] for name in COLOURS] for answer in answers])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Three test pictures, the last one with a wrong label."""
    folder = tmp_path_factory.mktemp("prepared")
    create_split(folder / "test", SIZE, ["b", "g", "r"], [0, 1, 1], ["0" * 64] * 3)
    open_pixels(folder / "test", "r+")[:] = np.array(list(COLOURS.values()), np.uint8)[:, :, None, None]
    labels = {key: FACTS[key] for key in ("class_names", "image_size", "interpolation")}
    (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def pages(exported, prepared, tmp_path_factory):
    """A page of each precision, by its name."""
    try:
        runtime_files(None, kept_in(os.environ))
    except VitloraError as error:
        pytest.skip(f"no runtime here: {error}")
    folder, made = tmp_path_factory.mktemp("pages"), {}
    for precision in ("int8", "fp32"):
        source = folder / precision
        shutil.copytree(exported, source)
        if precision == "fp32":
            (source / "model_int8.onnx").unlink()
            write_manifest(source)
        made[precision] = folder / f"{precision}.html"
        build(source, made[precision], prepared, 3, None, lambda line: None)
    return made


@pytest.fixture(scope="module")
def tab(pages, tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


def open_or_clear(tab, address):
    """Open a page; one that is open already is cleared, which saves a second."""
    if tab.run("location.href") != f"file://{address}" or not tab.run(READY):
        tab.open(f"file://{address}", READY)
    tab.run("document.querySelector('#clear').click()")


def classified(tab, address, files):
    """Return the shares that a page gives to files."""
    open_or_clear(tab, address)
    tab.choose("#files", files)
    tab.wait(DONE)
    return tab.run(SHARES)


def clean(tab):
    """Refuse what went wrong since the last time, and any request to elsewhere."""
    outside = [address for address in tab.requests if not address.startswith(("file://", "blob:null/", "data:"))]
    problems, tab.problems, tab.requests = tab.problems, [], []
    assert (outside, problems) == ([], [])


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_hundred_pictures_get_the_class_that_predict_gives_and_nobody_is_asked(
    tab, pages, given, pictures, precision
):
    found = np.array(classified(tab, pages[precision], pictures))
    clean(tab)
    assert set(given.argmax(axis=1)) == {0, 1, 2}
    assert found.argmax(axis=1).tolist() == given.argmax(axis=1).tolist()
    assert np.abs(found - given).max() <= BOUND[precision]


# What Chromium reads otherwise than Pillow: orientation of WebP, and the first frame of a PNG with a poster before it.
OTHERS = {*(f"exif_orientation/{number}.webp" for number in range(2, 9)), "animated_multi/poster and two.png"}
PLAIN = [
    case
    for case in make_corpus()
    if case.category in ("ok_control", "exif_orientation", "colour_modes", "animated_multi", "bad_metadata")
    and case.reason is None
    and not case.name.endswith((".tif", ".tiff"))
]
READ = """(async () => {
    const found = await pixelsOf(new Blob([bytesOf("%s")]));
    const text = Array.from(found.rgb, (level) => String.fromCharCode(level)).join("");
    return [found.width, found.height, btoa(text)];
})()"""


def test_odd_pictures_have_the_pixels_that_training_saw_but_for_a_level(tab, pages):
    open_or_clear(tab, pages["int8"])
    assert len(PLAIN) > 60
    differ = set()
    for case in PLAIN:
        width, height, text = tab.run(READ % base64.b64encode(case.data).decode())
        pixels = np.frombuffer(base64.b64decode(text), np.uint8)
        if case.pixels.shape[:2] != (height, width) or np.abs(
            pixels.reshape(case.pixels.shape).astype(int) - case.pixels
        ).max() > max(case.near, 1):
            differ.add(case.name)
    assert differ == OTHERS


def test_bad_files_are_named_and_the_others_go_on(tab, pages, pictures, tmp_path):
    bad = {
        "a note.txt": (b"hello", "not a picture that this browser can read"),
        "cut.jpg": (pictures[0].read_bytes()[:-40], "the file is cut short"),
        "cut.png": (pictures[1].read_bytes()[:60], "not a picture that this browser can read"),
        "empty.png": (b"", "the file is empty"),
        "thin.png": (png(np.zeros((40, 1, 3), np.uint8)), "40 px: too small"),
        "<img src=x onerror=alert(1)>.svg": (b"<svg onload='alert(1)'/>", "not a picture"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    files = [pictures[2], *(tmp_path / name for name in bad), pictures[3]]
    found = classified(tab, pages["int8"], files)
    assert [shares is None for shares in found] == [False, *[True] * len(bad), False]
    for (name, (_, says)), text in zip(bad.items(), tab.run(ANSWERS)[1:-1], strict=True):
        assert says in text
        assert "be read" in text
        assert text.splitlines()[-1] == name
    signs = tab.run("[...document.querySelectorAll('.thumb')].map((box) => getComputedStyle(box, '::after').content)")
    assert signs == ["none", *['"?"'] * len(bad), "none"]  # a half of cut.jpg could be shown, and is not
    assert tab.run("getComputedStyle(document.querySelector('.thumb img')).backgroundColor") == "rgb(255, 255, 255)"
    clean(tab)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


DROP = """(() => {
    const carried = new DataTransfer();
    carried.items.add(new File([bytesOf("%s")], "dropped.png", { type: "image/png" }));
    document.body.dispatchEvent(new %s("%s", { %s: carried, bubbles: true, cancelable: true }));
})()"""


def test_pictures_are_dropped_pasted_and_photographed_and_test_pictures_are_tried(tab, pages, pictures):
    open_or_clear(tab, pages["int8"])
    red = base64.b64encode(png(np.full((40, 60, 3), COLOURS["red"], np.uint8))).decode()
    tab.run(DROP % (red, "DragEvent", "drop", "dataTransfer"))
    tab.run(DROP % (red, "ClipboardEvent", "paste", "clipboardData"))
    tab.choose("#camera", pictures[:1])
    tab.run("document.querySelectorAll('#examples button').forEach((button) => button.click())")
    tab.wait(DONE)
    answers = tab.run(ANSWERS)
    assert [text.splitlines()[0] for text in answers] == ["red", "green", "blue", "blue", "red", "red"]
    assert ["✗ labelled green" in answers[0], "✓ as labelled" in answers[1]] == [True, True]
    assert ["photo, " in answers[3], "pasted picture, " in answers[4], "dropped.png, " in answers[5]] == [True] * 3
    tab.run("document.querySelector('.card .remove').click()")
    assert len(tab.run(ANSWERS)) == 5
    tab.run("document.querySelector('#clear').click()")
    assert tab.run("[document.querySelector('#results').hidden, document.activeElement.id]") == [True, "files"]
    clean(tab)


def test_pictures_that_come_before_the_model_is_ready_wait_for_it(tab, pages, pictures):
    tab.open(f"file://{pages['int8']}", "document.querySelector('#files')")
    tab.choose("#files", pictures[:3])
    tab.wait(DONE)
    assert all(tab.run(SHARES))


@pytest.mark.faults
def test_a_picture_of_many_pixels_is_scaled_first_and_says_so(tab, pages, tmp_path):
    Image.new("RGB", (6000, 3000), COLOURS["green"]).save(tmp_path / "large.jpg")
    (shares,) = classified(tab, pages["int8"], [tmp_path / "large.jpg"])
    assert np.argmax(shares) == 1
    assert "3000\xa0px, scaled to 16 megapixels first" in tab.run(ANSWERS)[0]


@pytest.mark.faults
def test_where_no_worker_starts_the_page_classifies_by_itself(tab, pages, pictures):
    usual = classified(tab, pages["int8"], pictures[:6])
    script = tab.ask("Page.addScriptToEvaluateOnNewDocument", source="delete window.Worker")["identifier"]
    tab.open("about:blank")
    assert classified(tab, pages["int8"], pictures[:6]) == usual
    assert tab.run("typeof Worker") == "undefined"
    tab.ask("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
    tab.open("about:blank")
    clean(tab)


@pytest.mark.faults
def test_what_keeps_it_from_starting_is_said(tab, pages, tmp_path):
    text = pages["int8"].read_text(encoding="utf-8")
    at = text.index('data-of="model">') + 400
    (tmp_path / "damaged.html").write_text(text[:at] + "AAAA" + text[at + 4 :], encoding="utf-8")
    tab.open(f"file://{tmp_path}/damaged.html", "document.querySelector('#state.note')")
    assert "be started: " in tab.run("document.querySelector('#state').textContent")
    tab.problems, tab.requests = [], []


@pytest.mark.faults
def test_no_text_of_a_class_becomes_a_part_of_the_page(tab, exported, tmp_path, pages):
    names = ["<img src=x onerror=alert(1)>", "</script><script>document.title='taken'</script>", "العربية & 日本語"]
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    (folder / "vitlora.json").write_text(json.dumps({**FACTS, "class_names": names}), encoding="utf-8")
    write_manifest(folder)
    build(folder, tmp_path / "page.html", None, 0, None, lambda line: None)
    (tmp_path / "red.png").write_bytes(png(np.full((40, 60, 3), COLOURS["red"], np.uint8)))
    classified(tab, tmp_path / "page.html", [tmp_path / "red.png"])
    assert tab.run(ANSWERS)[0].splitlines()[0] == names[2]
    assert names[0] in tab.run("document.querySelector('dl').innerText")
    assert tab.run("document.querySelectorAll('script:not([type])').length") == 2
    assert tab.run("document.title").startswith("3 classes: <img")
    clean(tab)


def test_nothing_runs_over_the_edge_and_light_and_dark_follow_the_system(tab, pages, pictures):
    classified(tab, pages["int8"], pictures[:3])
    for width, is_phone in ((320, True), (390, True), (820, True), (1280, False)):
        tab.resize(width, 800, is_phone=is_phone)
        assert tab.run("document.documentElement.scrollWidth - innerWidth") <= 0, width
        assert tab.run("getComputedStyle(document.querySelector('.camera')).display !== 'none'") == is_phone
        for name, least, most in (("light", 250, 255), ("dark", 0, 40)):
            tab.shade(name)
            shot = Image.open(io.BytesIO(tab.shoot(False))).convert("L")
            assert least <= np.asarray(shot)[:, :5].mean() <= most


def test_all_controls_are_named_and_reached_by_the_keyboard(tab, pages, pictures):
    classified(tab, pages["int8"], pictures[:2])
    names = []
    for _ in range(30):
        for kind in ("keyDown", "keyUp"):
            tab.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        names.append(
            tab.run(
                "(({ id, labels, ariaLabel, innerText }) => "
                "ariaLabel || labels?.[0]?.innerText || innerText || id)(document.activeElement)"
            )
        )
    assert {"Choose pictures", "Clear all", "Try a test picture of blue", "Remove 000.jpg"} <= set(names)
    assert "" not in names
