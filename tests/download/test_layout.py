"""What is taken for a class and a split: by rules that a person can foresee, or refused by name."""

import random
import re
from pathlib import Path, PurePosixPath

import pytest

from vitlora.core.errors import VitloraError
from vitlora.download.layout import LITTERED, LOOSE, ODD, UNLABELLED, arrange, sort_out, split_of

ROOT = Path("pets")


def read(*names, links=()):
    """Arrange files of these names; return class names, {path: (split, class)}, and what is left out."""
    folders = {str(parent) for name in (*names, *links) for parent in PurePosixPath(name).parents if parent.name}
    entries = [(name, "folder", None) for name in folders]
    entries += [(name, "file", name) for name in names] + [(name, "other", None) for name in links]
    layout = arrange(sort_out(entries), ROOT)
    found = {str(path): (layout.split(path), path.parts[layout.depth]) for path in layout.files}
    return layout.class_names, found, layout.left_out


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", ["train", "Training", "TRAIN", "training_set", "seg_train", "train_images", "train2017", "TrainSet"]),
        ("train", ["trainset", "01_train", "train-data", "images_train", "train split"]),
        ("val", ["val", "valid", "Validation", "dev", "dev-set", "validation_images", "valSet"]),
        ("test", ["test", "Testing", "eval", "evaluation", "test_set", "seg_test", "testdata"]),
    ],
)
def test_splits_are_known_in_every_usual_spelling(split, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


@pytest.mark.parametrize(
    "name",
    ["cat", "trains", "training wheels", "test_tube", "valley", "pretrain", "trained", "images", "set", "2017", "猫"],
)
def test_other_names_are_no_splits(name):
    assert split_of(name) is None


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("training_set", "test_set"), ("seg_train", "seg_test"), ("train_images", "test_images")],
)
def test_splits_under_another_name_are_no_classes(train, test):
    names, found, _ = read(f"{train}/cat/1.png", f"{train}/dog/1.png", f"{test}/cat/2.png")
    assert names == ["cat", "dog"]
    assert found[f"{test}/cat/2.png"] == ("test", "cat")


@pytest.mark.parametrize("again", ["train", "Train", "images", "training_set"])
def test_a_level_that_only_repeats_its_split_is_looked_through(again):
    names, found, _ = read(f"train/{again}/cat/1.png", f"train/{again}/dog/1.png", "test/test/cat/2.png")
    assert names == ["cat", "dog"]
    assert found["train/cat/1.png"] == ("train", "cat")
    assert found["test/cat/2.png"] == ("test", "cat")


def test_a_split_of_one_class_keeps_that_class():
    assert read("train/cat/a/1.png", "train/dog/1.png", "test/cat/a/2.png")[0] == ["cat", "dog"]


@pytest.mark.parametrize(
    "folder", ["@eaDir", "#recycle", "lost+found", "$RECYCLE.BIN", ".AppleDouble", ".ipynb_checkpoints", "__MACOSX"]
)
def test_a_programs_own_folder_is_no_class_and_its_files_are_no_pictures(folder):
    litter = [f"{folder}/x.jpg", f"cat/{folder}/1.jpg/SYNOPHOTO_THUMB_M.jpg"]
    names, found, left = read("cat/1.jpg", "dog/1.jpg", *litter)
    assert names == ["cat", "dog"]
    assert found.keys() == {"cat/1.jpg", "dog/1.jpg"}
    assert left == {LITTERED: sorted(litter)}


