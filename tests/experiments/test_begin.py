"""A sweep begun, gone on with, extended, or refused with a cure."""

import re

import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.experiments.begin import prepare, prepare_again
from vitlora.experiments.journal import read_journal


def numbers(plan):
    return {number: tuple(member.values.values()) for number, member in plan.journal.members.items()}


def test_the_same_words_go_on_with_what_is_there(sweep):
    before = sweep.journal.path.read_bytes()
    sweep.journal.note(0, state="done")
    for words in (("lora.r=4,8,16", "train.seed=0,1"), ("train.seed=1,0", "lora.r=16,8,4")):
        again = prepare(words, sweep.folder)
        assert numbers(again) == {0: (4, 0), 1: (4, 1), 2: (8, 0), 3: (8, 1), 4: (16, 0), 5: (16, 1)}
        assert again.journal.members[0].state == "done"
    assert sweep.journal.path.read_bytes().startswith(before)


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (("lora.r=4,8,16,32", "train.seed=0,1"), [(32, 0), (32, 1)]),
        (("lora.r=4,8,16", "train.seed=2,1,0"), [(4, 2), (8, 2), (16, 2)]),
        (
            ("lora.r=4,8,16", "train.seed=0,1", "train.num_train_epochs=3,4"),  # 3 is what params.yaml has
            [(4, 0, 4), (4, 1, 4), (8, 0, 4), (8, 1, 4), (16, 0, 4), (16, 1, 4)],
        ),
    ],
)
def test_more_values_are_more_experiments_and_the_old_keep_their_numbers(sweep, capsys, words, new):
    old = numbers(sweep)
    found = numbers(prepare(words, sweep.folder))
    assert {number: found[number] for number in old} == old
    assert [found[number] for number in range(len(old), len(found))] == new
    assert f"sweep: {len(new)} experiments more; those that are there stay" in capsys.readouterr().out


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_a_kill_between_two_of_its_first_lines_is_made_good(sweep, cut):
    path = sweep.journal.path
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:cut]))
    assert numbers(prepare(("lora.r=4,8,16", "train.seed=0,1"), sweep.folder)) == numbers(sweep)


@pytest.mark.parametrize(
    "words",
    [
        ("lora.r=4,8", "train.seed=0,1"),
        ("lora.r=4,8,16",),
        ("lora.r=4,8,16", "train.seed=0,1", "train.num_train_epochs=4"),
        ("train.seed=0,1",),
    ],
)
def test_values_taken_away_are_refused_with_a_cure(sweep, words):
    before = sweep.journal.path.read_bytes()
    with pytest.raises(VitloraError, match=r"such as sweep-00\d: lora\.r=\d+ train\.seed=\d; the rule: values may be"):
        prepare(words, sweep.folder)
    assert sweep.journal.path.read_bytes() == before
    other = sweep.folder.with_name("other")
    other.mkdir()
    assert prepare(words, other).journal.members


def test_a_mistake_leaves_nothing_behind(sweep):
    before = sweep.journal.path.read_bytes()
    with pytest.raises(VitloraError, match=r"-S lora\.r: got 0"):
        prepare(("lora.r=4,8,16,0", "train.seed=0,1"), sweep.folder)
    assert sweep.journal.path.read_bytes() == before
    other = sweep.folder.with_name("other")
    with pytest.raises(VitloraError, match=r"-S lora\.r: got 0"):
        prepare(("lora.r=0",), other)
    assert not other.exists()


def test_what_no_experiment_reads_is_refused_and_the_cure_helps(project):
    tiny.set_params(project / "params.yaml", {"lora.method": "full"})
    folder = project / ".work/experiments/ranks"
    for words in (("lora.r=4,8",), ("lora.r=4",), ("lora.r=16,4", "lora.method=full,head")):
        with pytest.raises(VitloraError, match=r"-S lora\.r: no effect; .* for LoRA add -S lora\.method=lora"):
            prepare(words, folder)
    assert not folder.exists()
    folder.mkdir(parents=True)
    assert prepare(("lora.r=4,8", "lora.method=lora"), folder).journal.members


def test_it_goes_on_from_where_it_began_and_says_so(sweep, project, capsys):
    tiny.set_params(project / "params.yaml", {"train.num_train_epochs": 9})
    again = prepare(("lora.r=4,8,16", "train.seed=0,1"), sweep.folder)
    assert "note: files differ from when this sweep began, at" in capsys.readouterr().out
    assert again.document["train"]["num_train_epochs"] == 3
    assert (again.origin.commit, again.origin.changes) == (sweep.origin.commit, b"")
    (sweep.folder / "changes.patch").write_bytes(b"x")
    for go_on in (lambda folder: prepare(("lora.r=4,8,16", "train.seed=0,1"), folder), prepare_again):
        with pytest.raises(VitloraError, match=r"changes\.patch is damaged; `rm -r .* forgets this sweep"):
            go_on(sweep.folder)


def test_names_that_others_have_are_refused(project):
    folder = project / ".work/experiments/rates"
    folder.mkdir(parents=True)
    tune = project / ".work/tune/rates"
    tune.mkdir(parents=True)
    (tune / "journal.jsonl").write_text("")
    with pytest.raises(VitloraError, match=r"tune/rates has this name, and its experiments would too; --name another"):
        prepare(("lora.r=4",), folder)
    (tune / "journal.jsonl").unlink()
    commit = tiny.git(project, "rev-parse", "HEAD").strip()
    tiny.git(project, "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/rates-007", "HEAD")
    with pytest.raises(VitloraError, match=r"such as rates-007; --name another, or `dvc exp remove rates-007`"):
        prepare(("lora.r=4",), folder)
    tiny.dvc(project, "exp", "remove", "rates-007")
    assert prepare(("lora.r=4",), folder).journal.members


def test_a_sweep_is_opened_again_without_its_words(sweep, project):
    assert prepare_again(sweep.folder) == sweep
    with pytest.raises(VitloraError, match=re.escape("other: nothing has begun under this name")):
        prepare_again(project / ".work/experiments/other")
    assert not read_journal(project / ".work/experiments/other").members
