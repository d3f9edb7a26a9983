"""A search's memory: cut lines, kept locks, and draws that a kill does not change."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from optuna.trial import TrialState

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.trials.names import JOURNAL
from vitlora.trials.tree import CHANGES, Origin
from vitlora.tune.journal import agree, open_study
from vitlora.tune.search import Plan, Search, draw
from vitlora.tune.space import read_space

WORDS = ("lora.r=1,2,4,8", "train.learning_rate=1e-4:1e-2:log", "train.num_train_epochs=1:9")
ORIGIN = Origin(Path("/"), Path(), "0" * 40, b"", Path("/"))
TRIALS = 16  # beyond TPE's ten random ones
ABOUT = {"space": {"lora.r": "1,2"}, "fixed": {}, "seed": 0, "commit": "a" * 40, "document": {}}


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    document = read_document(tiny.DIGITS)
    (tmp_path / "s").mkdir()
    return Plan(tmp_path / "s", read_space(WORDS, document), {}, document, ORIGIN, 0, TRIALS, [{}])


def score(values):
    """A made-up score that depends on all values."""
    return (
        1
        - abs(values["train.learning_rate"] - 0.003)
        - 0.01 / values["lora.r"]
        - 0.001 * values["train.num_train_epochs"]
    )


def go_on(plan, trials, cut=False):
    """Run a search's next trials to their end, in a runner of their own; then begin one more and leave it."""
    study = open_study(plan.folder, False)
    left = Search(plan, study, 0)._left()
    for _ in range(trials):
        trial = next(left)
        study.tell(trial, score(draw(trial, plan)))
    if cut:
        draw(next(left), replace(plan, space={"lora.r": plan.space["lora.r"]}))
    return [(trial.number, trial.state, trial.params, trial.value) for trial in study.trials]


def test_draws_are_the_same_however_often_the_runner_was_killed(plan, tmp_path):
    for _ in range(TRIALS - 1):
        before = go_on(plan, 1, cut=True)
        assert before[-1][1] == TrialState.RUNNING
    interrupted = go_on(plan, 1)
    (tmp_path / "s").rename(tmp_path / "first")
    (tmp_path / "s").mkdir()
    assert go_on(plan, TRIALS) == interrupted
    assert len({str(params) for _, _, params, _ in interrupted}) == TRIALS


@pytest.mark.parametrize("kept", [1, 20, 0.5, -1, -10])
def test_a_line_that_was_cut_is_taken_away_and_nothing_else(plan, kept):
    before = go_on(plan, 3)
    path = plan.folder / JOURNAL
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    path.write_bytes(whole + last[: int(kept * len(last)) if isinstance(kept, float) else kept])
    (plan.folder / f"{JOURNAL}.lock").symlink_to(path)  # Optuna's, of a killed runner
    assert go_on(plan, 0) == before
    assert go_on(plan, 1)[:3] == before
    assert path.read_bytes().startswith(whole)


def test_a_damaged_journal_is_named_with_a_cure(plan):
    go_on(plan, 2)
    path = plan.folder / JOURNAL
    path.write_bytes(path.read_bytes().replace(b'"study_id"', b'study_id"', 1))
    with pytest.raises(VitloraError, match="is damaged; `rm -r"):
        open_study(plan.folder, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"space": {"lora.r": "1,4"}}, "another space: space was"),
        ({"fixed": {"train.num_train_epochs": 1}}, "another fixed"),
        ({"seed": 1}, "another seed: seed was 0, is 1"),
    ],
)
def test_another_search_of_the_same_name_is_refused_with_a_cure(tmp_path, change, said):
    agree(open_study(tmp_path, False), tmp_path, ABOUT, b"patch")
    with pytest.raises(VitloraError, match=re.escape(said)) as caught:
        agree(open_study(tmp_path, False), tmp_path, {**ABOUT, **change}, b"patch")
    assert "--name another begins a new one" in str(caught.value)
    other = tmp_path / "another"
    other.mkdir()
    assert agree(open_study(other, False), other, {**ABOUT, **change}, b"patch")["seed"] == change.get("seed", 0)


@pytest.mark.parametrize(("commit", "patch"), [("b" * 40, b"patch"), ("a" * 40, b"other"), ("a" * 40, b"")])
def test_a_project_that_has_changed_meanwhile_is_said_and_the_search_goes_on_as_it_began(
    tmp_path, capsys, commit, patch
):
    agree(open_study(tmp_path, False), tmp_path, ABOUT, b"patch")
    assert capsys.readouterr().out == ""
    assert agree(open_study(tmp_path, False), tmp_path, {**ABOUT, "commit": commit}, patch)["commit"] == "a" * 40
    assert (
        "note: files differ from when this search began, at aaaaaaa; it goes on from there" in capsys.readouterr().out
    )
    assert (tmp_path / CHANGES).read_bytes() == b"patch"


def test_a_damaged_patch_is_refused(tmp_path):
    agree(open_study(tmp_path, False), tmp_path, ABOUT, b"patch")
    (tmp_path / CHANGES).write_bytes(b"patc")
    with pytest.raises(VitloraError, match=r"changes\.patch is damaged"):
        agree(open_study(tmp_path, False), tmp_path, ABOUT, b"patch")
