"""The gate: three verdicts, floors of classes, exit codes."""

import re

import numpy as np
import pytest
import results
import tiny

from vitlora.cli import command_line
from vitlora.compare.gate import parse_floors
from vitlora.core.errors import VitloraError

WORSE, UNDECIDED, BELOW = 3, 4, 5
LABELS = np.arange(2000) % 4


@pytest.fixture
def base():
    return results.make_logits(LABELS, 0.9)


@pytest.fixture
def placed(repository, base):
    """A model of 2,000 test pictures in place, committed."""
    results.write_run(repository, base, LABELS)
    tiny.commit(repository)
    return repository


def gate(capsys, *words):
    """Return the exit code and what is printed."""
    args = command_line().parse_args(["gate", "--against", "HEAD", *words])
    with pytest.raises(SystemExit) as ended:
        args.act(args)
    return ended.value.code, capsys.readouterr().out


def changed(base, broken, fixed):
    """Return logits with so many right answers broken and so many wrong ones put right, spread over the classes."""
    right = base.argmax(axis=1) == LABELS
    new = results.flip(base, np.flatnonzero(right)[: broken * 3 : 3])
    wrong = np.flatnonzero(~right)[:fixed]
    new[wrong, LABELS[wrong]] = base.max() + 1
    return new


CASES = {  # broken, fixed, options: exit code, verdict
    "unchanged": (0, 0, (), 0, "not worse: the two answer the same"),
    "unchanged, strict": (0, 0, ("--undecided", "fail"), 0, "not worse"),
    "clearly worse": (80, 10, (), WORSE, "worse: it has lost more than the tolerance of 0 points"),
    "clearly better": (10, 80, (), 0, "not worse: .* and it is better"),
    "as many lost as won": (40, 40, (), 0, "undecided"),
    "the same, strict": (40, 40, ("--undecided", "fail"), UNDECIDED, "undecided"),
    "few changes": (2, 2, ("--undecided", "fail"), 0, "not worse: a drop of 0.5 points or more is ruled out"),
    "a drop within the tolerance": (80, 10, ("--tolerance", "6"), 0, "not worse: a drop of 6 points"),
    "a drop beyond the tolerance": (80, 10, ("--tolerance", "1"), WORSE, "worse: .* tolerance of 1 points"),
    "a wide margin": (40, 40, ("--undecided", "fail", "--margin", "2"), 0, "not worse: a drop of 2 points"),
    "a real drop that is too small to matter": (9, 0, ("--undecided", "fail", "--margin", "1"), 0, "not worse"),
}


@pytest.mark.parametrize("kind", CASES)
def test_verdicts_and_exit_codes(capsys, placed, base, kind):
    broken, fixed, words, code, said = CASES[kind]
    results.write_run(placed, changed(base, broken, fixed), LABELS)
    found, out = gate(capsys, *words)
    assert found == code, out
    assert re.search(f"(?m)^{said}", out), out
    assert "smallest drop that would be seen in 80 of 100 test sets like this: " in out


def test_an_undecided_gate_says_how_many_pictures_would_tell_and_whether_it_fails(capsys, placed, base):
    results.write_run(placed, changed(base, 40, 40), LABELS)
    assert "about 10,1" in gate(capsys)[1]
    assert "undecided does not fail" in gate(capsys)[1]
    assert "undecided does fail" in gate(capsys, "--undecided", "fail")[1]


def fallen(base, rows):
    """Return logits that are wrong for so many more pictures of the class cat, and nothing else changed."""
    right = base.argmax(axis=1) == LABELS
    return results.flip(base, np.flatnonzero(right & (LABELS == 2))[:rows])


FLOORS = {
    "a class that has fallen": (("cat=0.85",), BELOW, "class cat: 0.6"),
    "every class": (("0.85",), BELOW, "3 of 4 class floors held for sure"),
    "its own goes before that of all": (("cat=0.5", "0.85"), 0, "4 of 4 class floors held for sure"),
    "not sure": (("cat=0.65",), 0, "not sure to 95 %"),
    "held": (("cat=0.5", "ant=0.8"), 0, "2 of 2 class floors held"),
}


