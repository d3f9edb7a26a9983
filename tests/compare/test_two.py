"""Two runs compared: which pictures, what verdict, what differs."""

import json
import re

import numpy as np
import pytest
import results
import tiny
from scipy.special import log_softmax
from sklearn.metrics import balanced_accuracy_score, f1_score

from vitlora.cli import command_line
from vitlora.compare.paired import Interval
from vitlora.compare.runs import load_run
from vitlora.compare.two import compare_two, verdict
from vitlora.core.errors import VitloraError

MARGIN = 0.005


@pytest.fixture
def base(labels):
    return results.make_logits(labels, 0.8)


def compared(*names, margin=MARGIN):
    return compare_two(*map(load_run, names), margin)


def screen(capsys, *words):
    """Return what `vitlora compare` prints."""
    args = command_line().parse_args(["compare", *words])
    args.act(args)
    return capsys.readouterr().out


def right_rows(logits, labels):
    return np.flatnonzero(logits.argmax(axis=1) == labels)


def test_fixed_and_broken_pictures_are_named_with_what_each_model_said(repository, labels, base):
    rows = right_rows(base, labels)[[3, 50, 120]]
    results.write_run(repository, results.flip(base, rows), labels)
    found = compared("HEAD", "workspace")
    names = {f"{results.NAMES[labels[row]]}/{row:05d}.jpg" for row in rows}
    assert {change.path for change in found.broken} == names
    assert (found.fixed, found.pictures, found.paired_by) == ([], 400, "sha256")
    assert all(change.a == change.actual != change.b for change in found.broken)
    assert found.difference.value == pytest.approx(-3 / 400)
    back = compared("workspace", "HEAD")
    assert {change.path for change in back.fixed} == names
    assert back.difference.low == pytest.approx(-found.difference.high)


def test_pictures_are_paired_by_content_whatever_their_order_and_name(repository, labels, base):
    order = np.random.default_rng(0).permutation(400)
    names = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    digests = [results.md5(name.encode()) * 2 for name in names]
    results.write_run(repository, base, labels, digests=digests)
    tiny.commit(repository)
    moved = [f"elsewhere/{row}" for row in order]
    results.write_run(repository, base[order], labels[order], paths=moved, digests=[digests[row] for row in order])
    found = compared("HEAD", "workspace")
    assert (found.pictures, found.fixed, found.broken, found.p) == (400, [], [], 1.0)


def test_equal_pictures_that_stand_twice_are_paired_twice(repository, labels, base):
    digests = [f"{row // 2:064x}" for row in range(400)]
    pairs = np.repeat(labels[::2], 2)
    results.write_run(repository, base, pairs, digests=digests)
    tiny.commit(repository)
    results.write_run(repository, base, pairs, digests=digests)
    assert compared("HEAD", "workspace").pictures == 400


def test_results_of_before_digests_are_paired_by_path_and_that_is_said(repository, labels, base):
    results.write_run(repository, base, labels, old=True)
    found = compared("HEAD", "workspace")
    assert (found.pictures, found.paired_by) == (400, "path")
    assert any("workspace has no digests" in note for note in found.notes)
    assert "before logits were kept" in found.not_compared
    assert len(found.figures) == 2


def test_pictures_with_another_label_are_named_and_left_out(repository, labels, base):
    other = labels.copy()
    other[[5, 9, 11, 30]] = (other[[5, 9, 11, 30]] + 1) % 4
    paths = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    results.write_run(repository, base, other, paths=paths)
    found = compared("HEAD", "workspace")
    assert found.pictures == 396
    (note,) = (note for note in found.notes if "another label" in note)
    assert "4 pictures: bee/00005.jpg (bee / cat), " in note
    assert note.endswith(" and 1 more")


def test_where_test_sets_differ_the_shared_pictures_are_compared_and_counted(repository, labels, base):
    names = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    results.write_run(repository, base[100:], labels[100:], paths=names[100:])
    found = compared("HEAD", "workspace")
    assert found.pictures == 300
    head = load_run("HEAD").label
    assert f"only the 300 pictures that all have are compared; 100 more in {head}" in found.notes[0]


@pytest.mark.parametrize("kept", [0, 1, 19])
def test_too_few_shared_pictures_are_refused_and_the_same_pictures_help(repository, labels, base, kept):
    names = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    others = [*names[:kept], *(f"other/{row}" for row in range(400 - kept))]
    results.write_run(repository, base, labels, paths=others, params={"split.seed": 7})
    with pytest.raises(VitloraError, match=f"share {kept} test picture.*at least 20.*give data, ingest and split"):
        compared("HEAD", "workspace")
    results.write_run(repository, base, labels, params={"split.seed": 0})
    assert compared("HEAD", "workspace").pictures == 400


def test_a_test_set_that_is_small_itself_is_refused_in_other_words(repository, labels, base):
    results.write_run(repository, base[:12], labels[:12])
    with pytest.raises(VitloraError, match=r"12 test pictures; the rule: at least 20.*raise split.test_fraction|Raise"):
        compared("workspace", "workspace")


