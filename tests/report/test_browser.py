"""The page in a real browser: drawn, without a request, in dark and light, at a phone's width, without running over."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from vitlora.report.build import build

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium here: apt-get install chromium"),
]
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", *QUIET)
BROWSERS_OWN = re.compile(r"https?://[\w.]+\.google(apis)?\.com/")  # asked with an empty page too; ours names no host
PROBE = """
<script>
const wide = document.documentElement.scrollWidth - innerWidth;
const broken = [...document.images].filter(image => !(image.complete && image.naturalWidth)).length;
const empty = [...document.querySelectorAll("svg")].filter(svg => !svg.getBoundingClientRect().width).length;
document.title = [wide, broken, document.images.length, empty, document.querySelectorAll("svg").length].join(" ");
</script>
"""


def browse(folder, *words):
    profile = folder / "profile"
    command = [BROWSER, *HEADLESS, f"--user-data-dir={profile}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def pages(two_runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(two_runs)
        build(["workspace"], folder / "one.html", 0.005, True, print)
        build(["HEAD", "workspace"], folder / "two.html", 0.005, True, print)
    return folder


@pytest.mark.parametrize("width", [390, 820, 1280])
@pytest.mark.parametrize("name", ["one", "two"])
def test_all_is_drawn_and_nothing_runs_over_the_edge(pages, tmp_path, name, width):
    """A script is put in for the test only, with the rule that forbids it taken out."""
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv.*?>", "", text).replace(' loading="lazy"', "")
    (tmp_path / "probed.html").write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    address = f"file://{tmp_path}/probed.html"
    done = browse(tmp_path, f"--window-size={width},900", "--virtual-time-budget=4000", "--dump-dom", address)
    found = re.search(r"<title>(-?\d+) (\d+) (\d+) (\d+) (\d+)</title>", done.stdout)
    assert found, done.stdout[:300]
    over, broken, images, empty, drawings = map(int, found.groups())
    assert over <= 0
    assert (broken, empty) == (0, 0)
    assert images > 20
    assert drawings > 20


@pytest.mark.parametrize("name", ["one", "two"])
def test_no_request_leaves_the_page(pages, tmp_path, name):
    log = tmp_path / "net.json"
    browse(tmp_path, f"--log-net-log={log}", "--virtual-time-budget=3000", "--dump-dom", f"file://{pages}/{name}.html")
    asked = set(re.findall(r'"url":"((?:https?|wss?|ftp)://[^"]+)"', log.read_text(encoding="utf-8", errors="replace")))
    assert {address for address in asked if not BROWSERS_OWN.match(address)} == set()


def test_it_is_light_or_dark_as_the_system_is(pages, tmp_path):
    shades = {}
    for mode, words in (("light", ()), ("dark", ("--force-dark-mode", "--enable-features=WebContentsForceDark:0"))):
        shot = tmp_path / f"{mode}.png"
        flags = ("--blink-settings=preferredColorScheme=0",) if mode == "dark" else words
        browse(tmp_path, *flags, "--window-size=900,700", f"--screenshot={shot}", f"file://{pages}/one.html")
        shades[mode] = np.asarray(Image.open(shot).convert("L"))[-60:, :60].mean()
    assert shades["light"] > 200
    assert shades["dark"] < 60


def test_it_prints(pages, tmp_path):
    browse(tmp_path, f"--print-to-pdf={tmp_path}/page.pdf", "--no-pdf-header-footer", f"file://{pages}/one.html")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "page.pdf").stat().st_size > 20_000
