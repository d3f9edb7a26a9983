"""All runs in a table: sorted, each result once, grouped by parameters with seeds summarised, drawn."""

import json
import os
import shutil

import numpy as np
import pytest
import results
import scipy.stats
import tiny
from PIL import Image

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError

RANKS = (2, 8, 32)


def printed(capsys, *words):
    args = command_line().parse_args(["compare", "--all", *words])
    args.act(args)
    return capsys.readouterr().out


def document(capsys, *words):
    return json.loads(printed(capsys, *words, "--json"))


@pytest.fixture(scope="module")
def swept(committed, labels, tmp_path_factory):
    """Three seeds of three ranks as experiments, beside the first commit; returns accuracies by rank too."""
    root = shutil.copytree(committed, tmp_path_factory.mktemp("swept") / "project")
    found = {}
    for r in RANKS:
        for seed in range(3):
            logits = results.make_logits(labels, 0.6 + 0.05 * RANKS.index(r) + 0.01 * seed, seed + r)
            results.write_run(root, logits, labels, params={"lora.r": r, "train.seed": seed})
            results.experiment(root, f"r{r}s{seed}")
            found.setdefault(r, []).append(float(np.mean(logits.argmax(axis=1) == labels)))
    return root, found


@pytest.fixture
def sweep(swept, repository):
    shutil.rmtree(repository)
    shutil.copytree(swept[0], repository)
    os.chdir(repository)  # the folder is another one, at the same place
    return swept[1]


def test_experiments_and_commits_stand_by_score_with_wilsons_interval(capsys, repository, sweep):
    runs = document(capsys)["runs"]
    head = tiny.git(repository, "rev-parse", "HEAD")[:7]
    names = [f"r{r}s{seed}" for r in RANKS for seed in range(3)]
    assert {run["name"] for run in runs} == {*names, head}
    values = [run["score"]["value"] for run in runs]
    assert values == sorted(values, reverse=True)
    first = runs[0]
    interval = scipy.stats.binomtest(round(values[0] * 400), 400).proportion_ci(method="wilson")
    assert list(first["score"].values())[1:] == pytest.approx([interval.low, interval.high], abs=1e-6)
    assert first["pictures"] == 400


def test_seeds_are_summarised_by_parameter(capsys, sweep):
    groups = document(capsys, "--by", "lora.r")["groups"]
    by_rank = {group["values"][0]: group for group in groups}
    for r, scores in sweep.items():
        mean, low, high = by_rank[r]["mean"].values()
        assert sorted(by_rank[r]["scores"]) == pytest.approx(sorted(scores), abs=1e-6)
        assert mean == pytest.approx(np.mean(scores), abs=1e-6)
        expected = scipy.stats.t.interval(0.95, 2, np.mean(scores), scipy.stats.sem(scores))
        assert (low, high) == pytest.approx(expected, abs=1e-5)
        assert by_rank[r]["spread"] == pytest.approx(np.std(scores, ddof=1), abs=1e-5)
    out = printed(capsys, "--by", "lora.r")
    assert "one run" in out
    assert "within groups" not in out
    assert max(map(len, out.splitlines())) <= 100
    text = printed(capsys, "--by", "lora.r", "--md")
    assert text.count("\n| <code>") == 4


def test_runs_of_one_seed_get_no_interval_and_it_is_said_what_varies(capsys, repository, labels):
    for rate in (0.001, 0.002, 0.004):
        logits = results.make_logits(labels, 0.7, int(rate * 1000))
        results.write_run(repository, logits, labels, params={"train.learning_rate": rate, "lora.r": 4})
        results.experiment(repository, f"rate{int(rate * 1000)}")
    out = printed(capsys, "--by", "lora.r")
    assert "within groups other parameters vary too: train.learning_rate" in out
    groups = document(capsys, "--by", "lora.r")["groups"]
    (group,) = (group for group in groups if group["values"] == [4])
    assert (group["seeds"], len(group["scores"])) == (1, 3)
    assert group["mean"]["low"] == group["mean"]["high"]


def test_a_result_that_many_commits_carry_stands_once(capsys, repository, labels):
    for number in range(3):
        (repository / "README.md").write_text(str(number))
        params = repository / "params.yaml"
        params.write_text(f"# comment {number}\n{params.read_text()}")
        tiny.commit(repository)
    results.write_run(repository, results.make_logits(labels, 0.8), labels)
    results.experiment(repository, "again")
    (run,) = document(capsys)["runs"]
    assert run["name"] == "again"
    assert run["times"] == 2  # the commits in between changed no result, so Git does not name them
    results.write_run(repository, results.make_logits(labels, 0.8), labels, params={"train.save_steps": 7})
    results.experiment(repository, "other-param")
    assert len(document(capsys)["runs"]) == 2