@pytest.mark.parametrize(
    ("files", "culprit"),
    [
        (["lions/cat/1.png", "lions/dog/1.png", "extra/cat/2.png", "extra/dog/2.png"], "extra holds no pictures"),
        (["plants/oak/1.png", "plants/elm/1.png", "cat/1.png"], "plants holds no pictures, only the folders elm, oak"),
        (["fold_0/cat/1.png", "fold_1/cat/2.png", "fold_0/dog/1.png", "fold_1/dog/2.png"], "fold_0 holds no pictures"),
        (["fold_0/cat/1.png", "fold_1/dog/2.png"], "fold_0 holds no pictures, only the folders cat"),
        (["a/x/y/cat/1.png", "b/x/y/dog/2.png"], "a holds no pictures, only the folders x"),
        (["cat/1.png", "cat/thumbs/1.png", "dog/1.png", "dog/thumbs/1.png"], "every class holds a folder thumbs"),
        (
            ["train_cat/1.png", "train_dog/1.png", "test_cat/2.png", "test_dog/2.png"],
            "test_cat and train_cat, whose names",
        ),
        (["cat-train/1.png", "cat-valid/2.png", "dog-train/1.png"], "cat-train and cat-valid, whose names hold split"),
        (
            ["a/images/1.png", "a/masks/1.png", "b/images/1.png", "b/masks/1.png"],
            "Every class holds them; move all but",
        ),
        (["a/x/1.png", "a/y/1.png", "b/z/1.png", "b/w/1.png"], "put them side by side into one folder .a, b are like"),
        (["train/cat/1.png", "val/cat/2.png", "other/cat/3.png"], "holds the folders other, train, val"),
        (["train/cat/1.png", "training/cat/2.png", "test/cat/3.png"], "holds the folders test, train, training"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_by_name(files, culprit):
    with pytest.raises(VitloraError, match=culprit):
        read(*files)


def test_the_cure_for_classes_one_level_deeper_works():
    with pytest.raises(VitloraError, match=r"set data\.path: pets/plants;"):
        read("plants/oak/1.png", "plants/elm/1.png", "cat/1.png")
    assert read("oak/1.png", "elm/1.png")[0] == ["elm", "oak"]
    with pytest.raises(VitloraError, match=r"set data\.path: pets/a/b/x/y;"):
        read("a/b/x/y/oak/1.png", "a/b/x/y/elm/1.png", "a/b/cat/1.png")


def test_a_split_whose_one_folder_is_no_class_of_train_has_no_classes():
    """Tiny ImageNet: val and test hold one folder of pictures each, and a table beside it."""
    train = ["train/a/images/1.png", "train/b/images/2.png"]
    names, found, left = read(*train, "val/images/3.png", "val/val_annotations.txt", "test/images/4.png")
    assert names == ["a", "b"]
    assert found.keys() == set(train)
    assert left[UNLABELLED] == ["test/4.png", "val/3.png", "val/val_annotations.txt"]


def test_one_folder_in_every_class_only_groups():
    names, found, _ = read("cat/images/1.png", "dog/images/1.png")
    assert names == ["cat", "dog"]
    assert found["cat/images/1.png"] == ("train", "cat")


def test_everything_that_is_not_used_is_listed_by_reason():
    _, _, left = read("train/cat/1.png", "train/list.csv", "test/1.png", "a.txt", ".git/x", links=["train/dog"])
    assert left == {
        LOOSE: ["a.txt", "train/list.csv"],
        UNLABELLED: ["test/1.png"],
        LITTERED: [".git/x"],
        ODD: ["train/dog"],
    }


# Random trees with a known truth.

CLASSES = ["cat", "Dog", "été", "grey wolf", "trains", "valley", "2017", "set", "猫", "image"]
SPLITS = {
    "train": ["train", "Training", "train_images", "seg_train", "training-set"],
    "val": ["val", "valid", "Validation", "dev"],
    "test": ["test", "Testing", "test_set", "eval"],
}
LITTER = ["@eaDir/1.jpg", ".DS_Store", "Thumbs.db", "lost+found/a/b.jpg", ".ipynb_checkpoints/1.jpg"]


def grow(chance):
    """Return file names, links, and the truth: the (split, class) of each file that is a picture of a class."""
    classes = chance.sample(CLASSES, chance.randint(2, 6))
    splits = {"train": ""}
    if chance.random() < 0.6:
        kept = ["train", *chance.sample(["val", "test"], chance.randint(0, 2))]
        splits = {split: chance.choice(SPLITS[split]) + "/" for split in kept}
        if len(splits) == 1:
            splits = {"train": "train/"}
    wrap = chance.choice(["", "", "pets/", "a/b/"])
    truth, extra, links = {}, [], []
    for split, top in splits.items():
        again = chance.choice(["", "", top]) if top else ""
        for name in classes:
            for number in range(chance.randint(1, 3)):
                group = chance.choice(["", "", "more/"]) if number and name == classes[0] else ""
                truth[f"{wrap}{top}{again}{name}/{group}{number}.jpg"] = (split, name)
        if chance.random() < 0.3:
            extra.append(f"{wrap}{top}{again}{chance.choice(classes)}/{chance.choice(LITTER)}")
        if chance.random() < 0.2:
            links.append(f"{wrap}{top}{again}{chance.choice(classes)}/link.jpg")
    if chance.random() < 0.3:
        extra.append(f"{wrap}{chance.choice(LITTER)}")
    if chance.random() < 0.3:
        extra.append(f"{wrap}README.txt")
    return truth, extra, links


def test_random_trees_give_the_right_classes_or_a_refusal_that_names_a_folder():
    chance = random.Random(20261128)
    refused = 0
    for _ in range(2000):
        truth, extra, links = grow(chance)
        said = ""
        try:
            names, found, left = read(*truth, *extra, links=links)
        except VitloraError as error:
            said = str(error)
        if said:
            refused += 1
            folders = {part for name in truth for part in PurePosixPath(name).parts[:-1]}
            assert any(re.search(re.escape(folder), said) for folder in folders), said
            continue
        assert names == sorted({name for _, name in truth.values()}), (truth, names)
        assert sorted(found.values()) == sorted(truth.values()), truth
        assert sum(map(len, left.values())) == len(extra) + len(links), (extra, links, left)
    assert refused < 100, "nearly all of these trees can be read in one way only"
