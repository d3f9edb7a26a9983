"""compare and gate on real runs of DVC: experiments, lost caches, and the steps of the pull request's workflow."""

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
from faults import harness
from ruamel.yaml import YAML

WORKFLOW = YAML(typ="safe").load(tiny.ROOT / ".github/workflows/compare.yml")
SCRIPT = str(tiny.ROOT / ".github/compare.sh")
WORSE = 3


@pytest.fixture(scope="session")
def larger_run(tmp_path_factory):
    """A project with enough test pictures to compare, whose five stages have run and whose results are committed."""
    return harness.once(tmp_path_factory, "compared", build)


def build(root):
    params = {"split.test_fraction": 0.6, "train.num_train_epochs": 3, "export.formats": ["onnx"]}
    tiny.make_project(root, params)
    shutil.rmtree(root / "pictures")
    tiny.make_images(root / "pictures", per_class=20)
    harness.repro(root)
    tiny.commit(root)


@pytest.fixture
def project(larger_run, tmp_path):
    root = shutil.copytree(larger_run, tmp_path / "project", symlinks=True)
    tiny.git(root, "branch", "base")
    return root


def compared(root, *words):
    done = harness.vitlora(root, "compare", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def step(root, word, env=None):
    return tiny.run(root, "bash", SCRIPT, word, env={"PYTHONPATH": "src", "BASE": "base"} | (env or {}))


def spoil(root):
    """Change the parameters so that the model learns nothing, and run what is compared."""
    tiny.set_params(root / "params.yaml", {"train.learning_rate": 1.0e-9, "train.num_train_epochs": 1})
    assert harness.repro(root, "evaluate") == ["train", "evaluate"]


def test_a_worse_model_fails_the_pull_request_and_an_equal_one_passes(project, tmp_path):
    files = {name: tmp_path / name for name in ("GITHUB_STEP_SUMMARY", "GITHUB_OUTPUT")}
    env = {name: str(path) for name, path in files.items()}
    for word in ("pull", "run", "report"):
        done = step(project, word, env)
        assert done.returncode == 0, done.stdout + done.stderr
    done = step(project, "gate", env | {"GATE": "--undecided fail"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not worse: the two answer the same" in done.stdout
    spoil(project)
    tiny.commit(project)
    for path in files.values():
        path.unlink()
    assert step(project, "report", env).returncode == 0
    done = step(project, "gate", env)
    assert done.returncode == WORSE, done.stdout + done.stderr
    summary, output = (path.read_text() for path in files.values())
    assert summary.startswith("### Worse: accuracy -")
    assert "worse: it has lost more than the tolerance" in summary
    mark = output.partition("\n")[0].removeprefix("report<<")
    assert output.endswith(f"\n{mark}\n")
    assert summary.startswith(output.partition("\n")[2].removesuffix(f"{mark}\n"))
    assert "learning&#95;rate" in output


def test_the_comment_is_posted_with_the_report_as_it_is(tmp_path):
    (command,) = (each["run"] for each in WORKFLOW["jobs"]["comment"]["steps"])
    program = tmp_path / "gh"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$OUT"\n')
    program.chmod(0o755)
    report = "### Worse\n`x` $(touch owned) \"quoted\" 'too'\n"
    env = {"NUMBER": "7", "REPOSITORY": "me/it", "REPORT": report, "OUT": str(tmp_path / "said")}
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert tiny.run(tmp_path, "bash", "-c", command, env=env | path).returncode == 0
    assert (tmp_path / "said").read_text().endswith(f"--body\n{report}\n")
    assert not (tmp_path / "owned").exists()


def test_the_workflow_may_do_little_and_runs_what_is_tested_here():
    jobs = WORKFLOW["jobs"]
    assert WORKFLOW["permissions"] == {}
    assert {name: job["permissions"] for name, job in jobs.items()} == {
        "compare": {"contents": "read"},
        "comment": {"pull-requests": "write"},
    }
    steps = [each for job in jobs.values() for each in job["steps"]]
    assert all(len(each["uses"].partition("@")[2]) == 40 for each in steps if "uses" in each)
    assert not any("${{" in each.get("run", "") for each in steps)  # a branch's name is no part of a script
    words = [each["run"].split()[-1] for each in steps if "compare.sh" in each.get("run", "")]
    assert words == ["pull", "run", "report", "gate"]
    done = tiny.run(Path(SCRIPT).parent, "bash", SCRIPT, "nonsense")
    assert (done.returncode, done.stderr.split()[0]) == (2, "usage:")


def scores(root):
    return json.loads((root / "metrics/evaluate/scores.json").read_text())


def test_scores_are_those_that_evaluate_wrote(project):
    found = compared(project, "base", "workspace")
    figures = {figure["name"]: figure["a"] for figure in found["figures"]}
    figures["accuracy"] = found["accuracy"][0]["value"]
    names = {"accuracy": "accuracy", "balanced accuracy": "balanced_accuracy", "macro-F1": "macro_f1"}
    for ours, theirs in {**names, "log loss": "log_loss", "Brier score": "brier"}.items():
        assert figures[ours] == pytest.approx(scores(project)[theirs], rel=1e-3), ours


def lose_logits(root, cache=Path(".dvc/cache")):
    """Take the listings of all folders of logits out of DVC's cache, and the workspace's copy."""
    shutil.rmtree(root / "data/evaluated", ignore_errors=True)
    for path in (root / cache / "files/md5").glob("??/*.dir"):
        if b"test_logits.npy" in path.read_bytes():
            path.unlink()


def without(root, *runs):
    """Return why log loss is not compared."""
    return compared(root, *runs)["not_compared"]


def cure_of(said):
    """Return the command that a message names."""
    return said.split("`")[1]


def shell(root, command):
    done = tiny.run(root, "bash", "-c", command)
    assert done.returncode == 0, done.stdout + done.stderr


def push(root):
    """Give the project a remote that holds all, a tag and an experiment."""
    tiny.run(root, tiny.DVC, "remote", "add", "-d", "store", str(root.parent / "store"))
    tiny.git(root, "tag", "v1")
    tiny.git(root, "init", "-q", "--bare", str(root.parent / "hub.git"))
    tiny.git(root, "remote", "add", "origin", str(root.parent / "hub.git"))
    tiny.commit(root)
    tiny.git(root, "push", "-q", "origin", "--all")
    tiny.dvc(root, "exp", "run", "-n", "other", "-S", "evaluate.coverage=0.8")
    for words in (("exp", "push", "origin", "other"), ("push",)):
        done = tiny.run(root, tiny.DVC, *words)
        assert done.returncode == 0, done.stderr
    tiny.git(root, "checkout", "-q", ".")
    shell(root, "dvc checkout && dvc push")


@pytest.mark.faults
def test_lost_logits_are_fetched_by_what_compare_says(project):
    push(project)
    found = compared(project, "base", "other")
    assert found["b"].startswith("other (")
    assert found["params"] == [["evaluate.coverage", 0.95, 0.8]]
    assert found["verdict"] == "equivalent"
    for name in ("v1", "HEAD~1", "other", "workspace"):
        lose_logits(project)
        said = without(project, name, name)
        assert f"the logits of {name} are not here" in said
        shell(project, cure_of(said))
        assert without(project, name, name) == "", name
    lose_logits(project)
    tiny.git(project, "checkout", "-q", "--detach")
    tiny.git(project, "branch", "-D", "main")  # as in the workflow: a commit alone
    assert without(project, "base~0", "base~0")
    done = step(project, "pull", {"BASE": "base~0"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert without(project, "base~0", "base~0") == ""


@pytest.mark.faults
@pytest.mark.parametrize("name", ["workspace", "base"])
def test_lost_logits_without_a_remote_are_made_by_what_compare_says(project, name):
    lose_logits(project)
    shutil.rmtree(project / ".dvc/cache/runs")
    shell(project, cure_of(without(project, name, name)))
    assert without(project, name, name) == ""


def test_a_damaged_object_is_taken_away_by_recover_as_compare_says(project):
    lock = harness.lock(project)["evaluate"]["outs"]
    digest = next(out["md5"] for out in lock if out["path"] == "data/evaluated")
    path = harness.object_path(project, digest)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b" ")
    done = harness.vitlora(project, "compare", "base", "base")
    assert done.returncode == 1
    assert "`vitlora recover`" in done.stderr
    assert harness.vitlora(project, "recover").returncode == 0
    assert harness.vitlora(project, "compare", "base", "base").returncode == 0
