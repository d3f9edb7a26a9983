"""A disk that is full or read-only: never a success with missing data, and the same bytes once there is room."""

import json
import re
import shutil
import subprocess
from contextlib import contextmanager

import pytest
import tiny
from faults.harness import copy_without, lock, object_path, quick_only, repro, same, stage_command, vitlora

FULL = re.compile(r"disk full|No space left|disk is full|disk I/O error|quota", re.IGNORECASE)
PLENTY = 256 << 20


def mount(*words):
    return subprocess.run(["mount", *words], capture_output=True, text=True).returncode == 0


@contextmanager
def small_disk(folder, size=PLENTY):
    """Mount a file system of its own, in memory."""
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)):
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder, size):
    assert mount("-o", f"remount,size={size}", str(folder))


def used(folder):
    return shutil.disk_usage(folder).used


def needed(golden, folder, stage, kind):
    """Return how many bytes the stage and its followers write, a copy of everything in the cache included."""
    sizes = [path.stat().st_size for out in outs_from(golden, stage) for path in out if path.is_file()]
    rounded = sum(-(-size // 4096) * 4096 for size in sizes)
    return rounded * (2 if kind == "copy" else 1)


def outs_from(golden, stage):
    for name, entry in lock(golden).items():
        if name == stage:
            for out in entry["outs"]:
                yield (golden / out["path"]).rglob("*") if (golden / out["path"]).is_dir() else [golden / out["path"]]


def whole_in_cache(root):
    """Assert that every object that dvc.lock names is in the cache, with its listing's objects."""
    for name in ("train", "export"):
        for out in lock(root)[name]["outs"]:
            if out["md5"].endswith(".dir"):
                listing = object_path(root, out["md5"])
                assert all(object_path(root, entry["md5"]).exists() for entry in json.loads(listing.read_text()))


@pytest.mark.survives("F11", "disk with 10 to 110 % of the room needed: never 0 with missing data; enlarged: same")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(20))
def test_a_full_disk_is_never_a_success_with_missing_data(finished_run, scratch, note, number):
    stage, kind = "export", ("reflink,hardlink,symlink,copy", "copy")[number % 2]
    share = 0.1 + number // 2 / 9
    with small_disk(scratch / "disk") as disk:
        root = copy_without(finished_run, disk / "project", stage)
        config = root / ".dvc/config"
        config.write_text(config.read_text().replace("reflink,hardlink,symlink,copy", kind))
        resize(disk, used(disk) + int(needed(finished_run, root, stage, kind) * share))
        done = vitlora(root, "run")
        said = done.stdout + done.stderr
        note(f"{kind.split(',')[0]}, {share:.0%}: exit {done.returncode}")
        resize(disk, PLENTY)
        if done.returncode == 0:
            same(root, finished_run)
            whole_in_cache(root)
        else:
            assert FULL.search(said), said
            assert "Traceback" not in said, said
        assert vitlora(root, "recover").returncode == 0
        repro(root)
        same(root, finished_run)
        whole_in_cache(root)


@pytest.mark.survives("F11", "disk full for a stage by hand: one line with the free room; same once there is room")
@pytest.mark.parametrize("stage", quick_only(["download", "preprocess", "train", "export"], "preprocess"))
def test_a_stage_on_a_full_disk_says_so_in_a_line(finished_run, scratch, stage):
    with small_disk(scratch / "disk") as disk:
        root = copy_without(finished_run, disk / "project", stage)
        resize(disk, used(disk) + 16384)
        done = tiny.run(root, *stage_command(stage), env={"PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 1
        assert re.fullmatch(rf"error: {stage}: disk full.*; make room, run again\n", done.stderr), done.stderr
        resize(disk, PLENTY)
        repro(root, stage)
        same(root, finished_run, stage)


@pytest.mark.survives("F15", "read-only file system: one line, non-zero")
@pytest.mark.parametrize("stage", quick_only(["preprocess", "export"], "preprocess"))
def test_a_stage_on_a_read_only_disk_says_so_in_a_line(finished_run, scratch, stage):
    with small_disk(scratch / "disk") as disk:
        root = copy_without(finished_run, disk / "project", stage)
        assert mount("-o", "remount,ro", str(disk))
        done = tiny.run(root, *stage_command(stage), env={"PYTHONPATH": "src", "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.returncode == 1
        assert re.fullmatch(rf"error: {stage}: read-only file system at .*\n", done.stderr), done.stderr


@pytest.mark.survives("F15", "read-only file system: one line, non-zero")
@pytest.mark.faults
@pytest.mark.parametrize("words", [["run"], ["recover"], ["verify"]])
def test_the_verbs_on_a_read_only_disk_show_no_traceback(finished_run, scratch, words):
    with small_disk(scratch / "disk") as disk:
        root = copy_without(finished_run, disk / "project", "export")
        assert mount("-o", "remount,ro", str(disk))
        done = vitlora(root, *words)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr, done.stderr
