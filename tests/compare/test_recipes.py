"""Several seeds of two recipes: means by Welch, and what is refused."""

import json

import numpy as np
import pytest
import results
import scipy.stats
import tiny

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError


@pytest.fixture
def seeds(repository, labels):
    """Three runs of each of two recipes, as branches a0 to a2 and b0 to b2; returns their accuracies."""
    accuracies = {}
    for recipe, r, level in (("a", 16, 0.7), ("b", 8, 0.85)):
        for seed in range(3):
            logits = results.make_logits(labels, level + 0.01 * seed, seed + r)
            results.write_run(repository, logits, labels, params={"lora.r": r, "train.seed": seed})
            tiny.commit(repository)
            tiny.git(repository, "branch", f"{recipe}{seed}")
            accuracies[f"{recipe}{seed}"] = float(np.mean(logits.argmax(axis=1) == labels))
    return accuracies


def printed(capsys, *words):
    args = command_line().parse_args(["compare", *words])
    args.act(args)
    return capsys.readouterr().out


def test_means_over_seeds_are_compared_as_scipy_does(capsys, seeds):
    document = json.loads(printed(capsys, "a0,a1,a2", "b0,b1,b2", "--json"))
    first, second = ([seeds[f"{recipe}{seed}"] for seed in range(3)] for recipe in "ab")
    reference = scipy.stats.ttest_ind(second, first, equal_var=False)
    accuracy = document["figures"][0]
    assert accuracy["a"] == pytest.approx(first)
    assert list(accuracy["difference"].values())[1:] == pytest.approx(reference.confidence_interval(0.95))
    assert accuracy["p"] == pytest.approx(reference.pvalue)
    assert document["verdict"] == "better"
    assert document["params"] == [["lora.r", 16, 8]]
    assert document["seeds"] == [[0, 1, 2], [0, 1, 2]]
    names = [figure["name"] for figure in document["figures"]]
    assert names == ["accuracy", "balanced accuracy", "macro-F1", "log loss", "Brier score"]


def test_screen_and_markdown_tell_mean_spread_and_what_is_not_tested(capsys, seeds):
    out = printed(capsys, "a0,a1,a2", "b0,b1")
    assert "better: recipe B is better than recipe A (3 seeds of A, 2 of B, 400 test pictures)" in out
    assert "±" in out
    assert "two models, not two recipes" not in out
    assert max(map(len, out.splitlines())) <= 100
    text = printed(capsys, "a0,a1,a2", "b0,b1", "--md")
    assert text.startswith("### better: recipe B")


def test_equal_recipes_are_undecided(capsys, seeds):
    assert printed(capsys, "a0,a1,a2", "a0,a1").startswith("A  a0 (")
    assert "undecided: it can't be told" in printed(capsys, "a0,a1,a2", "a0,a1")


REFUSED = {
    "one run on a side": (("a0,a1", "b0"), "b0: one run.*at least two seeds"),
    "another parameter": (("a0,b1", "b0,b2"), "a0 and b1 differ in lora.r"),
    "a seed twice": (("a0,a0", "b0,b1"), "train.seed 0 stands twice"),
    "no parameters": (("../one,../two", "b0,b1"), "train.seed is not known"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_set_of_seeds_is_refused(capsys, repository, seeds, kind):
    for folder in ("one", "two"):
        (repository.parent / folder).mkdir()
        content = (repository / "metrics/evaluate/predictions.csv").read_bytes()
        (repository.parent / folder / "predictions.csv").write_bytes(content)
    words, said = REFUSED[kind]
    with pytest.raises(VitloraError, match=said):
        printed(capsys, *words)
