"""The page in a real browser, under its own rules: pictures are answered, explained, refused; a key unlocks it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from acted import acted
from corpus import saved
from PIL import Image
from served import serving

from vitlora.storage.manifest import write_manifest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", *QUIET)
ACT = """
addEventListener("securitypolicyviolation", event => document.title += " violated " + event.violatedDirective);
const file = async name => new File([await (await fetch("/" + name)).blob()], name);
const wait = async is => { for (let n = 0; n < 600 && !is(); n++) await new Promise(r => setTimeout(r, 50)); };
const told = () => [...document.querySelectorAll(".card")].map(card => card.innerText);
const done = () => {
  document.title = "done" + document.title.replace(/^[^?]*[?]/, "");
  const end = document.createElement("pre"), over = document.documentElement.scrollWidth - innerWidth;
  const says = by("says").hidden ? "" : by("says").textContent;
  end.id = "told";
  end.textContent = JSON.stringify({ cards: told(), over, says });
  document.body.append(end);
};
"""
TWO = """
(async () => {
  await wait(() => by("about").textContent);
  await take([await file("noise.png"), await file("broken.png")]);
  await wait(() => !document.querySelector(".wait"));
  document.querySelector(".card button").click();
  await wait(() => document.querySelectorAll(".card button").length === 0);
  done();
})();
"""
LOCKED = """
(async () => {
  await wait(() => !by("lock").hidden);
  by("key").value = "wrong"; by("lock").requestSubmit(by("lock").lastChild);
  await wait(() => !by("says").hidden);
  const said = by("says").textContent;
  by("key").value = "open"; by("lock").requestSubmit(by("lock").lastChild);
  await wait(() => by("about").textContent);
  await take([await file("noise.png")]);
  done();
  document.getElementById("told").dataset.said = said;
})();
"""


def browse(folder, *words):
    command = [BROWSER, *HEADLESS, f"--user-data-dir={folder / 'profile'}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def outcome(folder, address, width):
    done = browse(folder, f"--window-size={width},900", "--virtual-time-budget=60000", "--dump-dom", address)
    found = re.search(r'<pre id="told"(?: data-said="([^"]*)")?>(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-3000:]
    assert "violated" not in re.search(r"<title>(.*?)</title>", done.stdout)[1]
    return json.loads(found[2].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")), found[1]


def pictures():
    noise = saved(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8), "PNG")
    return {"/noise.png": noise, "/broken.png": noise[:-50]}


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_pictures_are_answered_and_explained(server, tmp_path, width):
    with acted(server.port, ACT + TWO, pictures()) as (address, asked):
        found, _ = outcome(tmp_path, address, width)
    noise, broken = found["cards"]  # in the order given
    assert "noise.png" in noise
    assert "be read" in broken
    assert "ends" in broken
    assert "dog" in noise
    assert re.search(r"\d\.\d%", noise)
    assert "hang" in noise
    assert (found["over"] <= 0, found["says"]) == (True, "")
    assert [(path.split("?")[0], status) for way, path, status in asked if way == "POST"].count(("/explain", 200)) == 1


@pytest.mark.parametrize(
    ("threshold", "says"), [(0.0, r"Not sure: (.*cat or dog|dog or .*cat)"), (0.999, r"Not sure$"), (None, None)]
)
def test_it_says_where_it_is_not_sure(folders, tmp_path, threshold, says):
    folder = tmp_path / "export"
    shutil.copytree(folders[0], folder)
    facts = json.loads((folder / "vitlora.json").read_text())
    facts |= {"calibration": {} if threshold is None else {"threshold": threshold}}
    (folder / "vitlora.json").write_text(json.dumps(facts))
    write_manifest(folder)
    with (
        serving(folder, "--decoders", "1") as unsure,
        acted(unsure.port, ACT + TWO, pictures()) as (address, _),
    ):
        card = outcome(tmp_path, address, 820)[0]["cards"][0]
    assert bool(re.search(says or "Not sure", card, re.MULTILINE)) == (says is not None), card


def test_a_key_unlocks_it(folders, tmp_path):
    with (
        serving(folders[0], "--decoders", "1", VITLORA_API_KEY="open") as locked,
        acted(locked.port, ACT + LOCKED, pictures()) as (address, _),
    ):
        found, said = outcome(tmp_path, address, 390)
    assert said == "The server does not know this key."
    assert len(found["cards"]) == 1
    assert "dog" in found["cards"][0]


def test_it_asks_nobody_else(server, tmp_path):
    log = tmp_path / "net.json"
    address = f"http://127.0.0.1:{server.port}/"
    browse(tmp_path, f"--log-net-log={log}", "--virtual-time-budget=3000", "--dump-dom", address)
    asked = set(re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    others = {url for url in asked if not re.match(r"https?://[\w.-]+\.google(apis)?\.com/", url)}  # the browser's own
    assert {url.split("?")[0] for url in others} == {address, f"{address}models"}


def test_it_is_light_or_dark_as_the_system_is(server, tmp_path):
    shades = []
    for words in ((), ("--blink-settings=preferredColorScheme=0",)):
        shot = tmp_path / "shot.png"
        browse(tmp_path, *words, f"--screenshot={shot}", "--window-size=900,700", f"http://127.0.0.1:{server.port}/")
        shades.append(np.asarray(Image.open(shot).convert("L"))[-60:, :60].mean())
    assert shades[0] > 200
    assert shades[1] < 60
