"""A run that was stopped anywhere goes on from its finished blocks, and ends with the bytes of an undisturbed one."""

import os
import signal
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest
from raw_images import FAIL, OUTPUTS, SKIP, SPLIT, SQUARE, images, picture, write_raw
from tiny import ROOT

from vitlora.core.errors import VitloraError
from vitlora.images.formats import BadImageError
from vitlora.images.sandbox import Isolated
from vitlora.preprocess import kept as module
from vitlora.preprocess import stage
from vitlora.preprocess.kept import Kept
from vitlora.preprocess.params import Image
from vitlora.preprocess.stage import preprocess
from vitlora.storage import blocks as storage_blocks

OUTS = ("train", "val", "test", "labels.json", "report.html", "report.json")
ODD = [("train/cat/odd.png", "train", 0, b"no picture"), ("train/cat/cut.png", "train", 0, picture(900)[:-40])]


@pytest.fixture(scope="module")
def workers():
    with Isolated(2) as processes:
        yield processes


@pytest.fixture
def asked(workers, monkeypatch):
    """What was asked of the processes, a list of items a time; blocks are of five pictures."""
    found, spread = [], stage._spread

    def counted(workers, function, items):
        found.append((function.func.__name__, list(items)))
        return spread(workers, function, items)

    monkeypatch.setattr(module, "BLOCK", 5)
    monkeypatch.setattr(stage, "Isolated", lambda count: nullcontext(workers))
    monkeypatch.setattr(stage, "_spread", counted)
    return found


def run(tmp_path, raw, out="out", keep="kept", data=SKIP, image=SQUARE, split=SPLIT):
    preprocess(data, image, split, raw, *(tmp_path / out / name for name in OUTS), keep=keep and tmp_path / keep)
    return {name: (tmp_path / out / name).read_bytes() for name in OUTPUTS}


def blocks(asked, name):
    return [items for function, items in asked if function == name]


@pytest.fixture
def raw(tmp_path):
    return write_raw(tmp_path / "raw", [*images((20, 21)), *ODD])


@pytest.mark.parametrize("at", [0, 3, 8])
def test_a_run_stopped_while_it_checks_asks_for_the_rest_alone(tmp_path, raw, asked, monkeypatch, at):
    whole = run(tmp_path, raw, "whole", keep=None)
    monkeypatch.setattr(module, "faultpoint", lambda name, left=[at]: stop(left) if name == "block-checked" else None)
    with pytest.raises(InterruptedError):
        run(tmp_path, raw)
    assert not (tmp_path / "out").exists()
    asked.clear()
    monkeypatch.setattr(module, "faultpoint", lambda name: None)
    assert run(tmp_path, raw) == whole
    assert [items[0] for items in blocks(asked, "_check")] == list(range(5 * at + 5, 43, 5))
    assert list((tmp_path / "kept").iterdir()) == []


def stop(left):
    left[0] -= 1
    if left[0] < 0:
        raise InterruptedError


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_run_stopped_while_it_fills_squares_fills_the_rest_alone(tmp_path, raw, asked, monkeypatch, at):
    whole = run(tmp_path, raw, "whole", keep=None)
    count = len(blocks(asked, "_fill"))
    assert count == 4  # val one, test three
    monkeypatch.setattr(module, "faultpoint", lambda name, left=[at]: stop(left) if name == "block-filled" else None)
    with pytest.raises(InterruptedError):
        run(tmp_path, raw)
    asked.clear()
    monkeypatch.setattr(module, "faultpoint", lambda name: None)
    assert run(tmp_path, raw) == whole
    assert blocks(asked, "_check") == []
    assert len(blocks(asked, "_fill")) == count - at - 1


@pytest.mark.parametrize("at", [0, 2])
def test_a_run_stopped_while_it_copies_copies_the_rest_alone(tmp_path, raw, asked, monkeypatch, at):
    monkeypatch.setattr(storage_blocks, "SHARD_BYTES", 3000)
    whole = run(tmp_path, raw, "whole", keep=None)
    files = len(list((tmp_path / "whole/train").glob("images-*")))
    assert files > 3
    monkeypatch.setattr(storage_blocks, "faultpoint", lambda name, left=[at]: stop(left))
    with pytest.raises(InterruptedError):
        run(tmp_path, raw)
    assert not (tmp_path / "out/train").exists()
    written = []
    monkeypatch.setattr(storage_blocks, "faultpoint", written.append)
    assert run(tmp_path, raw) == whole
    assert len(written) == files - at - 1
    assert all((tmp_path / "out/train" / path.name).read_bytes() == path.read_bytes() for path in files_of(tmp_path))
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_kept_file_of_pictures_that_was_damaged_is_copied_again(tmp_path, raw, asked, monkeypatch):
    monkeypatch.setattr(storage_blocks, "SHARD_BYTES", 3000)
    whole = run(tmp_path, raw, "whole", keep=None)
    monkeypatch.setattr(storage_blocks, "faultpoint", lambda name, left=[1]: stop(left))
    with pytest.raises(InterruptedError):
        run(tmp_path, raw)
    (kept,) = tmp_path.glob("kept/*/train-*/00001/images-00000.bin")
    data = bytearray(kept.read_bytes())
    data[100] ^= 1
    kept.write_bytes(data)
    monkeypatch.setattr(storage_blocks, "faultpoint", lambda name: None)
    assert run(tmp_path, raw) == whole
    assert all((tmp_path / "out/train" / path.name).read_bytes() == path.read_bytes() for path in files_of(tmp_path))


