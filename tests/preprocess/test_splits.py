"""Splits are seeded shares of each class; a picture's own content decides, so that no other picture moves it."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from vitlora.core.errors import VitloraError
from vitlora.preprocess.splits import by_class, cap, carve, roles

PARTS = ("test", "val", "train")


def images(counts, start=0):
    """Return labels and content hashes, so many images of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    contents = [hashlib.sha256(f"{start}/{row}".encode()).hexdigest() for row in range(len(labels))]
    return labels, contents


def divided(labels, contents, seed=0, test=0.2, val=0.1):
    """Return the split of each content."""
    parts = carve(by_class(labels, range(len(labels))), test, val, seed, contents)
    named = zip(PARTS, parts, strict=True)
    return {contents[row]: name for name, part in named for rows in part.values() for row in rows}


def numbers(part):
    return sorted(row for rows in part.values() for row in rows)


COUNTS = (100, 37, 250, 5, 61)


@pytest.mark.parametrize("test", [0, 0.3])
def test_every_image_is_in_one_split_and_in_its_own_class(test):
    labels, contents = images(COUNTS)
    parts = carve(by_class(labels, range(len(labels))), test, 0.2, 0, contents)
    assert sorted(numbers(parts[0]) + numbers(parts[1]) + numbers(parts[2])) == list(range(len(labels)))
    assert all(labels[row] == label for part in parts for label, rows in part.items() for row in rows)
    assert all(list(rows) == sorted(rows) for part in parts for rows in part.values())
    assert bool(numbers(parts[0])) == bool(test)


def test_the_order_in_which_images_are_listed_plays_no_part():
    labels, contents = images(COUNTS)
    expected = divided(labels, contents)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labels))
        assert divided([labels[row] for row in order], [contents[row] for row in order]) == expected


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.98])
def test_each_class_gives_about_its_share(fraction):
    """Within four standard deviations of a draw, which is what a hash amounts to."""
    labels, contents = images((4000, 1000, 300))
    parts = carve(by_class(labels, range(len(labels))), fraction, 0.01, 0, contents)
    for label, count in enumerate((4000, 1000, 300)):
        assert abs(len(parts[0][label]) - count * fraction) <= 4 * (count * fraction * (1 - fraction)) ** 0.5 + 1


@pytest.mark.parametrize(("count", "least"), [(1, (0, 0, 1)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (1, 1, 1))])
@pytest.mark.parametrize("test", [0.001, 0.2, 0.9, 0.998])
def test_a_small_class_gives_one_to_test_then_one_to_val_and_keeps_one(count, least, test):
    for seed in range(20):
        labels, contents = images((count,), start=seed)
        parts = carve(by_class(labels, range(count)), test, 0.001, seed, contents)
        found = tuple(len(part[0]) for part in parts)
        assert sum(found) == count
        assert all(there >= wanted for there, wanted in zip(found, least, strict=True)), found


@pytest.mark.parametrize(("count", "found"), [(1, (0, 0, 1)), (2, (0, 1, 1)), (3, (0, 1, 2))])
def test_beside_an_official_test_a_small_class_gives_one_to_val(count, found):
    labels, contents = images((count,))
    assert tuple(len(part[0]) for part in carve(by_class(labels, range(count)), 0, 0.001, 0, contents)) == found


def test_adding_or_removing_images_moves_none_of_the_others():
    labels, contents = images((60, 60, 60))
    more_labels, more_contents = images((40, 3, 200), start=1)
    before, after = divided(labels, contents), divided(labels + more_labels, contents + more_contents)
    assert {content: after[content] for content in contents} == before
    fewer = divided(labels[::2], contents[::2])
    assert fewer == {content: before[content] for content in contents[::2]}


def test_what_a_small_class_has_lent_goes_back_and_nothing_else_moves():
    """Of three pictures none has a place in test, so the nearest is lent; then one comes that has."""
    _, many = images((100,))
    placed = divided([0] * 100, many)
    own = {name: [content for content in many if placed[content] == name] for name in PARTS}
    three = own["train"][:3]
    assert Counter(divided([0] * 3, three).values()) == {"test": 1, "val": 1, "train": 1}
    after = divided([0] * 5, [*three, own["test"][0], own["val"][0]])
    assert after == dict.fromkeys(three, "train") | {own["test"][0]: "test", own["val"][0]: "val"}


