"""Damage and a broken workspace: found by verify, healed by recover and one plain dvc repro; run trusts nobody."""

import fcntl
import json
import os
import shutil
import sys

import pytest
import tiny


def vitlora(root, *words):
    done = tiny.run(root, sys.executable, "-m", "vitlora", *words, env={"PYTHONPATH": "src"})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def state(root):
    files = [
        path for name in ("models", "data", "metrics", "dvc.lock") for path in [root / name, *(root / name).rglob("*")]
    ]
    return {path.relative_to(root): path.read_bytes() for path in files if path.is_file()}


def flip(path):
    mode = path.stat().st_mode
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # it may be a link to the cached object
    path.write_bytes(data)
    path.chmod(mode)


def flip_unseen(root, name):
    """Flip a bit as a bad disk does: size, time and inode stay, so DVC sees nothing."""
    assert tiny.dvc(root, "repro") == [], "DVC knows this copy's files now"
    path = root / name
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert tiny.dvc(root, "repro") == []


def test_a_sound_workspace_is_called_sound(project):
    assert vitlora(project, "verify") == (0, "23 outputs and DVC's cache: sound\n", "")
    assert vitlora(project, "recover") == (0, "nothing to mend\n", "")


def test_flipped_bits_in_outputs_are_found_and_mended(project):
    golden = state(project)
    places = ["models/adapter/adapter_model.safetensors", "data/prepared/labels.json", "data/prepared/val/images.npy"]
    for place in places:
        flip(project / place)
    code, out, err = vitlora(project, "verify")
    assert (code, [place for place in places if place.rsplit("/", 1)[1] not in out]) == (1, []), out + err
    assert vitlora(project, "recover")[0] == 0
    assert tiny.dvc(project, "repro") == []
    assert state(project) == golden


@pytest.mark.faults  # a flipped bit by itself is of `make test`, in faults/test_damage.py
def test_flipped_bits_in_the_cache_are_found_and_mended(project):
    golden = state(project)
    objects = sorted(path for path in (project / ".dvc/cache/files/md5").rglob("*") if path.is_file())
    for path in objects[::5]:
        flip(path)
    code, out, _ = vitlora(project, "verify")
    assert (code, out.count("damaged object in DVC's cache")) == (1, len(objects[::5]))
    assert vitlora(project, "recover")[0] == 0
    tiny.dvc(project, "repro")
    assert state(project) == golden
    assert vitlora(project, "verify")[0] == 0


def test_a_stage_refuses_a_damaged_input_and_names_file_and_cure(project):
    flip_unseen(project, "data/prepared/train/images-00000.bin")
    tiny.set_params(project / "params.yaml", {"lora.r": 1})
    done = tiny.run(project, tiny.DVC, "repro")
    assert done.returncode != 0
    assert "train/images-00000.bin: damaged" in done.stderr
    assert "vitlora recover" in done.stderr


def test_a_broken_or_dead_rwlock_is_removed(project):
    for content in ("", '{"write": {"/a', '{"write": {"/x": {"pid": 1, "cmd": "dvc repro"}}}'):
        (project / ".dvc/tmp/rwlock").write_text(content)
        code, out, _ = vitlora(project, "recover")
        assert (code, "rwlock: removed" in out) == (0, True), content
        assert not (project / ".dvc/tmp/rwlock").exists()
    assert tiny.dvc(project, "repro") == []


def test_pictures_of_somebody_where_download_writes_are_kept(project):
    raw = project / "data/raw"
    shutil.rmtree(raw)
    shutil.copytree(project / "pictures", raw / "pets")
    assert "data/raw: made by no stage, kept in .work/found/data%2Fraw-0\n" in vitlora(project, "recover")[1]
    assert (project / ".work/found/data%2Fraw-0/pets/red/00.jpg").is_file()


@pytest.mark.parametrize("share", [0, 0.5, 0.97])
def test_a_cut_dvc_lock_is_restored_from_the_last_commit(project, share):
    whole = (project / "dvc.lock").read_bytes()
    (project / "dvc.lock").write_bytes(whole[: int(share * len(whole))].rstrip())  # not where a line ends
    code, _, err = vitlora(project, "run")
    assert (code, "dvc.lock is damaged; `vitlora recover` mends it" in err) == (1, True)
    assert vitlora(project, "recover")[0] == 0
    assert (project / "dvc.lock").read_bytes() == whole


def test_a_cut_dvc_lock_that_was_never_committed_is_removed_and_the_run_cache_restores_all(project):
    golden = state(project)
    tiny.git(project, "rm", "-q", "--cached", "dvc.lock")
    tiny.git(project, "commit", "-q", "-m", "without")
    (project / "dvc.lock").write_bytes(b"")
    assert vitlora(project, "recover")[0] == 0
    assert tiny.dvc(project, "repro") == []
    assert state(project) == golden


def test_nothing_is_mended_while_a_stage_or_a_dvc_is_at_work(project):
    with (project / ".work/train.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("process 7, since then")
        held.flush()
        code, _, err = vitlora(project, "recover")
    assert (code, "train.lock is held (process 7, since then)" in err) == (1, True)
    holder = {"pid": os.getpid(), "cmd": "dvc repro"}
    (project / ".dvc/tmp/rwlock").write_text(json.dumps({"read": {"/x": [holder]}}))
    code, out, _ = vitlora(project, "recover")
    assert (code, "removed" in out) == (0, True), "this process is pytest, so its number was given out again"


def test_run_does_not_believe_a_success_without_its_results(project):
    flip_unseen(project, "models/export/model.onnx")
    code, out, err = vitlora(project, "run")
    assert code == 1
    assert "model.onnx: damaged" in out
    assert "dvc reported success" in err


def test_a_copied_model_is_checked_by_its_manifest_and_predict_refuses_a_damaged_one(project):
    assert vitlora(project, "verify", "models/export") == (0, "1 folder: sound\n", "")
    (project / "models/export/stray.txt").write_text("x")
    flip(project / "models/export/model.onnx")
    code, out, _ = vitlora(project, "verify", "models/export")
    assert code == 1
    assert out.count("\n") == 2
    code, _, err = vitlora(project, "predict", "pictures/red/00.jpg")
    assert (code, "model.onnx: damaged" in err) == (1, True)
