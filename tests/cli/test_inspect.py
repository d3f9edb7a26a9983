"""The whole ingest over made files of every odd kind: verdict, reason, pixels, time, memory, and no file touched."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from corpus import make_corpus, write_corpus
from fuzz import fuzz
from PIL import Image

from vitlora.cli.inspect import judge
from vitlora.images.formats import BadImageError
from vitlora.images.pixels import decode, inspect
from vitlora.images.sandbox import Isolated
from vitlora.train.jpeg import decode_rows

ROOT = Path(__file__).parents[2]
CASES = make_corpus()
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name))
LIMIT_S, LIMIT_MB = 5, 600


def report(folder, decoded, **options):
    command = [sys.executable, "-m", "vitlora", "inspect", str(folder), "--decoded", str(decoded)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False, **options)


def states(folder):
    """Return each file's content and times."""
    return {
        path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns, path.stat().st_mode)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """Run the report once over all cases; return each file's line and the folder of pictures."""
    folder, decoded = tmp_path_factory.mktemp("corpus"), tmp_path_factory.mktemp("decoded")
    write_corpus(folder, CASES)
    before = states(folder)
    done = report(folder, decoded)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert states(folder) == before
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == sorted((case.name for case in CASES), key=lambda name: name.split("/"))
    return {line["file"]: line for line in lines}, decoded


def test_there_are_files_of_every_category():
    counts = {category: sum(case.category == category for case in CASES) for category in {c.category for c in CASES}}
    assert len(counts) == 14
    assert min(counts.values()) >= 8
    assert len({case.name for case in CASES}) == len(CASES) >= 120
    assert {case.reason for case in CASES} - {None} == {
        "truncated",
        "corrupt",
        "bomb",
        "not_an_image",
        "empty",
        "too_small",
        "unsupported",
        "too_large",
    }  # timeout is no file's own: test_isolated has it


@each_case
def test_a_file_is_accepted_or_rejected_for_the_right_reason_in_time_and_memory(case, reported):
    line = reported[0][case.name]
    assert (line["verdict"], line["reason"]) == ("reject" if case.reason else "accept", case.reason), line["text"]
    assert line["seconds"] <= LIMIT_S
    assert 0 < line["peak_rss_mb"] <= LIMIT_MB
    assert bool(line["text"]) == bool(case.reason)


@pytest.mark.parametrize("case", [case for case in CASES if case.reason is None], ids=lambda case: ascii(case.name))
def test_an_accepted_file_shows_the_picture_that_was_put_into_it(case, reported):
    lines, decoded = reported
    line = lines[case.name]
    with Image.open(decoded / line["decoded"]) as image:
        assert (image.mode, image.format) == ("RGB", "PNG")
        found = np.asarray(image)
    assert found.shape == case.pixels.shape == (line["height"], line["width"], 3)
    assert np.abs(found.astype(int) - case.pixels).max() <= case.near


@each_case
def test_inspect_says_what_decode_says(case):
    if case.reason:
        for read in (decode, inspect):
            with pytest.raises(BadImageError) as refused:
                read(case.data)
            assert refused.value.reason == case.reason
    else:
        seen = inspect(case.data)
        assert (seen.height, seen.width, 3) == case.pixels.shape


@pytest.mark.parametrize("case", [case for case in CASES if case.reason is None], ids=lambda case: ascii(case.name))
def test_the_training_decoder_shows_the_same_of_a_plain_jpeg_or_leaves_it(case):
    if inspect(case.data).plain:
        rows = decode_rows(case.data, len(case.pixels))
        assert rows is None or np.array_equal(rows, np.asarray(decode(case.data)))


def test_pictures_of_different_files_never_share_a_name(reported):
    written = [line["decoded"] for line in reported[0].values() if line["decoded"]]
    assert len(set(written)) == len(written) == sum(case.reason is None for case in CASES)


def test_what_is_no_regular_file_is_reported_and_never_opened(tmp_path, monkeypatch):
    folder = tmp_path / "odd"
    (folder / "inside").mkdir(parents=True)
    (folder / "inside/photo.png").write_bytes(CASES[3].data)
    os.mkfifo(folder / "fifo.png")
    (folder / "link.png").symlink_to("inside/photo.png")
    (folder / "loop").symlink_to(".")
    (folder / "outside").symlink_to("/")
    (folder / "gone.png").symlink_to("nowhere")
    monkeypatch.chdir(folder)  # a socket's path may be no longer than 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        start = time.monotonic()
        done = report(folder, tmp_path / "decoded")
    assert time.monotonic() - start < 10
    lines = {line["file"]: line["reason"] for line in map(json.loads, done.stdout.splitlines())}
    special = ("fifo.png", "gone.png", "link.png", "loop", "outside", "socket.png")
    assert lines == {"inside/photo.png": None, **dict.fromkeys(special, "not_an_image")}


def test_a_second_run_passes_over_the_pictures_of_the_first_inside_the_folder(tmp_path):
    (tmp_path / "photo.png").write_bytes(CASES[3].data)
    runs = [report(tmp_path, tmp_path / "decoded").stdout for _ in range(2)]
    assert [[json.loads(line)["file"] for line in run.splitlines()] for run in runs] == [["photo.png"]] * 2


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    done = report(tmp_path / "none", tmp_path / "decoded")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path}/none: No such file or directory\n"


@pytest.mark.parametrize("place", [".", ".."])
def test_pictures_are_not_written_among_the_files(tmp_path, place):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "photo.png.png").write_bytes(CASES[3].data)  # the name that photo.png's picture would take
    (folder / "photo.png").write_bytes(b"no picture")
    before = states(tmp_path)
    done = report(folder, folder / place)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: --decoded: got ")
    assert states(tmp_path) == before


@pytest.mark.slow
def test_the_largest_pictures_stay_within_memory(tmp_path):
    """Each way that makes copies: transparency, a turn, a progressive JPEG's coefficients, WEBP's canvases."""
    (tmp_path / "decoded").mkdir()
    width, height = 8192, 6144
    plain = Image.linear_gradient("L").resize((width, height))
    turned = Image.Exif()
    turned[0x0112] = 6
    colour = Image.merge("RGB", (plain, plain.transpose(Image.Transpose.FLIP_TOP_BOTTOM), plain))
    colour.save(tmp_path / "progressive.jpg", progressive=True, exif=turned)
    colour.putalpha(plain)
    colour.save(tmp_path / "alpha.png", compress_level=1)
    colour.resize((5000, 4900)).save(tmp_path / "alpha.webp", method=0)
    names = [(name, f"{name}.png") for name in ("alpha.png", "alpha.webp", "progressive.jpg")]
    with Isolated(limit_s=60) as child:  # the verb's own limit is for a machine that does nothing else
        lines = list(child.map(partial(judge, tmp_path, tmp_path / "decoded"), names))
    assert [line["reason"] for line in lines] == [None] * 3
    assert max(line["peak_rss_mb"] for line in lines) <= LIMIT_MB


def test_random_damage_gives_a_picture_or_a_reason_and_never_anything_else():
    """More of it: python tests/support/fuzz.py 20000."""
    counts, wrong = fuzz(range(300))
    assert wrong == []
    assert sum(counts.values()) == 300
    assert {"picture", "corrupt", "truncated"} <= set(counts)
