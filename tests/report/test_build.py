"""The report's facts are those of the files; names from outside stay text; nothing is fetched."""

import base64
import io
import re
import resource

import numpy as np
import pytest
import results
import tiny
from PIL import Image
from reports import NAMES, make_report_run, scores_of

from vitlora.cli import command_line
from vitlora.compare.runs import load_run
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.report.build import build, is_here
from vitlora.report.contents import read_contents
from vitlora.report.pictures import Pictures, heat_address


def page(root, *names, quick=True):
    out = root / "report.html"
    build(names or ["workspace"], out, 0.005, quick, lambda line: None)
    return out.read_text(encoding="utf-8")


def test_the_page_tells_the_scores_of_the_run(in_project):
    text = page(in_project)
    scores = scores_of(in_project)
    assert f"{scores['accuracy']:.1%}" in text
    assert f"{scores['macro_f1']:.4f}" in text
    right = round(scores["accuracy"] * 120)
    assert f"{right} of 120 test pictures right" in text
    assert text.count('<figure class="card">') >= 120 - right


def test_the_page_tells_which_epochs_are_kept(in_project):
    assert "Kept: epoch 2 of 3, 12 steps" in page(in_project)
    path = in_project / "metrics/train/metrics.json"
    before = path.read_bytes()
    try:
        write_json(path, {**read_json(path), "soup": [2, 1]})
        assert "Kept: the mean of epochs 1, 2 of 3, 12 steps" in page(in_project)
    finally:
        path.write_bytes(before)


def test_worst_mistakes_come_first_with_the_shares_of_the_logits(in_project):
    run = load_run("workspace")
    contents = read_contents(run, in_project)
    assert len(contents.mistakes) == contents.images - contents.right
    shares = [mistake.true_share for mistake in contents.mistakes]
    assert shares == sorted(shares)
    for mistake in contents.mistakes:
        assert mistake.predicted == mistake.guesses[0].name != mistake.actual
        logits = run.logits.values[mistake.row].astype(np.float64)
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        assert mistake.true_share == pytest.approx(expected[NAMES.index(mistake.actual)])


def test_confused_pairs_are_counted_from_the_predictions(in_project):
    contents = read_contents(load_run("workspace"), in_project)
    rows = read_csv(in_project / "metrics/evaluate/predictions.csv")
    for pair in contents.confused:
        count = sum((row["actual"], row["predicted"]) == (pair.actual, pair.predicted) for row in rows)
        assert (pair.pictures, len(pair.rows)) == (count, count)
    assert sum(pair.pictures for pair in contents.confused) == len(contents.mistakes)
    assert contents.confused[0].pictures == max(pair.pictures for pair in contents.confused)


def test_names_from_outside_are_text(in_project):
    text = page(in_project)
    assert "<b>cat</b>" not in text
    assert "&lt;b&gt;cat&lt;/b&gt;" in text


def test_nothing_is_fetched_and_nothing_runs(in_project):
    for text in (page(in_project), page(in_project, "HEAD", "workspace")):
        assert "default-src 'none'" in text
        assert "<script" not in text
        assert not re.search(r"(src|href)=\"(?!data:|#)", text)
        assert "url(" not in text


def test_equal_results_give_equal_bytes(in_project):
    assert page(in_project) == page(in_project)


def test_pictures_are_those_of_their_digests(in_project):
    pictures = Pictures()
    contents = read_contents(load_run("workspace"), in_project)
    mistake = contents.mistakes[0]
    square = pictures.square(mistake.path, mistake.digest)
    assert (square == pictures.squares[0].images[mistake.row]).all()
    assert pictures.square(mistake.path, "0" * 16) is None
    assert pictures.show("nowhere.png") is None
    shown = Image.open(io.BytesIO(base64.b64decode(pictures.show(mistake.path, mistake.digest).split(",")[1])))
    assert np.abs(np.asarray(shown).astype(int) - square.transpose(1, 2, 0)).mean() < 8


def test_a_heat_map_is_a_veil_that_is_clear_where_nothing_speaks():
    heat = np.array([[0, 0.5], [0.1, 1]], np.float32)
    veil = np.asarray(Image.open(io.BytesIO(base64.b64decode(heat_address(heat).split(",")[1]))))
    assert veil.shape == (2, 2, 4)
    assert veil[0, 0, 3] == 0
    assert veil[1, 1, 3] > veil[0, 1, 3] > veil[1, 0, 3] > 0
    assert veil[1, 1, :3].sum() > veil[0, 1, :3].sum() > veil[1, 0, :3].sum()