def test_shares_that_grow_take_from_train_and_leave_test_what_it_was():
    labels, contents = images((300,))
    small, large = divided(labels, contents, val=0.1), divided(labels, contents, val=0.3)
    assert {c for c in contents if small[c] == "test"} == {c for c in contents if large[c] == "test"}
    assert {c for c in contents if small[c] == "val"} < {c for c in contents if large[c] == "val"}


def test_another_seed_gives_another_split():
    labels, contents = images((300, 300))
    splits = [divided(labels, contents, seed) for seed in range(4)]
    for i, split in enumerate(splits):
        for other in splits[:i]:
            tests = [{content for content in contents if one[content] == "test"} for one in (split, other)]
            assert len(tests[0] & tests[1]) / len(tests[0]) == pytest.approx(0.2, abs=0.13)


def test_only_the_given_rows_are_divided_and_classes_come_in_order():
    assert by_class([2, 0, 2, 1], [2, 1, 0]) == {0: [1], 2: [0, 2]}
    assert list(by_class([2, 0, 2, 1], [2, 1, 0])) == [0, 2]


def test_a_cap_keeps_so_many_of_each_class_and_none_keeps_all():
    labels, contents = images((5, 2))
    classes = by_class(labels, range(7))
    assert [len(rows) for rows in cap(classes, 3, 0, contents).values()] == [3, 2]
    assert cap(classes, None, 0, contents) == classes


def test_a_larger_cap_keeps_what_a_smaller_one_kept():
    labels, contents = images((50, 50))
    classes = by_class(labels, range(100))
    for label in (0, 1):
        assert set(cap(classes, 10, 0, contents)[label]) < set(cap(classes, 20, 0, contents)[label])


def test_a_cap_takes_from_all_splits_alike():
    labels, contents = images((2000,))
    capped = cap(by_class(labels, range(2000)), 1000, 0, contents)
    found = [len(part[0]) for part in carve(capped, 0.2, 0.1, 0, contents)]
    assert found[0] == pytest.approx(200, abs=50)
    assert found[1] == pytest.approx(100, abs=40)


def test_the_places_are_those_of_all_earlier_runs():
    """Written down once, by hand from SHA-256 of "seed:content": a change here moves everybody's test images."""
    contents = [hashlib.sha256(bytes([row])).hexdigest() for row in range(8)]
    by_hand = [int(hashlib.sha256(f"7:{c}".encode()).hexdigest()[:13], 16) / 16**13 for c in contents]
    assert [round(place, 2) for place in by_hand] == [0.22, 0.84, 0.99, 0.51, 0.65, 0.18, 0.78, 0.96]
    found = divided([0] * 8, contents, 7, 0.3, 0.3)
    expected = ["test", "train", "train", "val", "train", "test", "train", "train"]
    assert [found[content] for content in contents] == expected


# Equal pictures


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_equal_pictures_are_never_split_apart(fraction):
    labels, contents = images((100, 60))
    copies = np.random.default_rng(0).integers(0, 160, 80)
    before = divided(labels, contents, test=fraction, val=0.05)
    labels += [labels[row] for row in copies]
    contents += [contents[row] for row in copies]
    parts = carve(by_class(labels, range(240)), fraction, 0.05, 0, contents)
    names = [{contents[row] for row in numbers(part)} for part in parts]
    assert sum(map(len, names)) == len({*contents})
    assert divided(labels, contents, test=fraction, val=0.05) == before, "copies move nothing"


def test_a_class_of_nothing_but_copies_of_one_picture_keeps_them_all():
    parts = carve({0: [0, 1, 2, 3]}, 0.5, 0.3, 0, ["aa"] * 4)
    assert [part[0] for part in parts] == [[], [], [0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("present", "val_from", "expected"),
    [
        ({"train"}, "train", {"train": "train"}),
        ({"train", "val"}, "train", {"train": "train", "val": "test"}),
        ({"train", "test"}, "train", {"train": "train", "test": "test"}),
        ({"train", "val", "test"}, "train", {"train": "train", "val": "train", "test": "test"}),
        ({"train", "val"}, "official", {"train": "train", "val": "test"}),
        ({"train", "val", "test"}, "official", {"train": "train", "val": "val", "test": "test"}),
    ],
)
def test_official_splits_serve_as_the_parameters_say(present, val_from, expected):
    assert roles(present, val_from) == expected


def test_an_official_val_must_be_there_to_be_used():
    with pytest.raises(VitloraError, match=r"split\.val_from: got official; the data has one split only"):
        roles({"train"}, "official")
