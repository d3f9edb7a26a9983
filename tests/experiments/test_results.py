"""What a sweep ends with: a table, means over seeds, and lines to go on with."""

import numpy as np
import pytest
from scipy.stats import t

from vitlora.compare.screen import make_console
from vitlora.experiments import results
from vitlora.experiments.begin import prepare


@pytest.fixture
def said(finished, capsys):
    results.show(finished, make_console())
    return capsys.readouterr().out


def test_every_experiment_stands_in_the_table_with_its_figures(said):
    assert max(map(len, said.splitlines())) <= 100
    lines = {line.split()[0]: " ".join(line.split()) for line in said.splitlines() if line.startswith("sweep-00")}
    assert lines["sweep-002"].startswith("sweep-002 done 0.9300 0.9000 (0.8500 to 0.9400) 63 s")
    assert lines["sweep-002"].endswith("lora.r=8 train.seed=0")
    assert "sweep-005 failed: train: out of GPU memory; its output: " in said
    assert "\nsweep: 5 done, 1 failed\n" in said


def test_over_seeds_there_are_means_with_students_interval(finished):
    done = [member for member in finished.journal.members.values() if member.state == "done"]
    on_test, on_val = results.groups(finished, done, ["lora.r"])
    assert [each.values for each in on_test] == [(16,), (8,), (4,)]
    assert [each.values for each in on_val] == [(8,), (16,), (4,)]
    eight = on_test[1]
    reach = t.ppf(0.975, 1) * np.std([0.90, 0.91], ddof=1) / np.sqrt(2)
    assert (eight.mean.low, eight.mean.high) == pytest.approx((0.905 - reach, 0.905 + reach))
    assert on_test[0].mean.low == on_test[0].mean.high == 0.95  # one seed has no interval


def test_val_picks_and_the_lines_compare_like_with_like(finished, said):
    assert "val picks sweep-002, mean of 2 seeds: lora.r=8\n" in said
    assert "once more, what failed:    vitlora experiments retry sweep\n" in said
    assert "take it:                   dvc exp apply sweep-002\n" in said
    assert "vitlora compare --all --by lora.r\n" in said
    assert "better, or by chance?" not in said  # rank 16, the next on val, has one seed only
    finished.journal.note(5, state="done", val=0.90, test=(0.9, 0.8, 0.95), pictures=368, commit="5" * 40)
    done = list(finished.journal.members.values())
    lines = list(results.commands(finished, done, ["lora.r"]))
    assert "better, or by chance?      vitlora compare sweep-004,sweep-005 sweep-002,sweep-003" in lines
    assert not any("once more" in line for line in lines)


def test_equally_good_ones_are_told(finished):
    for number in (0, 1, 4):
        finished.journal.note(number, val=0.92)
    done = [member for member in finished.journal.members.values() if member.state == "done"]
    lines = list(results.commands(finished, done, ["lora.r"]))
    assert "val picks sweep-000, mean of 2 seeds: lora.r=4; 2 more are as good on val" in lines


def test_what_is_no_experiment_any_more_is_told(said):
    assert "sweep-000, sweep-001, sweep-002 ...: no experiment any more, as after `dvc exp remove`" in " ".join(
        said.split()
    )


@pytest.mark.parametrize("words", [("lora.r=4",), ("lora.r=4", "train.num_train_epochs=2")])
def test_a_lone_experiment_has_no_other_to_be_compared_with(project, words, capsys):
    folder = project / ".work/experiments/one"
    folder.mkdir(parents=True)
    plan = prepare(words, folder)
    plan.journal.note(0, state="done", val=0.9, test=(0.9, 0.8, 0.95), pictures=10, commit="5" * 40)
    results.show(plan, make_console())
    said = capsys.readouterr().out
    assert said.endswith("take it:                   dvc exp apply one-000\n")
    assert "compare" not in said


def test_where_none_is_done_there_is_nothing_to_take(sweep, capsys):
    for number in range(6):
        sweep.journal.note(number, state="failed", error="no")
    results.show(sweep, make_console())
    said = capsys.readouterr().out
    assert said.endswith("vitlora experiments retry sweep\n")
    assert "dvc exp apply" not in said
