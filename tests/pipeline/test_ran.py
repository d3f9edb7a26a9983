"""What ran stands beside the results, in Git, and never makes a stage or its outputs differ."""

import hashlib
import json
import platform

import pytest
import tiny

RESULTS = {
    "preprocess": "metrics/preprocess.json",
    "train": "metrics/train/metrics.json",
    "evaluate": "metrics/evaluate/scores.json",
    "export": "metrics/export.json",
}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("stage", RESULTS)
def test_device_versions_commit_and_seconds_are_recorded(finished_run, stage):
    ran = json.loads((finished_run / f"metrics/ran/{stage}.json").read_text())
    assert ran["results"] == sha256((finished_run / RESULTS[stage]).read_bytes())
    assert ran["python"] == platform.python_version()
    assert ran["device"] == "cpu"
    assert ran["processor"]
    assert {"torch", "transformers", "peft"} <= set(ran["versions"])
    assert 0 < ran["seconds"] < 600
    assert ran["cores"] > 0


def test_no_stage_has_it_as_an_output(finished_run):
    assert "ran" not in (finished_run / "dvc.lock").read_text().split("metrics/")[1].split()[0]
    assert "metrics/ran" not in (finished_run / "dvc.lock").read_text()


def test_equal_results_keep_the_record_and_others_renew_it_in_experiments_too(project):
    before = {stage: (project / f"metrics/ran/{stage}.json").read_bytes() for stage in RESULTS}
    assert tiny.dvc(project, "repro", "-f", "-s", "preprocess") == ["preprocess"]
    assert tiny.git(project, "status", "--short") == ""
    other = ("exp", "run", "--temp", "-n", "other", "-S", "split.val_fraction=0.3", "preprocess")
    assert tiny.dvc(project, *other) == ["preprocess"]
    (ref,) = tiny.git(project, "for-each-ref", "--format=%(refname)", "refs/exps/**/other").split()
    for stage, path in RESULTS.items():
        ran = json.loads(tiny.git(project, "show", f"{ref}:metrics/ran/{stage}.json"))
        assert ran["results"] == sha256(tiny.git(project, "show", f"{ref}:{path}").encode()), stage
        assert (project / f"metrics/ran/{stage}.json").read_bytes() == before[stage]
    renewed = tiny.git(project, "show", f"{ref}:metrics/ran/preprocess.json")
    assert json.loads(renewed) != json.loads(before["preprocess"])
    changed = json.loads(tiny.run(project, tiny.DVC, "metrics", "diff", "HEAD", "other", "--json").stdout)
    assert changed["metrics/preprocess.json"]["val"]["old"] == 4 < changed["metrics/preprocess.json"]["val"]["new"]


def test_other_outputs_renew_the_record_though_the_metrics_are_equal(project):
    before = json.loads((project / "metrics/ran/preprocess.json").read_text())
    tiny.set_params(project / "params.yaml", {"image.interpolation": "bicubic"})
    tiny.dvc(project, "repro", "preprocess")
    after = json.loads((project / "metrics/ran/preprocess.json").read_text())
    assert after["results"] == before["results"]
    assert after["outputs"] != before["outputs"]


def test_a_damaged_record_is_written_anew(project):
    (project / "metrics/ran/preprocess.json").write_text("[")
    tiny.dvc(project, "repro", "-f", "-s", "preprocess")
    assert json.loads((project / "metrics/ran/preprocess.json").read_text())["stage"] == "preprocess"
