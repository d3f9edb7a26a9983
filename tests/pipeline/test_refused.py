"""A parameter that is refused costs nothing: no output goes, and `-S` leaves no value behind."""

import re
import shutil

import pytest
import tiny

from vitlora.train.experts import locate


def state(root):
    names = ("params.yaml", "dvc.lock", "models/adapter/adapter_model.safetensors", "metrics/evaluate/scores.json")
    return {name: (root / name).read_bytes() for name in names}


REFUSED = {
    "repro": ["repro"],
    "exp run": ["exp", "run"],
    "exp run -S": ["exp", "run", "-S", "lora.r=1000", "-S", "train.learning_rate=-1"],
    "exp run --queue": ["exp", "run", "--queue", "-S", "lora.r=2,1000"],
}


@pytest.mark.parametrize("words", REFUSED.values(), ids=REFUSED)
def test_a_refused_parameter_deletes_nothing_and_leaves_nothing_behind(project, words):
    if "-S" not in words:
        tiny.set_params(project / "params.yaml", {"lora.r": 1000})
    before = state(project)
    done = tiny.run(project, tiny.DVC, *words)
    assert done.returncode == 255, done.stdout
    assert "error: params.yaml: lora.r: got 1000; the rule: no larger than the base model's layers, 32" in done.stderr
    assert "refused before anything ran" in done.stderr
    assert "Running stage" not in done.stdout
    assert state(project) == before


def test_a_path_where_nothing_is_deletes_nothing(project):
    before = state(project)
    done = tiny.run(project, tiny.DVC, "exp", "run", "-S", "data.path=pictuers")
    assert done.returncode == 255
    assert (
        "error: params.yaml: data.path: got pictuers, and nothing is there; the rule: a path that exists" in done.stderr
    )
    assert state(project) == before
    assert (project / "data/raw/images-00000.bin").is_file()


def test_pictures_that_git_is_to_forget_survive_an_experiment(project):
    """DVC's own stash would delete them, edits that no commit has too (3.67.1)."""
    tiny.git(project, "rm", "-r", "-q", "--cached", "pictures")
    with (project / ".gitignore").open("a") as file:
        file.write("/pictures\n")
    done = tiny.run(project, tiny.DVC, "exp", "run", "-S", "train.seed=1")
    assert done.returncode == 255
    assert "error: got pictures/blue/00.jpg and 35 files more taken out of Git and not committed; the" in done.stderr
    assert len(list((project / "pictures").rglob("*.*"))) == 36


def test_an_experiment_that_mends_a_bad_parameter_runs(project):
    tiny.set_params(project / "params.yaml", {"split.seed": -1})
    assert tiny.dvc(project, "exp", "run", "-S", "split.seed=1", "preprocess") == ["preprocess"]


def test_the_base_model_of_an_earlier_choice_refuses_nothing(project):
    """Its patch of 8 px does not divide 36; what it says does not hold for the model that is yet to be fetched."""
    changes = {"model.source": "folder", "model.path": "another", "image.size_px": 36}
    tiny.set_params(project / "params.yaml", changes)
    done = tiny.run(project, tiny.DVC, "repro")
    assert done.returncode == 255
    assert "image.size_px" not in done.stderr
    assert "model.path" in done.stderr, "which download says"


def test_an_unpinned_adapter_is_refused_before_train_takes_it_away_with_a_name_that_works(project, monkeypatch):
    before = state(project)
    shutil.copytree(project / "models/adapter", project / "mine")
    tiny.commit(project)
    commit = tiny.git(project, "rev-parse", "HEAD")[:16]
    monkeypatch.chdir(project)
    for wrong, right in {"mine": "mine@sha256:", "models/adapter": f"models/adapter@{commit}"}.items():
        options = f"+lora.options.adapters=[{wrong},mine@{commit}]"
        done = tiny.run(project, tiny.DVC, "exp", "run", "-S", "lora.method=xlora", "-S", options)
        assert done.returncode == 255, done.stdout
        (name,) = re.findall(rf"got {wrong}, .*write ({re.escape(right)}\w*)", done.stderr)
        assert (locate(name) / "adapter_model.safetensors").read_bytes() == before[
            "models/adapter/adapter_model.safetensors"
        ]
        assert state(project) == before
