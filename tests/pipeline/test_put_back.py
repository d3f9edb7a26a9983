"""A stage that fails costs nothing: what it had made before lies there again, and each fault is told once."""

import hashlib
import shutil
import sys

import pytest
import tiny
from faults.harness import Running

KEPT = ("models", "metrics", "data/prepared")


def state(root):
    files = [path for name in KEPT for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def changed(root):
    return {line[3:] for line in tiny.git(root, "status", "--porcelain").splitlines()}


def fails(root, *command):
    done = tiny.run(root, *command, env={"PYTHONPATH": "src"})
    assert done.returncode == 255, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list((root / ".dvc/tmp").glob("before/*"))
    return done


def test_a_broken_picture_costs_nothing(project):
    before = state(project)
    picture = project / "pictures/red/00.jpg"
    picture.with_name("cut.jpg").write_bytes(picture.read_bytes()[:300])
    done = fails(project, tiny.DVC, "repro")
    assert state(project) == before
    assert changed(project) == {"dvc.lock", "source.yaml", "pictures/red/cut.jpg"}, "download has run"
    assert (done.stdout + done.stderr).count("cut.jpg") == 1
    *_, error, back, last = done.stderr.splitlines()
    assert error.startswith("error: 1 of 37 images cannot be used, named above; ")
    assert back.startswith("put back as it was: data/prepared/labels.json, ")
    assert last == "ERROR: failed to reproduce 'preprocess': its error stands above"
    picture.with_name("cut.jpg").unlink()
    assert tiny.dvc(project, "repro") == []
    assert changed(project) == set()


COMMANDS = {
    "repro": (tiny.DVC, "repro"),
    "exp run": (tiny.DVC, "exp", "run", "-S", "lora.target_modules=[nonsense]"),
    "keep going": (tiny.DVC, "repro", "--keep-going"),
    "vitlora run": (sys.executable, "-m", "vitlora", "run"),
}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, id=name, marks=() if name == "repro" else pytest.mark.faults)
        for name, command in COMMANDS.items()
    ],
)
def test_a_parameter_that_only_the_model_can_refuse_costs_nothing(project, command):
    before = state(project)
    if "-S" not in command:
        tiny.set_params(project / "params.yaml", {"lora.target_modules": ["nonsense"]})
    done = fails(project, *command)
    assert done.stderr.count("got nonsense") == 1
    assert "ERROR: failed to reproduce 'train': its error stands above\n" in done.stderr
    assert "put back as it was: models/adapter, metrics/train/metrics.json, " in done.stderr
    assert state(project) == before
    assert changed(project) == {"params.yaml"}
    tiny.git(project, "checkout", "-q", "params.yaml")
    assert tiny.dvc(project, "repro") == []


OFFICIAL = {"split.val_from": "official"}  # which this data hasn't: preprocess says so, and starts fast


@pytest.mark.parametrize(
    ("values", "stage", "more"),
    [
        (OFFICIAL, "preprocess", ()),
        (OFFICIAL, "preprocess", ("--keep-going",)),
        pytest.param({"lora.modules_to_save": ["classifier", "nothing"]}, "train", (), marks=pytest.mark.faults),
        pytest.param({"export.max_logit_diff": 1e-30}, "export", (), marks=pytest.mark.faults),
    ],
)
def test_whichever_stage_refuses_nothing_of_it_is_lost(project, values, stage, more):
    before = state(project)
    tiny.set_params(project / "params.yaml", values)
    done = fails(project, tiny.DVC, "repro", *more)
    assert f"failed to reproduce '{stage}'" in done.stderr
    assert state(project) == before


def test_what_a_person_has_changed_or_removed_comes_back_so(project):
    (project / "metrics/preprocess.json").write_text("my own")
    (project / "data/prepared/labels.json").unlink()
    before = state(project)
    tiny.set_params(project / "params.yaml", OFFICIAL)
    fails(project, tiny.DVC, "repro")
    assert state(project) == before


def test_an_interrupted_training_keeps_its_checkpoint_and_what_was_there_before(project):
    before = state(project)
    tiny.set_params(project / "params.yaml", {"train.num_train_epochs": 300})
    running = Running(project, tiny.DVC, "repro", "train")
    assert running.wait_for_text("epoch 2/300")
    running.send_group(2)
    assert running.ended() == 255
    said = running.text()
    assert "which is kept; `dvc repro` goes on\nput back as it was: models/adapter, " in said
    assert said.endswith("ERROR: failed to reproduce 'train': interrupted\n")
    assert state(project) == before
    tiny.set_params(project / "params.yaml", {"train.num_train_epochs": 2})
    assert tiny.dvc(project, "repro") == []


def test_a_first_run_that_fails_has_nothing_to_put_back(project):
    shutil.rmtree(project / "data/prepared")
    (project / "metrics/preprocess.json").unlink()
    tiny.set_params(project / "params.yaml", OFFICIAL)
    done = fails(project, tiny.DVC, "repro")
    assert "put back" not in done.stderr
    assert not (project / "data/prepared/labels.json").exists()