def test_renamed_classes_are_refused_in_words_that_name_them(repository, labels, base):
    paths = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    results.write_run(repository, base, labels, names=[name.upper() for name in results.NAMES], paths=paths)
    with pytest.raises(VitloraError, match=r"share 0 test pictures.* With another label: 400, such as .*ant / ANT"):
        compared("HEAD", "workspace")
    results.write_run(repository, base, labels, paths=paths)
    assert compared("HEAD", "workspace").pictures == 400


VERDICTS = {
    "better": (Interval(0.03, 0.01, 0.05), Interval(0.03, 0.013, 0.047)),
    "worse": (Interval(-0.03, -0.05, -0.01), Interval(-0.03, -0.047, -0.013)),
    "undecided": (Interval(0.003, -0.01, 0.016), Interval(0.003, -0.008, 0.014)),
    "equivalent": (Interval(0.0, -0.0051, 0.0051), Interval(0.0, -0.0042, 0.0042)),
}


@pytest.mark.parametrize("said", VERDICTS)
def test_verdicts_follow_from_the_two_intervals(said):
    assert verdict(*VERDICTS[said], MARGIN) == said


def test_a_real_difference_within_the_margin_is_equivalent_and_the_line_says_so(capsys, repository, labels, base):
    rows = right_rows(base, labels)[:30]
    results.write_run(repository, results.flip(base, rows), labels)
    found = compared("HEAD", "workspace", margin=0.15)
    assert found.verdict == "equivalent"
    assert found.difference.high < 0
    assert "a difference is there, but smaller than the margin" in screen(capsys, "--margin", "15")
    assert compared("HEAD", "workspace").verdict == "worse"
    assert compared("workspace", "HEAD").verdict == "better"
    assert compared("HEAD", "HEAD", margin=0.02).verdict == "equivalent"


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_references(repository, labels, base, seed):
    other = results.make_logits(labels, 0.85, seed + 10)
    results.write_run(repository, other, labels)
    found = compared("HEAD", "workspace")
    figures = {figure.name: figure for figure in found.figures}
    assert figures["balanced accuracy"].b == pytest.approx(balanced_accuracy_score(labels, other.argmax(axis=1)))
    assert figures["macro-F1"].a == pytest.approx(f1_score(labels, base.argmax(axis=1), average="macro"))
    for name, logits in (("a", base), ("b", other)):
        logs = log_softmax(logits.astype(np.float64) / 2.0, axis=1)  # the temperature of the made-up runs
        truth = np.eye(4)[labels]
        assert getattr(figures["log loss"], name) == pytest.approx(-(logs * truth).sum(axis=1).mean(), rel=1e-5)
        brier = ((np.exp(logs) - truth) ** 2).sum(axis=1).mean()
        assert getattr(figures["Brier score"], name) == pytest.approx(brier, rel=1e-4)
    for figure in found.figures:
        assert figure.difference.low < figure.b - figure.a < figure.difference.high


def test_classes_in_another_order_are_compared_by_name(repository, labels, base):
    order = [2, 0, 3, 1]
    place = np.argsort(order)
    paths = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    results.write_run(repository, base[:, order], place[labels], names=[results.NAMES[k] for k in order], paths=paths)
    found = compared("HEAD", "workspace")
    assert (found.fixed, found.broken) == ([], [])
    assert all(figure.difference.value == pytest.approx(0, abs=1e-7) for figure in found.figures if figure.difference)


def test_a_class_that_one_model_does_not_know_leaves_log_loss_out(repository, labels, base):
    few = np.where(labels == 3, 0, labels)
    paths = [f"{results.NAMES[label]}/{row:05d}.jpg" for row, label in enumerate(labels)]
    results.write_run(repository, base[:, :3], few, names=results.NAMES[:3], paths=paths)
    found = compared("HEAD", "workspace")
    assert found.pictures == 300
    assert len(found.figures) == 4
    names = ["ant", "bee", "cat", "eel"]
    results.write_run(repository, base, labels, names=names, paths=paths)
    assert compared("HEAD", "workspace").pictures == 300


def test_one_class_that_falls_is_told_from_chance(repository, labels, base):
    rows = [row for row in right_rows(base, labels) if labels[row] == 2][:25]
    results.write_run(repository, results.flip(base, rows), labels)
    first, *rest = compared("HEAD", "workspace").classes
    assert (first.name, first.pictures) == ("cat", 100)
    assert first.b - first.a == pytest.approx(-0.25)
    assert first.high < 0
    assert first.q < 0.001
    assert all(delta.q == 1 for delta in rest)


def test_parameters_and_seeds_that_differ_are_told(repository, labels, base):
    results.write_run(repository, base, labels, params={"lora.r": 8, "train.seed": 1})
    found = compared("HEAD", "workspace")
    assert found.params == [("lora.r", 16, 8), ("train.seed", 0, 1)]
    assert any("two models, not two recipes" in note for note in found.notes)
    results.write_run(repository, base, labels, params={"lora.r": 16})
    (note,) = compared("HEAD", "workspace").notes
    assert note == "only train.seed differs: what differs is what chance in training does"