@pytest.mark.parametrize("kind", FLOORS)
def test_a_class_below_its_floor_fails_where_that_is_sure(capsys, placed, base, kind):
    words, code, said = FLOORS[kind]
    results.write_run(placed, fallen(base, 130), LABELS)
    options = [word for floor in words for word in ("--class-floor", floor)]
    found, out = gate(capsys, "--tolerance", "20", *options)
    assert (found, said in out) == (code, True), out
    if kind == "not sure":
        assert gate(capsys, "--tolerance", "20", "--undecided", "fail", *options)[0] == UNDECIDED
    assert gate(capsys, *options)[0] == WORSE


BAD = {
    "no share": (("--class-floor", "cat=90"), "a share from 0 to 1"),
    "no number": (("--class-floor", "cat"), "a share from 0 to 1"),
    "no class": (("--class-floor", "cta=0.9"), "of the class cta; classes are such as cat"),
    "negative": (("--tolerance", "-1"), "points of accuracy"),
    "no margin": (("--margin", "0"), "above 0 and up to 100"),
}


@pytest.mark.parametrize("kind", BAD)
def test_mistakes_are_told(capsys, placed, kind):
    words, said = BAD[kind]
    args = command_line().parse_args(["gate", "--against", "HEAD", *words])
    with pytest.raises(VitloraError, match=said):
        args.act(args)


def test_a_gate_on_less_than_half_of_the_pictures_is_refused_and_the_same_pictures_help(capsys, placed, base):
    names = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(LABELS)]
    results.write_run(placed, base[:900], LABELS[:900], paths=names[:900])
    args = command_line().parse_args(["gate", "--against", "HEAD"])
    with pytest.raises(VitloraError, match=r"900 of the 2,000 test pictures of HEAD .*at least half.* Give data"):
        args.act(args)
    results.write_run(placed, base, LABELS)
    assert gate(capsys)[0] == 0


def test_a_model_of_the_same_saturated_confidences_is_not_taken_for_the_same(capsys, placed, base):
    """All sure to four decimals, no logits: equal answers don't show that it is the same model."""
    sure = base * 1e6
    results.write_run(placed, sure, LABELS, old=True)
    tiny.commit(placed)
    assert "the two answer the same" not in gate(capsys)[1]
    results.write_run(placed, base, LABELS, old=True)
    tiny.commit(placed)
    assert "the two answer the same" in gate(capsys)[1]


@pytest.mark.parametrize(
    ("floors", "said"),
    [
        (("=0.9",), "got =0.9"),
        (("0.8", "0.7"), "0.7 after 0.8"),
        (("cat=0.8", "cat=0.9"), "cat=0.9 after cat=0.8"),
    ],
)
def test_floors_that_contradict_each_other_are_refused(floors, said):
    with pytest.raises(VitloraError, match=said):
        parse_floors(floors, ["cat", "dog"])


def test_one_floor_for_all_and_one_of_its_own_stand_together():
    assert parse_floors(["cat=0.9", "0.7"], ["cat", "dog"]) == {"cat": 0.9, "dog": 0.7}


def test_results_of_other_parameters_are_refused(capsys, placed):
    tiny.set_params(placed / "params.yaml", {"lora.r": 4})
    args = command_line().parse_args(["gate", "--against", "HEAD"])
    with pytest.raises(VitloraError, match=r"made before these changes of params\.yaml: lora\.r: 16 -> 4"):
        args.act(args)


def test_results_that_no_lock_records_are_refused(capsys, placed):
    (placed / "dvc.lock").unlink()
    args = command_line().parse_args(["gate", "--against", "HEAD"])
    with pytest.raises(VitloraError, match=r"workspace: no dvc\.lock says what these results come from; `git checkout"):
        args.act(args)


def test_a_class_that_has_no_test_picture_any_more_holds_no_floor(capsys, placed, base):
    rows = np.flatnonzero(LABELS != 2)
    names = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(LABELS)]
    results.write_run(placed, base[rows], LABELS[rows], paths=[names[row] for row in rows])
    floor = "--class-floor", "0.5", "--undecided", "fail"
    found, out = gate(capsys, *floor)
    assert (found, "class cat: no test picture, floor 0.5: undecided" in out) == (UNDECIDED, True), out
