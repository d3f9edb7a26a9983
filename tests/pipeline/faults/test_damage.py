"""Flipped, cut, lost and foreign bytes are found before anything is made of them, and healed by recover and a repro."""

import json
import os
import random
import re
import shutil

import pytest
import tiny
from faults.harness import (
    REPRO,
    STAGES,
    Running,
    copy_without,
    heal_and_compare,
    lock,
    object_path,
    objects,
    remove,
    repro,
    same,
    stage_command,
    tries,
    vitlora,
)
from ruamel.yaml import YAML

FLIPS = 100
INPUTS = {  # what each stage reads of the stages before
    "preprocess": ["data/raw"],
    "train": ["models/base", "data/prepared/train", "data/prepared/val", "data/prepared/labels.json"],
    "evaluate": [
        "models/base",
        "models/adapter",
        "data/prepared/val",
        "data/prepared/test",
        "data/prepared/labels.json",
    ],
    "export": [
        "models/base",
        "models/adapter",
        "data/prepared/test",
        "data/evaluated/calibration.json",
        "metrics/evaluate/predictions.csv",
    ],
}


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def overwrite(path, data):
    """Change a file as a bad disk does: the same inode, time and mode, so every link to it changes too."""
    before = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
        file.truncate(len(data))
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path, draw):
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    overwrite(path, data)


def cut_to_nothing(path, draw):
    overwrite(path, b"")


def damage_one_object(root, number, harm):
    """Damage an object of DVC's cache, each kind in turn: folders, listings, weights, pictures, tables, texts."""
    draw = random.Random(f"{harm.__name__} {number}")
    outs = [out for stage in lock(root).values() for out in stage["outs"] if object_path(root, out["md5"]).exists()]
    of_one = sorted(objects(root, [outs[number % len(outs)]]))
    path = draw.choice([each for each in of_one if each.stat().st_size])
    harm(path, draw)
    return path


def verify_names(root, *paths):
    done = vitlora(root, "verify")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "`vitlora recover`" in done.stderr, "the cure is named"
    for path in paths:
        assert str(path.relative_to(root)) in done.stdout, done.stdout
    return done


def recover(root):
    done = vitlora(root, "recover")
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.survives("F12", "a flipped bit in a cached object: verify names it")
@pytest.mark.parametrize("number", tries(FLIPS))
def test_verify_finds_a_flipped_bit_in_the_cache(project, number):
    verify_names(project, damage_one_object(project, number, flip))