def test_other_metrics_sort_their_way(capsys, repository, labels):
    for loss in (0.5, 0.1, 0.9):
        results.write_run(repository, results.make_logits(labels, 0.8, int(loss * 10)), labels)
        text = f"score,value,low,high,method\nlog_loss,{loss},{loss - 0.05},{loss + 0.05},x\nset_classes,1.5,,,y\n"
        (repository / "metrics/evaluate/intervals.csv").write_text(text)
        results.experiment(repository, f"loss{int(loss * 10)}")
    assert [run["name"] for run in document(capsys, "--metric", "log_loss")["runs"]] == ["loss1", "loss5", "loss9"]
    assert "3 results by log_loss, lowest first" in printed(capsys, "--metric", "log_loss")
    assert document(capsys, "--metric", "log_loss")["runs"][0]["score"] == pytest.approx(
        {"value": 0.1, "low": 0.05, "high": 0.15}
    )
    assert "1.5000  " in printed(capsys, "--metric", "set_classes")


def test_test_sets_that_differ_are_said(capsys, repository, labels):
    assert "same pictures" not in printed(capsys)
    results.write_run(repository, results.make_logits(labels, 0.9), labels, params={"split.seed": 3})
    results.experiment(repository, "other-split")
    assert "not all runs were scored on the same pictures (split.seed differs)" in printed(capsys)


def test_a_trial_that_has_not_been_evaluated_is_no_result(capsys, repository):
    before = document(capsys)["runs"]
    results.only_train_ran(repository, {"lora.r": 8})
    results.experiment(repository, "tune-003")
    assert document(capsys)["runs"] == before


def test_what_a_newer_version_added_to_the_parameters_hides_no_choice(capsys, repository, sweep):
    path = repository / "params.yaml"
    path.write_text(path.read_text().replace("  top_k: 5\n", ""))
    results.write_lock(repository, [])
    results.experiment(repository, "older")
    lines = printed(capsys).splitlines()
    (line,) = (line for line in lines if "r8s2" in line)
    assert "lora.r=8" in line
    assert "top_k" not in line


@pytest.mark.parametrize("kind", [".png", ".svg"])
def test_a_sweep_is_drawn_with_equal_bytes(capsys, tmp_path, sweep, kind):
    one, two = tmp_path / f"one{kind}", tmp_path / f"two{kind}"
    for path in (one, two):
        printed(capsys, "--by", "lora.r", "--plot", str(path))
    assert one.read_bytes() == two.read_bytes()
    if kind == ".png":
        with Image.open(one) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    else:
        assert "lora.r" in one.read_text()


WORDS = {"lora.method": "dora", "lora.target_modules": "all-linear", "train.fp16": False, "evaluate.top_k": 5}


@pytest.mark.parametrize("key", WORDS)
def test_a_sweep_over_words_lists_and_one_value_is_drawn(capsys, tmp_path, repository, labels, sweep, key):
    results.write_run(repository, results.make_logits(labels, 0.8, 99), labels, params={key: WORDS[key]})
    results.experiment(repository, "word")
    printed(capsys, "--by", key, "--plot", str(tmp_path / "plot.png"))
    assert (tmp_path / "plot.png").stat().st_size > 5000


BAD = {
    "runs too": (("HEAD",), "--all lists all runs"),
    "no such parameter": (("--by", "lora.rank"), "no run has this parameter; those that vary: lora.r, train.seed"),
    "no such metric": (("--metric", "f1"), "no result has it; the rule: one of accuracy, macro_f1"),
    "a plot of nothing": (("--plot", "x.png"), "one parameter to draw against"),
    "another kind": (("--by", "lora.r", "--plot", "x.jpg"), r"ends in \.png or \.svg"),
    "no folder": (("--by", "lora.r", "--plot", "none/x.png"), "no folder none; make it"),
}


@pytest.mark.parametrize("kind", BAD)
def test_mistakes_are_told(capsys, sweep, kind):
    words, said = BAD[kind]
    with pytest.raises(VitloraError, match=said):
        printed(capsys, *words)


def test_options_of_the_list_without_it_are_refused(repository):
    for words in (["--by", "lora.r"], ["--plot", "x.png"], ["--metric", "macro_f1"]):
        args = command_line().parse_args(["compare", *words])
        with pytest.raises(VitloraError, match="belong to --all"):
            args.act(args)


def test_a_repository_without_results_says_what_to_do(capsys, repository, tmp_path, monkeypatch):
    root = results.make_repository(tmp_path / "empty")
    tiny.commit(root)
    monkeypatch.chdir(root)
    with pytest.raises(VitloraError, match="`vitlora run`, then commit"):
        printed(capsys)


def test_unreadable_scores_are_told_with_their_commit(capsys, repository):
    (repository / "metrics/evaluate/scores.json").write_text("{")
    tiny.commit(repository)
    head = tiny.git(repository, "rev-parse", "HEAD")[:7]
    with pytest.raises(VitloraError, match=f"{head}: metrics/evaluate/scores.json or .* can't be read"):
        printed(capsys)