def test_two_runs_show_first_what_broke(in_project):
    text = page(in_project, "HEAD", "workspace")
    assert text.index("Broken: A has it right") < text.index("Fixed: B has it right") < text.index('id="scores"')
    assert "<code>lora.r</code><td>16<td>4" in text
    assert text.count("<h3>workspace</h3>") >= 5
    (broken,) = re.findall(r"Broken: A has it right, B has not \((\d+)\)", text)
    assert 0 < int(broken) <= 4


def test_samples_are_shown_of_every_class_and_the_ends_of_the_sizes(in_project):
    text = page(in_project)
    assert "Some of each class" in text
    assert "65 by 45 px" in text  # the largest
    assert "20 by 30 px" in text  # the smallest
    assert "97% alike: ant in test and bee in train" in text


def test_an_output_of_another_run_is_not_taken_for_this_ones(in_project):
    assert is_here(load_run("workspace"), "data/prepared/train")
    assert not is_here(load_run("HEAD"), "data/prepared/train")
    assert not is_here(load_run("workspace"), "models/adapter")


@pytest.mark.parametrize("old", [True, False])
def test_a_run_of_an_older_version_is_shown_with_what_it_has(tmp_path, monkeypatch, old):
    root = results.make_repository(tmp_path / "project")
    labels = np.repeat(np.arange(4), 10)
    results.write_run(root, results.make_logits(labels, 0.8, 3), labels, names=NAMES, old=old, evaluated=False)
    tiny.commit(root)
    monkeypatch.chdir(root)
    text = page(root, "HEAD")
    assert "older than the table of scores" in text
    assert "taken for" in text
    assert "Not recorded with these results." in text


def test_a_hundred_classes_are_drawn_and_the_page_stays_small(tmp_path, monkeypatch):
    root = results.make_repository(tmp_path / "project")
    names = [f"class {number:03d}" for number in range(101)]
    labels = np.repeat(np.arange(101), 12)
    make_report_run(root, results.make_logits(labels, 0.8, 1, 101), labels, names)
    monkeypatch.chdir(root)
    text = page(root)
    assert len(text) < 2_000_000
    assert text.count("<title>class ") > 200


@pytest.mark.parametrize("wrong", [["HEAD", "nowhere"], ["nowhere"]])
def test_an_unknown_run_is_refused_and_no_file_is_written(in_project, tmp_path, wrong):
    with pytest.raises(VitloraError, match="nowhere"):
        build(wrong, tmp_path / "report.html", 0.005, True, print)
    assert not (tmp_path / "report.html").exists()


def test_where_a_report_finds_no_room_the_one_of_before_stays(in_project):
    (in_project / "report.html").write_text("before")
    before = set(in_project.iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            page(in_project)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (in_project / "report.html").read_text() == "before"
    assert set(in_project.iterdir()) == before


def test_a_run_whose_data_report_lacks_newer_numbers_is_shown(tmp_path, monkeypatch):
    root = results.make_repository(tmp_path / "project")
    labels = np.repeat(np.arange(4), 10)
    make_report_run(root, results.make_logits(labels, 0.8, 3), labels)
    (root / "metrics/preprocess.json").write_text('{"train": 30, "val": 5, "test": 40}')
    (root / "metrics/train/metrics.json").write_text('{"trainable_parameters": 3, "method": "lora"}')
    monkeypatch.chdir(root)
    assert "unknown" in page(root)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--out", "."), "is a folder; the rule: a file"),
        (("--out", "nowhere/report.html"), "there is no folder nowhere; make it first"),
        (("--margin", "nan"), "the rule: points of accuracy, 0 to 100"),
        (("HEAD", "HEAD", "HEAD"), "got 3 runs; the rule: one or two"),
    ],
)
def test_mistakes_of_the_command_line_are_told_before_any_work(in_project, words, said):
    args = command_line(["report"]).parse_args(["report", *words])
    with pytest.raises(VitloraError, match=re.escape(said)):
        args.act(args)
    assert not (in_project / "nowhere").exists()
