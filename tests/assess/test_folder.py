"""Which class of the model a folder's class is, and which pictures training has met."""

import numpy as np
import pytest

from vitlora.assess.folder import Answers, met_before, plan, write
from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, write_csv, write_json
from vitlora.evaluate.calibration import log_losses
from vitlora.storage.squares import Squares

OURS = ["apple pie", "beet salad", "café", "k=v"]


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def planned(root, given=(), ignore=False, ours=OURS):
    found = plan(root, ours, given, ignore)
    return {name: ours[label] for name, label in zip(found.files, found.labels, strict=True)}


@pytest.mark.parametrize("theirs", ["apple pie", "Apple Pie", "APPLE PIE ", "café", "cafe\u0301", "CAFÉ", "beet salad"])
def test_a_name_that_preprocess_would_not_keep_apart_is_the_models(tmp_path, theirs):
    root = tree(tmp_path / "r", f"{theirs}/1.png", "k=v/2.png")
    found = plan(root, OURS, [], False)
    assert found.labels == [{"a": 0, "b": 1, "c": 2}[theirs[0].lower()], 3][:: 1 if theirs < "k=v" else -1]
    noted = [note for note in found.notes if "scored as" in note]
    assert bool(noted) == (theirs not in OURS)


@pytest.mark.parametrize(
    ("theirs", "close"),
    [("apple_pie", "apple pie"), ("beetsalad", "beet salad"), ("cafe", "café"), ("salad", "beet salad"), ("zebra", "")],
)
def test_an_unknown_class_is_refused_with_close_ones_and_both_cures_work(tmp_path, theirs, close):
    root = tree(tmp_path / "r", f"{theirs}/1.png", f"{theirs}/2.png", "café/3.png")
    with pytest.raises(VitloraError) as refused:
        planned(root)
    said = str(refused.value)
    assert f"does not know: {theirs} (2 pictures{f', close to {close}' if close else ''}" in said
    cure = said.split("`--map '")[1].split("'`")[0]
    assert planned(root, [cure])[f"{theirs}/1.png"] == (close or "apple pie")
    found = plan(root, OURS, [], True)
    assert found.ignored == {theirs: 2}
    assert list(found.files) == ["café/3.png"]


def test_a_folder_of_unknown_classes_only_is_never_an_empty_score(tmp_path):
    root = tree(tmp_path / "r", "cat/1.png", "dog/2.png")
    with pytest.raises(VitloraError, match="no class there that the model knows; the rule: at least one of apple pie"):
        planned(root, ignore=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("cat=apple pie", None),
        ("cat=k=v", None),
        ("a=b=café", None),
        ("a=b=k=v", None),
        ("cat=apple", "the model has no class apple, but apple pie"),
        ("cta=café", "holds no pictures of cta, but of cat"),
        ("cat", "the rule: THEIRS=OURS"),
        ("=café", "holds no pictures of , but of"),
        ("a=b=c", "the rule: THEIRS=OURS"),
    ],
)
def test_map_takes_names_with_equal_signs_and_refuses_what_names_nothing(tmp_path, given, said):
    root = tree(tmp_path / "r", "cat/1.png", "a=b/2.png", "café/3.png")
    if said:
        with pytest.raises(VitloraError) as refused:
            planned(root, [given], True)
        assert said in str(refused.value)
    else:
        theirs, ours = (given[:3], given[4:])
        assert planned(root, [given], True) == {
            "café/3.png": "café",
            f"{theirs}/{1 if theirs == 'cat' else 2}.png": ours,
        }


def test_one_class_is_not_mapped_twice_and_two_may_become_one(tmp_path):
    root = tree(tmp_path / "r", "cat/1.png", "lynx/2.png")
    assert set(planned(root, ["cat=café", "lynx=café"]).values()) == {"café"}
    with pytest.raises(VitloraError, match=r"the rule: each class of .* once"):
        planned(root, ["cat=café", "cat=k=v"], True)


def test_splits_above_the_classes_are_all_scored_and_said(tmp_path):
    root = tree(tmp_path / "r", "train/café/1.png", "test/café/2.png", "test/k=v/3.png")
    found = plan(root, OURS, [], False)
    assert len(found.files) == 3
    assert any("holds the splits test, train, all of which are scored" in note for note in found.notes)
    assert list(planned(root / "test")) == ["café/2.png", "k=v/3.png"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["1.png", "2.png"], "holds no class folder with files; the rule: "),
        (["café/x/1.png", "café/y/2.png", "k=v/3.png"], "holds no pictures, only the folders x, y"),
        (["train/café/1.png", "other/2.png", "test/café/3.png"], "the rule: train, with or without val"),
    ],
)
def test_what_can_not_be_read_is_refused_without_a_word_of_parameters(tmp_path, names, said):
    with pytest.raises(VitloraError) as refused:
        planned(tree(tmp_path / "r", *names))
    assert said in str(refused.value)
    assert "data.path" not in str(refused.value)


def test_no_folder_is_refused(tmp_path):
    tree(tmp_path, "file.zip")
    for name in ("none", "file.zip"):
        with pytest.raises(VitloraError, match="which is not a folder; the rule: a folder of pictures"):
            planned(tmp_path / name)


def test_pictures_that_training_has_met_are_told_from_new_ones(tmp_path):
    digests = [character * 64 for character in "abcd"]
    own = {"class_names": OURS, "base": {"id": "x"}}
    write_json(tmp_path / "vitlora.json", own)
    assert met_before(tmp_path, own, digests) is None
    write_csv(
        tmp_path / "pictures.csv", ("picture", "used"), [("a" * 16, "train"), ("c" * 16, "val"), ("e" * 16, "val")]
    )
    assert met_before(tmp_path, {**own, "calibration": {}}, digests) == ["train", "", "val", ""]
    assert met_before(tmp_path, {**own, "base": {"id": "y"}}, digests) is None
    assert met_before(tmp_path / "none", own, digests) is None


def test_what_is_written_tells_before_and_after_the_temperature_apart(tmp_path):
    """The exported model's logits are divided by its temperature already."""
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 2, (60, 2)).astype(np.float32), random.integers(0, 2, 60)
    squares = Squares(np.zeros((60, 3, 1, 1), np.uint8), labels, [str(row) for row in range(60)], ["ab" * 32] * 60)
    bundle = {"calibration": {"temperature": 2.0, "coverage": 0.9, "threshold": 0.1, "images": 50}}
    write(Answers(logits, squares, {}), ["a", "b"], bundle, 1, tmp_path)
    found = {row["score"]: float(row["value"]) for row in read_csv(tmp_path / "intervals.csv")}
    assert found["log_loss"] == pytest.approx(log_losses(logits, labels).mean(), rel=1e-3)
    assert found["log_loss_before_temperature"] == pytest.approx(log_losses(logits * 2, labels).mean(), rel=1e-3)