def test_times_of_two_machines_are_shown_with_a_note(capsys, repository, labels, base):
    results.record(repository, "train", 100, device="cpu", processor="EPYC")
    tiny.commit(repository)
    results.record(repository, "train", 250, device="cpu", processor="EPYC")
    assert not any("machines" in note for note in compared("HEAD", "workspace").notes)
    out = screen(capsys)
    assert re.search(r"time of train +1 min 40 s +4 min 10 s", out)
    results.record(repository, "train", 7, device="H100", processor="EPYC")
    notes = compared("HEAD", "workspace").notes
    assert "times are of two machines: train ran on cpu, EPYC, and on H100, EPYC" in notes


def test_no_argument_is_head_against_the_workspace_and_one_is_against_the_workspace(capsys, repository, labels, base):
    tiny.git(repository, "branch", "before")
    results.write_run(repository, results.flip(base, right_rows(base, labels)[:1]), labels)
    for words, first in (
        ((), "HEAD"),
        (("HEAD",), "HEAD"),
        (("before",), "before"),
        (("before", "workspace"), "before"),
    ):
        out = screen(capsys, *words)
        assert out.startswith(f"A  {first} (")
        assert "\nB  workspace\n" in out


def test_json_holds_every_changed_picture_and_the_screen_some(capsys, repository, labels, base):
    rows = right_rows(base, labels)[:60]
    results.write_run(repository, results.flip(base, rows), labels)
    document = json.loads(screen(capsys, "--json"))
    assert len(document["broken"]) == 60
    assert document["verdict"] == "worse"
    assert set(document["broken"][0]) == {"path", "actual", "a", "b"}
    assert document["difference"]["low"] < document["difference"]["value"] < document["difference"]["high"] < 0
    assert document["accuracy"][0]["value"] - document["accuracy"][1]["value"] == pytest.approx(0.15)
    out = screen(capsys, "--show", "7")
    assert "60 pictures broken; --show 60 or --json names them all" in out
    assert out.count(".jpg") == 7
    assert {line.split("/")[0] for line in out.splitlines() if ".jpg" in line} == set(results.NAMES)
    assert max(map(len, out.splitlines())) <= 100


ODD = ["a|b", "<img src=x>", "@team #1 `x`", "**b**_c_", "c\x1b[2Jd", "\udcff.jpg"]


def test_odd_names_harm_neither_terminal_nor_markdown(capsys, repository, labels, base):
    paths = [f"{ODD[row % len(ODD)]}{row}" for row in range(400)]
    results.write_run(repository, base, labels, paths=paths)
    tiny.commit(repository)
    results.write_run(repository, results.flip(base, right_rows(base, labels)[:30]), labels, paths=paths)
    out = screen(capsys, "--show", "30")
    assert "\x1b" not in out
    assert all(name in out for name in ("a|b", "<img src=x>", "**b**_c_"))
    text = screen(capsys, "--md")
    lists = text[text.index("<details>") :]
    assert not any(sign in lists for sign in ("<img", "@", "`x`", "**", "\x1b"))
    rows = [line for line in lists.splitlines() if line.startswith("| <code>")]
    assert {line.count("|") for line in rows if "ant" in line or "bee" in line} == {5, 7}


def test_markdown_begins_with_the_verdict_and_names_broken_before_fixed(capsys, repository, labels, base):
    wrong = np.flatnonzero(base.argmax(axis=1) != labels)[:4]
    better = base.copy()
    better[wrong, labels[wrong]] = 99
    results.write_run(repository, results.flip(better, right_rows(base, labels)[:40]), labels, params={"lora.r": 4})
    text = screen(capsys, "--md")
    assert text.startswith("### Worse: accuracy -9.00 (")
    assert text.index("40 pictures broken") < text.index("4 pictures fixed") < text.index("1 parameter differs")
    assert text.count("<details>") == text.count("</details>")
    assert len(text) < 65_536


def test_markdown_of_ten_thousand_changes_fits_into_a_comment(capsys, repository):
    labels = np.arange(12_000) % 4
    base = results.make_logits(labels, 0.9)
    long = [f"{'long-name-' * 12}{row}" for row in range(12_000)]
    results.write_run(repository, base, labels, paths=long)
    tiny.commit(repository)
    results.write_run(repository, results.flip(base, right_rows(base, labels)), labels, paths=long)
    assert len(screen(capsys, "--md")) < 65_536


BAD = {
    "three": (("HEAD", "HEAD", "HEAD"), "got 3 runs.*joined by commas.*HEAD,HEAD HEAD"),
    "empty": (("HEAD,", "HEAD"), "joined by single commas"),
    "margin": (("--margin", "-1"), "0 to 100"),
    "no margin": (("--margin", "nan"), "0 to 100"),
    "unknown": (("HAED",), "no branch, tag"),
}


@pytest.mark.parametrize("kind", BAD)
def test_mistakes_of_the_command_line_are_told(capsys, repository, kind):
    words, said = BAD[kind]
    with pytest.raises(VitloraError, match=said):
        screen(capsys, *words)
