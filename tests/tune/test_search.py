"""Trials followed, judged and told, without a project."""

import json
import os

import optuna
import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.safety.overrides import ready
from vitlora.tune import search
from vitlora.tune.journal import open_study
from vitlora.tune.search import Job, Plan, Search, first_error, live, override, slots
from vitlora.tune.space import read_space, with_values
from vitlora.tune.tree import Origin, Tree


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Running stage 'train':\nerror: lora.r: too large\nerror: more\nERROR: failed: x\n", "lora.r: too large"),
        ("a\nTraceback (most recent call last):\n  File x\nRuntimeError: bad\nERROR: failed\n", "RuntimeError: bad"),
        ("torch.OutOfMemoryError: CUDA out of memory\nERROR: failed\n", "ERROR: failed"),
        ("ERROR: failed to reproduce 'train': its error stands above\n", "failed to reproduce 'train': its error"),
        ("this\nand that\n\n", "and that"),
        ("", "it said nothing"),
    ],
)
def test_the_first_error_of_a_trial_is_found(text, error):
    assert first_error(text).removeprefix("ERROR: ").startswith(error.removeprefix("ERROR: "))


@pytest.mark.parametrize("text", ["", '{"step": 1}\n', '{"step": 1}\n{"st', '{"step": 1}\n{"step": 2}\n{"step": 3}'])
def test_of_a_live_log_only_whole_lines_are_read(tmp_path, text):
    (tmp_path / "train.jsonl").write_text(text)
    assert live(tmp_path / "train.jsonl") == [{"step": number + 1} for number in range(text.count("\n"))]
    assert live(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 1e-05),
        ("lora.r", 8),
        ("lora.use_rslora", True),
        ("train.head_learning_rate", None),
        ("train.lr_scheduler_type", "cosine"),
        ("lora.target_modules", ["query", "value"]),
        ("lora.target_modules", r"blocks\.\d+\.attn"),
        ("lora.target_modules", "a, b=c 'd' {e}"),
        ("lora.target_modules", [r"a\.b", 'say "x"', "c,d"]),
        ("augment.scale", [0.5, 1.0]),
        ("lora.layers_to_transform", []),
    ],
)
def test_what_is_handed_to_dvc_means_the_same_to_its_reader(tmp_path, monkeypatch, key, value):
    from dvc.utils.hydra import apply_overrides

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes(tiny.DIGITS.read_bytes())
    apply_overrides("params.yaml", ready([override(key, value)], queue=False))
    section, _, name = key.partition(".")
    assert read_document(tmp_path / "params.yaml")[section][name] == value


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
    job = Job(study.ask(), {}, Tree(tmp_path / "tree", origin), 0)
    job.tree.project = tmp_path
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
    again = Job(job.trial, {}, job.tree, 0)  # by a runner after a kill
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
        job = Job(study.ask(), {}, job.tree, 0)
        row = {"step": 40, "steps": 120, "epoch": 1.0, "eval_accuracy": 0.5, "eval_loss": loss}
        (tmp_path / ".work/train.jsonl").write_text(json.dumps(row) + "\n")
        lower._follow(job)
        assert job.stopped_early == stopped


# --- one device each ---


@pytest.mark.parametrize(
    ("visible", "jobs", "expected"),
    [
        ("0,1,2", 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-8f,GPU-9e,GPU-a1", 3, ["GPU-8f", "GPU-9e", "GPU-a1"]),
    ],
)
def test_trials_at_once_have_a_gpu_each(monkeypatch, visible, jobs, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert slots(jobs) == [{"CUDA_VISIBLE_DEVICES": name} for name in expected]
    assert slots(1) == [{}]


@pytest.mark.parametrize(
    ("jobs", "said"), [(3, "one GPU each, and there are 2: 4,7"), (0, "at least 1"), (-2, "at least 1")]
)
def test_more_at_once_than_there_are_gpus_is_refused(monkeypatch, jobs, said):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    with pytest.raises(VitloraError, match=f"--jobs: got {jobs}; the rule: {said}"):
        slots(jobs)


def test_without_a_gpu_trials_share_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3
    assert search.gpus() == []