@pytest.mark.survives("F12", "a flipped bit in an input: the stage refuses it before use, names file and cure")
@pytest.mark.parametrize("number", tries(FLIPS))
def test_a_stage_refuses_a_flipped_bit_in_its_input(project, number):
    draw, stage = random.Random(number), STAGES[1 + number % 4]
    given = INPUTS[stage][number // 4 % len(INPUTS[stage])]
    path = draw.choice([file for file in files(project / given) if file.stat().st_size])
    flip(path, draw)
    done = tiny.run(project, *stage_command(stage), env={"PYTHONPATH": "src", "DVC_STAGE": stage})
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    assert given in done.stderr
    assert "`vitlora recover`" in done.stderr


@pytest.mark.survives("F12", "a flipped bit in the cache, then checkout, recover and one repro: same bytes")
@pytest.mark.parametrize("number", tries(8, quick=0))
def test_a_flipped_bit_in_the_cache_heals(finished_run, project, number):
    damage_one_object(project, number * 2 + 1, flip)
    for top in ("data", "models"):
        for out in [path for path in project.glob(f"{top}/*") if path.name != ".gitignore"]:
            remove(out)
    tiny.git(project, "checkout", "-q", "--", ".")
    tiny.run(project, tiny.DVC, "checkout")  # passes the damage on, or fails at a damaged listing
    recover(project)
    repro(project)
    same(project, finished_run)


@pytest.mark.survives("F13", "a cached object cut to 0 bytes: verify names it; recover and one repro: same bytes")
@pytest.mark.parametrize("number", tries(8, quick=1))
def test_an_object_cut_to_nothing_is_found_and_heals(finished_run, project, number):
    verify_names(project, damage_one_object(project, number, cut_to_nothing))
    recover(project)
    repro(project)
    same(project, finished_run)


@pytest.mark.survives("F13", "an output edited with its size and time kept: verify names it; recover and repro: same")
@pytest.mark.faults
@pytest.mark.parametrize("name", sorted({name for names in INPUTS.values() for name in names}))
def test_an_edit_that_keeps_size_and_time_is_found_and_heals(finished_run, project, name):
    path = files(project / name)[-1]
    flip(path, random.Random(name))
    done = verify_names(project, project / name)
    assert path.name in done.stdout or path.name == "MANIFEST.sha256"
    recover(project)
    repro(project)
    same(project, finished_run)


LOCKS = {
    "rwlock empty": lambda root: (root / ".dvc/tmp/rwlock").write_text(""),
    "rwlock cut": lambda root: (root / ".dvc/tmp/rwlock").write_text('{"write": {"/a'),
    "rwlock of a dead process": lambda root: (root / ".dvc/tmp/rwlock").write_text(dead_holder(root)),
    "dvc.lock empty": lambda root: (root / "dvc.lock").write_text(""),
    "dvc.lock cut in half": lambda root: cut_lock(root, 0.5),
    "dvc.lock cut near its end": lambda root: cut_lock(root, 0.95),
    "dvc.lock of zeros": lambda root: (root / "dvc.lock").write_bytes(bytes(4096)),
}


def dead_holder(root):
    return json.dumps({"write": {str(root / "models/adapter"): {"pid": 1, "cmd": "dvc repro"}}})


def cut_lock(root, share):
    whole = (root / "dvc.lock").read_bytes()
    (root / "dvc.lock").write_bytes(whole[: int(len(whole) * share)])


@pytest.mark.survives("F09", "rwlock or dvc.lock empty, cut, of zeros or of a dead process: recover, then same")
@pytest.mark.parametrize(
    "name", [n if n == "dvc.lock empty" else pytest.param(n, marks=pytest.mark.faults) for n in LOCKS]
)
def test_a_broken_lock_is_mended(finished_run, project, name):
    LOCKS[name](project)
    recover(project)
    repro(project)
    same(project, finished_run)


@pytest.mark.survives("F10", "power cut: what was not synced yet is zeros; one repro")
@pytest.mark.parametrize(
    ("stage", "point"),
    [
        ("preprocess", "worked"),
        pytest.param("preprocess", "manifest", marks=pytest.mark.faults),
        pytest.param("train", "worked", marks=pytest.mark.faults),
        pytest.param("train", "checkpoint-written", marks=pytest.mark.faults),
        pytest.param("export", "manifest", marks=pytest.mark.faults),
    ],
)
def test_what_was_not_synced_may_be_zeros(finished_run, scratch, stage, point):
    root = copy_without(finished_run, scratch / "project", stage)
    running = Running(root, *REPRO, stage, env={"FAULTPOINT": point})
    assert running.ended() != 0
    written = [path for path in files(root / ".work") if path.suffix != ".lock"]
    newest = max(written, key=lambda path: path.stat().st_mtime_ns)
    overwrite(newest, bytes(newest.stat().st_size))
    heal_and_compare(root, finished_run, stage, to_the_end=False)


@pytest.mark.survives("F10", "power cut after a stage: dvc's own newest file is zeros; recover, then same")
@pytest.mark.faults
@pytest.mark.parametrize("newest", ["dvc.lock", "listing", "object"])
def test_what_dvc_did_not_sync_heals(finished_run, project, newest):
    if newest == "dvc.lock":
        path = project / "dvc.lock"
    else:
        path = damage_one_object(project, 3 if newest == "object" else 0, flip)
    overwrite(path, bytes(path.stat().st_size))
    recover(project)
    repro(project)
    same(project, finished_run)


@pytest.mark.survives("F12", "a cut or flipped entry of DVC's run cache: verify names it, recover or one repro heals")
@pytest.mark.parametrize("healer", [recover, repro])
@pytest.mark.faults
@pytest.mark.parametrize("number", tries(6))
def test_a_damaged_run_cache_heals(finished_run, project, number, healer):
    draw = random.Random(number)
    entries = files(project / ".dvc/cache/runs")
    for path in entries:
        text = path.read_bytes()
        at = draw.choice([found.start(1) for found in re.finditer(rb" md5: (\w)", text)])
        overwrite(path, text[:at] + (b"" if number % 2 else bytes([text[at] ^ 1]) + text[at + 1 :]))
    verify_names(project, *(path.parent for path in entries))
    remove(project / "dvc.lock")  # so that every stage looks in the run cache
    healer(project)
    repro(project)
    same(project, finished_run)
    assert vitlora(project, "verify").returncode == 0


LOSSES = {
    "every output": lambda root: [remove(root / out["path"]) for stage in lock(root).values() for out in stage["outs"]],
    "a file of an output": lambda root: remove(root / "data/prepared/train/index.npy"),
    "a metric": lambda root: remove(root / "metrics/evaluate/scores.json"),
    "dvc.lock": lambda root: remove(root / "dvc.lock"),
    "the working folder": lambda root: shutil.rmtree(root / ".work"),
    "DVC's run cache": lambda root: shutil.rmtree(root / ".dvc/cache/runs"),
}


@pytest.mark.survives("F14", "outputs, one file or dvc.lock deleted: one repro, same bytes")
@pytest.mark.parametrize(
    "name", [n if n == "every output" else pytest.param(n, marks=pytest.mark.faults) for n in LOSSES]
)
def test_what_is_lost_comes_back(finished_run, project, name):
    LOSSES[name](project)
    repro(project)
    same(project, finished_run)


@pytest.mark.survives("F14", "a stray file in an output: one repro, gone, same bytes")
@pytest.mark.faults
@pytest.mark.parametrize("folder", ["data/raw", "data/prepared/val", "models/adapter", "models/export"])
def test_a_stray_file_is_taken_away(finished_run, project, folder):
    (project / folder / "stray.bin").write_bytes(b"stray")
    repro(project)
    assert not (project / folder / "stray.bin").exists()
    same(project, finished_run)


@pytest.mark.survives("F08", "dvc exp run -S killed: the next repro prints what differs from the last commit")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(3))
def test_parameters_left_by_a_killed_experiment_are_announced(project, number):
    running = Running(project, tiny.DVC, "exp", "run", "-S", "lora.r=4")
    assert running.wait_for_text("Running stage 'train'")
    assert running.kill_group()
    assert YAML(typ="safe").load(project / "params.yaml")["lora"]["r"] == 4
    done = tiny.run(project, *REPRO, "train")
    assert done.returncode == 0, done.stderr
    assert "parameters that differ from the last commit:\n  lora.r: 2 -> 4\n" in done.stdout
