"""The verb: what is refused before the first trial, and what is shown at the end."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
import tiny
from PIL import Image

from vitlora.cli import command_line, tune
from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.trials import names
from vitlora.trials.tree import Origin, find_origin
from vitlora.trials.values import with_values
from vitlora.tune import begin, results
from vitlora.tune.journal import open_study
from vitlora.tune.search import Plan, draw
from vitlora.tune.space import current, read_space

WORDS = ("lora.r=4,8,16", "train.learning_rate=1e-4:1e-2:log", "train.lr_scheduler_type=linear,cosine")
ORIGIN = Origin(Path("/"), Path(), "0" * 40, b"", Path("/"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """All that is looked at before Git is."""
    shutil.copy2(tiny.DIGITS, tmp_path / "params.yaml")
    shutil.copy2(tiny.ROOT / "dvc.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    args = command_line(["tune"]).parse_args(["tune", *words])
    args.act(args)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--space", "lora.r=4,8", "--trials", "0"), "--trials: got 0; the rule: at least 1"),
        (("--space", "lora.r=4,8", "--seed", "-1"), "--seed: got -1"),
        (("--space", "lora.r=4,8", "--jobs", "0"), "--jobs: got 0; the rule: at least 1"),
        (("--space", "lora.r=4,8", "--name", "../x"), "--name: got ../x; the rule: a letter, then"),
        (("--space", "lora.r=4,8", "--name", "7"), "--name: got 7"),
        (("--space", "lora.r=4,8", "--name", "out"), "--name: got out"),
        (("--space", "lora.r=4,8", "-S", "lora.r=16"), "-S lora.r: --space has it too"),
        (("--space", "lora.r=4,8", "-S", "train.num_train_epochs=0"), "-S train.num_train_epochs=0"),
        (("--space", "lora.r=0,8"), "--space lora.r=0: lora.r: got 0; the rule: at least 1"),
        (("--space", "lora.rank=8,9"), "did you mean lora.r?"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_made(project, words, said):
    with pytest.raises(VitloraError, match=re.escape(said)):
        run(*words)
    assert not list(project.glob(".work/tune/*/journal*"))


def test_a_mistake_in_params_yaml_is_told_as_such(project):
    tiny.set_params(project / "params.yaml", {"lora.r": 0})
    with pytest.raises(VitloraError, match=r"^params.yaml: lora.r: got 0"):
        run("--space", "lora.r=4,8")


def test_any_other_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitloraError, match=r"no dvc.yaml and .dvc here"):
        run("--space", "lora.r=4,8")


def test_without_optuna_the_cure_is_told(project, monkeypatch):
    monkeypatch.setattr(tune, "find_spec", lambda name: None)
    with pytest.raises(VitloraError, match="needs optuna, which is not installed; `make setup`"):
        run("--space", "lora.r=4,8")


def test_a_folder_without_a_commit_is_told_what_to_type(tmp_path, monkeypatch):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy2(tiny.ROOT / name, tmp_path)
    shutil.copytree(tiny.ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    tiny.git(tmp_path, "init", "-q", "-b", "main")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitloraError, match=r"no commit here, .*`git add -A && git commit -m start`"):
        find_origin()
    tiny.commit(tmp_path)
    (tmp_path / "params.yaml").write_text("lora: {}\n")
    origin = find_origin()
    assert (origin.top, origin.below) == (tmp_path, Path())
    assert b"+lora: {}" in origin.changes
    assert tiny.git(tmp_path, "stash", "list") == ""


def test_experiments_that_have_the_names_are_not_written_over(monkeypatch, tmp_path):
    refs = [("refs/exps/aa/bb/tune-003", "c"), ("refs/exps/aa/bb/tune-x-001", "d"), ("refs/exps/aa/bb/mine", "e")]
    monkeypatch.setattr(names, "experiments", lambda: refs)
    with pytest.raises(VitloraError, match=r"such as tune-003; --name another, or `dvc exp remove tune-003`"):
        names.refuse_taken(tmp_path / "tune")
    names.refuse_taken(tmp_path / "min")
    names.refuse_taken(tmp_path / "x")


# --- what is shown ---


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Fourteen trials: one stopped early, one failed; the learning rate matters."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(tiny.DIGITS, "params.yaml")
    document = read_document(tiny.DIGITS)
    (tmp_path / "s").mkdir()
    plan = Plan(tmp_path / "s", read_space(WORDS, document), {}, document, ORIGIN, 0, 14, [{}])
    study = open_study(plan.folder, False)
    study.enqueue_trial(current(document, plan.space))
    for number in range(14):
        trial = study.ask()
        values = draw(trial, plan)
        score = round(179 * max(0.1, 0.98 - 40 * abs(values["train.learning_rate"] - 0.004))) / 179
        for key, about in {"values": values, "seconds": 61.0 + number, "pictures": 179, "worth_pictures": 179}.items():
            trial.set_user_attr(key, about)
        if number == 5:
            trial.report(0.25, 0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        elif number == 6:
            trial.set_user_attr("error", "out of GPU memory")
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)
    return plan, study


def test_the_table_has_every_trial_and_the_best_first(found, capsys):
    plan, study = found
    tune._show(plan, study)
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    rows = results.finished(study, plan)
    scores = [row.value for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert len(rows) == 12
    assert all(f"s-{number:03d}" in said for number in range(14))
    assert re.search(r"0\.2500 in epoch 1, stopped\s", said)
    assert "failed: out of GPU memory" in said
    best = plan.name(rows[0].trial.number)
    assert f"best: {best}, val accuracy {rows[0].value:.4f}" in said
    values = rows[0].trial.user_attrs["values"]
    line = f"-S lora.r={values['lora.r']} -S train.learning_rate={values['train.learning_rate']} "
    assert f"  dvc exp run {line}-S 'train.lr_scheduler_type=\"{values['train.lr_scheduler_type']}\"'\n" in said
    assert re.search(
        r"it leads the values that params.yaml has by [\d.]+ points; about [\d.]+ points of that are luck", said
    )
    assert re.search(r"importance \(PED-ANOVA.*\): train.learning_rate \d+%", said)


def test_the_best_is_said_to_be_worth_less_than_it_scored(found):
    plan, study = found
    best = results.finished(study, plan)[0]
    assert best.low < best.worth < best.value < best.high


def test_the_picture_is_drawn_with_equal_bytes(found, tmp_path):
    plan, study = found
    rows = results.finished(study, plan)
    for name in ("one.png", "two.png"):
        results.draw_search(study, plan, rows, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.width > picture.height > 300


def test_a_loss_has_neither_interval_nor_luck_and_the_lowest_is_best(found):
    plan, study = found
    plan = replace(plan, document=with_values(plan.document, {"train.metric_for_best_model": "loss"}))
    rows = results.finished(study, plan)
    assert rows[0].value == min(row.value for row in rows)
    assert all(row.low == row.high for row in rows)
    assert "how much of its lead is luck is not estimated for a loss" in list(results.verdict(plan, rows))


def test_with_few_trials_importance_is_not_shown(found):
    plan, study = found
    rows = results.finished(study, plan)
    assert results.importance(study, plan, rows[:11]).endswith(
        "too few different trials to tell; the rule: 12 that finish"
    )
    assert results.importance(study, replace(plan, space={"lora.r": plan.space["lora.r"]}), rows) == ""


def test_where_all_scored_the_same_there_is_no_luck_and_no_importance(found):
    plan, study = found
    rows = [row._replace(value=0.5, worth=0.5001) for row in results.finished(study, plan)]
    assert "about 0.0 points of its score are luck" in " ".join(results.verdict(plan, rows))
    assert results.importance(study, plan, rows).endswith("all trials scored the same, so none can be told")


def test_where_all_failed_the_exit_is_an_error(found, capsys):
    plan, _ = found
    folder = plan.folder.with_name("none")
    folder.mkdir()
    study = open_study(folder, False)
    for error in ("no room", "no rank", "no luck"):
        trial = study.ask()
        for key, about in {"values": draw(trial, plan), "seconds": 3.0, "error": error}.items():
            trial.set_user_attr(key, about)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(VitloraError, match=r"no trial of .* has finished; the errors stand above"):
        tune._show(replace(plan, folder=folder), study)
    said = capsys.readouterr().out
    assert all(f"failed: {error}" in said for error in ("no room", "no rank", "no luck"))


def test_a_small_space_is_tried_whole_with_the_own_values_first(found):
    plan, _ = found
    document = with_values(plan.document, {"lora.r": 8})
    space = read_space(["lora.r=4,8,16"], document)
    small = replace(plan, document=document, space=space, trials=3, folder=plan.folder.with_name("small"))
    small.folder.mkdir()
    for _ in range(2):  # a kill may come between two
        study = open_study(small.folder, False)
        begin._enqueue(study, small)
    assert [draw(study.ask(), small)["lora.r"] for _ in range(3)] == [8, 4, 16]
    assert len(study.trials) == 3


def test_equal_values_count_once(found):
    plan, study = found
    before = results.finished(study, plan)
    again = study.trials[before[0].trial.number]
    study.add_trial(again)
    assert [row.trial.number for row in results.finished(study, plan)] == [row.trial.number for row in before]