def files_of(tmp_path):
    return list((tmp_path / "whole/train").iterdir())


def test_what_was_refused_is_not_checked_again_once_it_is_allowed(tmp_path, raw, asked):
    with pytest.raises(VitloraError, match="2 of 43 images cannot be used"):
        run(tmp_path, raw, data=FAIL)
    assert len(blocks(asked, "_check")) == 9
    asked.clear()
    assert run(tmp_path, raw) == run(tmp_path, raw, "whole", keep=None)
    assert blocks(asked[:-1], "_check")[0][0] == 0  # of the second run, which keeps nothing
    assert len(blocks(asked, "_check")) == 9


CHANGES = {
    "a picture": lambda folder: {"raw": write_raw(folder / "raw", [*images((20, 21), start=1), *ODD])},
    "the size": lambda folder: {"image": Image(size_px=18, interpolation="bilinear")},
    "the code": lambda folder: {},
    "a library": lambda folder: {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_kept_of_other_pictures_settings_or_code_is_not_taken(tmp_path, raw, asked, monkeypatch, change):
    with pytest.raises(VitloraError):
        run(tmp_path, raw, data=FAIL)
    asked.clear()
    if change == "the code":
        monkeypatch.setattr(module, "sha256_file", lambda file: "another")
    if change == "a library":
        monkeypatch.setattr(module, "version", lambda name: "0.0.1")
    given = {"raw": raw, **CHANGES[change](tmp_path)}
    assert run(tmp_path, **given) == run(tmp_path, **given, out="whole", keep=None)
    assert len(blocks(asked, "_check")) == 18


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data.replace(b"20", b"21", 1), lambda data: b"\xff"]
)
def test_a_damaged_block_is_checked_again(tmp_path, raw, asked, damage):
    whole = run(tmp_path, raw, "whole", keep=None)
    with pytest.raises(VitloraError):
        run(tmp_path, raw, data=FAIL)
    (block,) = (tmp_path / "kept").glob("*/checked-0000000010")
    block.write_bytes(damage(block.read_bytes()))
    asked.clear()
    assert run(tmp_path, raw) == whole
    assert blocks(asked, "_check") == [[10, 11, 12, 13, 14]]


CHANCE = [
    ("timeout", "not decoded within 20 s"),
    ("bomb", "the system killed its decoder"),
    ("corrupt", "its decoder crashed (SIGSEGV)"),
]


@pytest.mark.parametrize("error", CHANCE, ids=lambda error: error[0])
def test_what_may_have_been_chance_is_asked_again(tmp_path, monkeypatch, error):
    monkeypatch.setattr(module, "BLOCK", 3)
    kept, given = Kept(tmp_path / "kept", "about"), []

    def check(rows):
        given.append(rows)
        return [BadImageError(*error) if row == 4 else BadImageError("truncated", "ends early") for row in rows]

    for _ in range(2):
        found = kept.checked(8, check)
        assert [each.reason for each in found] == ["truncated"] * 4 + [error[0]] + ["truncated"] * 3
    assert given == [range(3), range(3, 6), range(6, 8), range(3, 6)]


def test_answers_come_back_as_they_were(tmp_path):
    thumbnail = np.random.default_rng(0).integers(0, 256, 256, np.uint8).tobytes()
    answers = [
        module.Inspected(400, 300, True, "JPEG", "RGB", thumbnail),
        module.Inspected(1, 9000, False, "TIFF", "I;16", bytes(256), "shows 5 % of its levels, 猫"),
        BadImageError("not_an_image", "starts with b'\\x00\\n'"),
    ]
    for _ in range(2):
        found = Kept(tmp_path, 1).checked(3, lambda rows: answers)
        assert found[:2] == answers[:2]
        assert (found[2].reason, str(found[2])) == (answers[2].reason, str(answers[2]))
    assert len(list(tmp_path.glob("*/checked-*"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("point", ["block-checked", "block-filled", "block-packed"])
def test_a_killed_stage_leaves_its_blocks_on_the_disk(tmp_path, raw, point, monkeypatch):
    code = (
        "import sys; from pathlib import Path; from vitlora.preprocess import kept, stage; kept.BLOCK = 5\n"
        "from vitlora.storage import blocks; blocks.SHARD_BYTES = 3000\n"
        "from raw_images import SKIP, SPLIT, SQUARE\n"
        "here = Path(sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        f"    outs = [here / 'out' / name for name in {OUTS}]\n"
        "    stage.preprocess(SKIP, SQUARE, SPLIT, here / 'raw', *outs, keep=here / 'kept')\n"
    )
    (tmp_path / "run.py").write_text(code)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT / "tests", ROOT / "tests/support"))),
    }
    command = [sys.executable, str(tmp_path / "run.py"), str(tmp_path)]
    died = subprocess.run(command, env={**env, "FAULTPOINT": point}, capture_output=True, check=False)
    assert died.returncode == 128 + signal.SIGKILL, died.stderr
    assert len(list(tmp_path.glob("kept/*/checked-*"))) == (1 if point == "block-checked" else 9)
    subprocess.run(command, env=env, capture_output=True, check=True)
    monkeypatch.setattr(storage_blocks, "SHARD_BYTES", 3000)
    whole = run(tmp_path, raw, "whole", keep=None)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in OUTPUTS} == whole
