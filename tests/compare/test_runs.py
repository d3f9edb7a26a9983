"""A run's results, wherever they lie; what is unknown, missing, old or damaged is told."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import results
import tiny
from ruamel.yaml import YAML

from vitlora.compare.revisions import experiments
from vitlora.compare.runs import flattened, load_run
from vitlora.compare.two import compare_two
from vitlora.core.errors import VitloraError


def other(root, labels, seed=1, **more):
    results.write_run(root, results.make_logits(labels, 0.9, seed), labels, **more)


def right(run):
    return np.mean([a == b for a, b in zip(run.answers.actual, run.answers.predicted, strict=True)])


def test_workspace_commit_branch_tag_experiment_and_folder_are_read(repository, labels):
    first = tiny.git(repository, "rev-parse", "HEAD").strip()
    tiny.git(repository, "tag", "v1")
    other(repository, labels, params={"lora.r": 8})
    made = results.experiment(repository, "rowdy-fern")
    other(repository, labels, seed=2)
    shutil.copytree(repository, repository.parent / "clone")
    for name in ("main", "HEAD", "v1", first, first[:8], "HEAD~0"):
        run = load_run(name)
        assert (run.commit, right(run), run.params["lora.r"]) == (first, pytest.approx(0.8, abs=0.05), 16)
        assert run.logits.values.shape == (400, 4)
    run = load_run("rowdy-fern")
    assert (run.commit, run.params["lora.r"], run.label) == (made, 8, f"rowdy-fern ({made[:7]})")
    for name in ("workspace", "../clone", str(repository.parent / "clone")):
        run = load_run(name)
        assert (run.commit, run.label) == (None, name)
        assert right(run) == pytest.approx(0.9, abs=0.05)
    assert load_run("workspace").logits.class_names == results.NAMES


def test_a_folder_that_holds_predictions_alone_is_read(repository):
    shutil.copytree(repository / "metrics/evaluate", repository.parent / "scored")
    run = load_run("../scored")
    assert (len(run.answers.paths), run.params, run.logits) == (400, {}, None)


def test_a_branch_wins_over_a_folder_of_its_name_and_a_dot_says_folder(repository, labels):
    tiny.git(repository, "branch", "after/it")
    (repository / "after").mkdir()
    shutil.copytree(repository / "metrics/evaluate", repository / "after/it")
    assert load_run("after/it").commit
    assert load_run("./after/it").commit is None
    tiny.git(repository, "branch", "-D", "after/it")
    assert load_run("after/it").commit is None


def test_a_project_below_the_top_of_its_repository_is_read(tmp_path, monkeypatch, labels):
    top = tmp_path / "top"
    root = results.make_repository(top / "inside")
    shutil.rmtree(root / ".git")
    tiny.git(top, "init", "-q", "-b", "main")
    other(root, labels)
    tiny.commit(top)
    monkeypatch.chdir(root)
    run = load_run("HEAD")
    assert len(run.answers.paths) == 400
    assert run.logits is not None


def test_costs_and_parameters_are_those_of_the_run(repository):
    run = load_run("HEAD")
    assert (run.cost.trainable_parameters, run.cost.adapter_bytes, run.cost.export_bytes) == (4000, 1241, 1240)
    assert run.cost.seconds == {}
    assert run.params["data.source"] == "digits"
    assert run.params["lora.options"] == {}


def test_seconds_count_only_where_the_record_belongs_to_the_results(repository):
    results.record(repository, "evaluate", 12.5)
    results.record(repository, "train", 60)
    trained = repository / "metrics/train/metrics.json"
    trained.write_text(trained.read_text() + " ")
    assert load_run("workspace").cost.seconds == {"evaluate": 12.5}


def test_parameters_changed_after_the_run_are_noted_and_those_of_the_run_are_shown(repository):
    tiny.set_params(repository / "params.yaml", {"lora.r": 4, "train.seed": 3})
    run = load_run("workspace")
    assert run.params["lora.r"] == 16
    (note,) = run.notes
    assert "lora.r: 16 -> 4" in note
    assert load_run("HEAD").notes == ()


def test_pictures_changed_after_the_run_are_noted(repository):
    yaml, lock, source = YAML(), repository / "dvc.lock", repository / "source.yaml"
    document = yaml.load(lock)
    document["stages"]["download"] = {"params": {"source.yaml": {"data": "2 files, aa", "model": None}}}
    yaml.dump(document, lock)
    for seen, notes in (("2 files, aa", 0), ("3 files, bb", 1)):
        source.write_text(f"data: {seen}\nmodel:\n")
        assert len(load_run("workspace").notes) == notes
    assert "before what lies at data.path changed" in load_run("workspace").notes[0]
    tiny.commit(repository)
    document["stages"]["download"] = {"params": {"source.yaml": {"data": "3 files, bb", "model": None}}}
    yaml.dump(document, lock)
    differing = compare_two(load_run("HEAD"), load_run("workspace"), 0.005).params
    assert differing == [("source.data", "2 files, aa", "3 files, bb")], "no parameter does, but what was trained on"


UNKNOWN = {"mian": "main", "rowdy-fren": "rowdy-fern", "v1.0": "v1"}


@pytest.mark.parametrize("name", [*UNKNOWN, "0123abc", "nothing/like/it", "-x"])
def test_an_unknown_name_is_refused_with_those_like_it(repository, labels, name):
    tiny.git(repository, "tag", "v1")
    other(repository, labels)
    results.experiment(repository, "rowdy-fern")
    with pytest.raises(VitloraError, match="no branch, tag, commit, experiment or folder") as refused:
        load_run(name)
    near = UNKNOWN.get(name)
    assert (f"like it: {near}" in str(refused.value)) if near else True
    if near:
        load_run(near)


def test_two_experiments_of_one_name_are_told_apart_by_their_commits(repository, labels):
    other(repository, labels)
    results.experiment(repository, "twin")
    tiny.git(repository, "commit", "-q", "--allow-empty", "-m", "more")
    other(repository, labels, seed=5)
    results.experiment(repository, "twin")
    with pytest.raises(VitloraError, match="2 experiments have this name") as refused:
        load_run("twin")
    for _, commit in experiments():
        assert commit[:7] in str(refused.value)
        load_run(commit[:7])


def test_a_commit_without_results_is_refused_and_the_cure_lists_one_that_has_some(repository):
    tiny.git(repository, "rm", "-q", "-r", "metrics")
    tiny.commit(repository)
    with pytest.raises(VitloraError, match="HEAD has no metrics/evaluate/predictions"):
        load_run("HEAD")
    listed = tiny.git(repository, "log", "--format=%H", "--", "metrics/evaluate/predictions.csv").split()
    assert len(load_run(listed[-1]).answers.paths) == 400
    with pytest.raises(VitloraError, match=r"workspace has no .* `vitlora run` makes it"):
        load_run("workspace")


def test_outside_git_folders_can_be_read_and_commits_say_what_to_do(repository, tmp_path, monkeypatch):
    shutil.copytree(repository, tmp_path / "plain", ignore=shutil.ignore_patterns(".git"))
    monkeypatch.chdir(tmp_path / "plain")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(VitloraError, match="in no Git repository"):
        load_run("HEAD")
    assert len(load_run("workspace").answers.paths) == 400
    assert len(load_run("../project").answers.paths) == 400
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "start")):
        tiny.git(tmp_path / "plain", *words)
    assert len(load_run("HEAD").answers.paths) == 400


def test_a_folder_without_a_project_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitloraError, match=r"no dvc\.yaml"):
        load_run("workspace")


def spoil(path, change):
    path.write_bytes(change(path.read_bytes()))
    tiny.git(path.parent, "commit", "-qam", "spoilt")


PREDICTIONS = Path("metrics/evaluate/predictions.csv")
DAMAGE = {
    "a row cut": (PREDICTIONS, lambda content: content[:-25], "line 401 has"),
    "rows cut": (PREDICTIONS, lambda content: content[: content.index(b"\nbee") + 1], "not the one that dvc.lock"),
    "another head": (PREDICTIONS, lambda content: content.replace(b"predicted", b"guess"), "no column predicted"),
    "conflict": (PREDICTIONS, lambda content: b"<<<<<<< HEAD\n" + content, "no column path"),
    "empty": (PREDICTIONS, lambda content: b"", "no column path"),
    "no picture": (PREDICTIONS, lambda content: content.partition(b"\n")[0] + b"\n", "no picture in it"),
    "no YAML": (Path("params.yaml"), lambda content: b"lora: [", r"params.yaml can't be read"),
    "no lock": (Path("dvc.lock"), lambda content: content[: len(content) // 2] + b"\n  - [", r"dvc.lock can't be read"),
    "no JSON": (Path("metrics/train/metrics.json"), lambda content: content[:5], r"metrics.json can't be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["workspace", "HEAD"])
def test_damaged_files_are_refused_wherever_they_lie(repository, kind, name):
    path, change, said = DAMAGE[kind]
    spoil(repository / path, change)
    with pytest.raises(VitloraError, match=said) as refused:
        load_run(name)
    assert name in str(refused.value)
    tiny.git(repository, "checkout", "-q", "HEAD~1", "--", str(path))
    load_run("workspace")


def cached_objects(root):
    return [path for path in sorted((root / results.CACHE).glob("??/*")) if path.is_file()]


@pytest.mark.parametrize("number", range(5))
def test_a_damaged_object_of_dvcs_cache_is_refused(repository, number):
    path = cached_objects(repository)[number]
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(VitloraError, match="its bytes are not those that its name says") as refused:
        load_run("HEAD")
    assert path.name in str(refused.value)
    path.unlink()  # as `vitlora recover` does
    run = load_run("HEAD")
    assert run.logits is None
    assert "`git checkout HEAD && dvc repro` makes them" in run.without_logits


def test_a_cache_elsewhere_is_found_and_its_loss_told(repository):
    cache, moved = repository / ".dvc/cache", repository.parent / "shared"
    shutil.move(cache, moved)
    assert load_run("HEAD").logits is None
    (repository / ".dvc/config.local").write_text(f"[cache]\n    dir = {moved}\n")
    assert load_run("HEAD").logits is not None
    (repository / ".dvc/config.local").write_text("[cache]\n    dir = ../../shared\n")
    assert load_run("HEAD").logits is not None
    (repository / ".dvc/config.local").write_text("no section\n")
    with pytest.raises(VitloraError, match="config can't be read"):
        load_run("HEAD")


def test_where_the_cache_is_empty_the_workspaces_own_logits_are_read_if_they_are_of_that_run(repository, labels):
    shutil.rmtree(repository / ".dvc/cache")
    assert load_run("workspace").logits is not None
    kept = shutil.copytree(repository / "data", repository.parent / "data")
    other(repository, labels)
    shutil.rmtree(repository / ".dvc/cache")
    shutil.rmtree(repository / "data")
    assert "`dvc repro evaluate`" in load_run("workspace").without_logits
    shutil.copytree(kept, repository / "data")
    with pytest.raises(VitloraError, match="of another run than"):
        load_run("workspace")


@pytest.mark.parametrize("name", ["calibration.json", "class_names.json", "test.csv", "test_logits.npy"])
def test_unreadable_logits_are_refused(repository, name):
    shutil.rmtree(repository / ".dvc/cache")
    path = repository / "data/evaluated" / name
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2])
    with pytest.raises(VitloraError, match=r"can't be read|of another run"):
        load_run("workspace")


def test_results_of_before_logits_and_digests_were_kept_are_read(repository, labels):
    other(repository, labels, old=True)
    run = load_run("workspace")
    assert run.answers.digests is None
    assert "before logits were kept" in run.without_logits


def test_names_that_are_not_utf8_and_commas_and_line_ends_in_them_are_kept(repository, labels):
    paths = [f"{results.NAMES[label]}/{row}, \udcff\n.jpg" for row, label in enumerate(labels)]
    other(repository, labels, paths=paths)
    tiny.commit(repository)
    assert load_run("HEAD").answers.paths == paths
    assert load_run("HEAD").logits is not None


def test_nested_parameters_are_flattened_and_empty_ones_kept():
    document = {"lora": {"r": 1, "options": {"a": {"b": 2}, "c": {}}}, "odd": 3}
    assert dict(flattened(document)) == {"lora.r": 1, "lora.options.a.b": 2, "lora.options.c": {}, "odd": 3}


def test_scores_of_the_adapter_before_are_not_taken_for_those_of_a_trial(repository):
    results.only_train_ran(repository, {"lora.r": 8})
    results.experiment(repository, "tune-003")
    results.only_train_ran(repository, {"lora.r": 4})
    for name, cure in (("tune-003", "`dvc exp apply tune-003 && dvc repro`"), ("workspace", "`dvc repro`")):
        with pytest.raises(VitloraError, match="is of an earlier models/adapter, which") as caught:
            load_run(name)
        assert str(caught.value).endswith(cure)
