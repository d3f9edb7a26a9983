"""Trials followed, judged and told, without a project."""

import json

import optuna
import pytest
import tiny

from vitlora.core.params import read_document
from vitlora.trials.child import Child
from vitlora.trials.tree import Origin, Tree
from vitlora.trials.values import with_values
from vitlora.tune.journal import open_study
from vitlora.tune.search import Job, Plan, Search
from vitlora.tune.space import read_space

# --- stopped early ---


@pytest.fixture
def running(tmp_path, monkeypatch):
    """A search whose first six trials have finished, with val accuracies around 0.8 in each of three epochs."""
    monkeypatch.chdir(tmp_path)
    document = read_document(tiny.DIGITS)
    (tmp_path / "s").mkdir()
    origin = Origin(tmp_path, tmp_path / "nowhere", "0" * 40, b"", tmp_path)
    plan = Plan(tmp_path / "s", read_space(["lora.r=1:300"], document), {}, document, origin, 0, 9, [{}])
    study = open_study(plan.folder, False)
    for number in range(6):
        trial = study.ask()
        for epoch in range(3):
            trial.report(0.7 + 0.02 * number + 0.05 * epoch, epoch)
        study.tell(trial, 0.9)
    job = Job(study.ask(), {}, Child(Tree(tmp_path / "tree", origin), plan.folder, "s-006", 6, {}, document), 0)
    job.child.tree.project = tmp_path
    (tmp_path / ".work").mkdir()
    return Search(plan, study, 0), job


def write(folder, *scores, steps=120):
    rows = [{"step": 40 * (n + 1), "steps": steps, "epoch": n + 1.0, "eval_accuracy": s} for n, s in enumerate(scores)]
    (folder / ".work/train.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in [{"step": 1, "loss": 3, "epoch": 0.1}, *rows])
    )


@pytest.mark.parametrize(
    ("scores", "stopped", "seen"),
    [
        ((0.9,), False, 1),
        ((0.1,), True, 1),
        ((0.74,), True, 1),
        ((0.9, 0.1), False, 2),
        ((0.75, 0.5), True, 2),
        ((0.9, 0.9, 0.0), False, 3),
        ((0.1, 0.99, 0.99), True, 1),
    ],
)
def test_a_trial_below_the_median_is_stopped_but_not_in_its_last_epoch(tmp_path, running, scores, stopped, seen):
    looking, job = running
    write(tmp_path, *scores)
    looking._follow(job)
    assert (job.stopped_early, len(job.seen)) == (stopped, seen)
    assert len(looking.study.trials[job.trial.number].intermediate_values) == seen


def test_the_verdict_does_not_depend_on_when_the_log_is_read(tmp_path, running):
    looking, job = running
    scores = (0.76, 0.7, 0.99)
    for count in (1, 1, 2, 3):
        write(tmp_path, *scores[:count])
        looking._follow(job)
    again = Job(job.trial, {}, job.child, 0)  # by a runner after a kill
    looking._follow(again)
    assert (job.stopped_early, again.stopped_early) == (True, True)
    assert looking.study.trials[job.trial.number].intermediate_values == {0: 0.76, 1: 0.7}


def test_a_lower_loss_is_the_better_one(tmp_path, running):
    looking, job = running
    plan = looking.plan
    document = with_values(plan.document, {"train.metric_for_best_model": "loss"})
    study = optuna.create_study(direction="minimize", pruner=optuna.pruners.MedianPruner())
    for _ in range(6):
        trial = study.ask()
        trial.report(0.5, 0)
        study.tell(trial, 0.5)
    lower = Search(Plan(plan.folder, plan.space, {}, document, plan.origin, 0, 9, [{}]), study, 0)
    for loss, stopped in ((0.4, False), (0.6, True)):
        job = Job(study.ask(), {}, job.child, 0)
        row = {"step": 40, "steps": 120, "epoch": 1.0, "eval_accuracy": 0.5, "eval_loss": loss}
        (tmp_path / ".work/train.jsonl").write_text(json.dumps(row) + "\n")
        lower._follow(job)
        assert job.stopped_early == stopped
