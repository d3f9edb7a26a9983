"""The caching table of the README, by running it: change something, and exactly the expected stages run."""

import json
import time

import pytest
import tiny
from ruamel.yaml import YAML


def scores(root):
    return json.loads((root / "metrics/evaluate/scores.json").read_text())


def append(path, text):
    path.write_text(path.read_text() + text)


def test_nothing_runs_twice(project):
    assert tiny.dvc(project, "repro") == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("lora.r=4", ["train", "evaluate", "export"]),
        ("evaluate.top_k=3", ["evaluate"]),
        ("export.max_logit_diff=0.01", ["export"]),
        ("split.seed=1", ["preprocess", "train", "evaluate", "export"]),
    ],
)
def test_a_parameter_reruns_its_stage_and_what_follows(project, setting, expected):
    assert tiny.dvc(project, "exp", "run", "-S", setting) == expected
    tiny.git(project, "checkout", "-q", "--", "params.yaml", "dvc.lock", "metrics")
    assert tiny.dvc(project, "repro") == [], "undone, everything comes back from the run cache"


def test_another_image_size_is_never_taken_for_the_one_in_the_run_cache(project):
    """Inside a section listed whole, DVC's run cache overlooks a key named size."""

    def prepared_at(size):
        tiny.set_params(project / "params.yaml", {"image.size_px": size})
        ran = tiny.dvc(project, "repro", "preprocess")
        return ran, json.loads((project / "data/prepared/labels.json").read_text())["image_size"]

    assert prepared_at(24) == (["preprocess"], 24)
    assert prepared_at(32) == ([], 32)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("src/vitlora/preprocess/splits.py", ["preprocess"]),
        ("src/vitlora/evaluate/stage.py", ["evaluate"]),
        ("src/vitlora/export/stage.py", ["export"]),
        ("src/vitlora/download/sources.py", ["download"]),
        ("src/vitlora/cli/predict.py", []),
        ("src/vitlora/safety/check.py", []),
        ("README.md", []),
    ],
)
def test_an_edit_that_changes_no_output_reruns_only_the_stages_that_read_it(project, file, expected):
    (project / "README.md").touch()
    append(project / file, "\n# a comment\n")
    assert tiny.dvc(project, "repro") == expected
    assert tiny.dvc(project, "repro") == []


def test_workers_rerun_training_and_change_no_byte_so_nothing_follows(project):
    assert tiny.dvc(project, "exp", "run", "-S", "train.dataloader_num_workers=2") == ["train"]


def test_a_lost_output_comes_back_from_the_cache_without_running(project):
    done = tiny.run(project, "rm", "-rf", "models/adapter", "data/prepared/val")
    assert done.returncode == 0
    assert tiny.dvc(project, "repro") == []
    assert (project / "models/adapter/adapter_model.safetensors").is_file()


def test_metrics_diff_shows_what_an_experiment_changed(project):
    tiny.dvc(project, "exp", "run", "-S", "lora.r=4", "-S", "train.num_train_epochs=1")
    done = tiny.run(project, tiny.DVC, "metrics", "diff", "--json")
    changed = json.loads(done.stdout)
    assert changed["metrics/train/metrics.json"]["epochs"] == {"old": 2, "new": 1, "diff": -1}


def test_a_queued_experiment_runs_its_own_tree(project):
    """The workspace's code and parameters change after queueing; the experiment must not see that."""
    append(project / "src/vitlora/evaluate/scores.py", '\n\nprint("queued tree")\n')
    queued = tiny.run(project, tiny.DVC, "exp", "run", "--queue", "-n", "queued", "-S", "lora.r=4")
    assert queued.returncode == 0, queued.stderr
    append(project / "src/vitlora/evaluate/scores.py", '\nraise SystemExit("workspace code ran")\n')
    tiny.set_params(project / "params.yaml", {"lora.r": 1})
    started = tiny.run(project, tiny.DVC, "queue", "start")
    assert started.returncode == 0, started.stderr
    deadline = time.monotonic() + 240
    while "Running" in (status := tiny.run(project, tiny.DVC, "queue", "status").stdout) or ("Queued" in status):
        assert time.monotonic() < deadline, status
        time.sleep(2)
    assert "Success" in status, status + tiny.run(project, tiny.DVC, "queue", "logs", "queued").stdout
    logs = tiny.run(project, tiny.DVC, "queue", "logs", "queued").stdout
    assert "queued tree" in logs
    refs = tiny.git(project, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (experiment,) = [ref for ref in refs if ref.endswith("/queued")]
    params = YAML(typ="safe").load(tiny.git(project, "show", f"{experiment}:params.yaml"))
    assert params["lora"]["r"] == 4
    lock = YAML(typ="safe").load(tiny.git(project, "show", f"{experiment}:dvc.lock"))
    assert lock["stages"]["train"]["params"]["params.yaml"]["lora"]["r"] == 4
