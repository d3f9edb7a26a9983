"""Splits are stratified, seeded, and hold still when images are added or listed in another order."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from vitlora.core.errors import VitloraError
from vitlora.preprocess.splits import cap, carve, in_row_order, rank_by_class, roles


def images(counts, start=0):
    """Return labels and content hashes, so many images of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    contents = [hashlib.sha256(f"{start}/{row}".encode()).hexdigest() for row in range(len(labels))]
    return labels, contents


def divided(labels, contents, seed=0, test=0.2, val=0.1):
    """Carve test, then val, and return the split of each content."""
    taken, rest = carve(rank_by_class(seed, labels, contents, range(len(labels))), test, contents)
    val_rows, train = carve(rest, val / (1 - test), contents)
    named = {"test": taken, "val": val_rows, "train": train}
    return {contents[row]: name for name, ranked in named.items() for row in in_row_order(ranked)}


COUNTS = (100, 37, 250, 5, 61)


def test_every_image_is_in_one_split():
    labels, contents = images(COUNTS)
    taken, rest = carve(rank_by_class(0, labels, contents, range(len(labels))), 0.3, contents)
    assert not set(in_row_order(taken)) & set(in_row_order(rest))
    assert sorted(in_row_order(taken) + in_row_order(rest)) == list(range(len(labels)))


def test_the_order_in_which_images_are_listed_plays_no_part():
    labels, contents = images(COUNTS)
    expected = divided(labels, contents)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(labels))
        assert divided([labels[row] for row in order], [contents[row] for row in order]) == expected
    rows = np.random.default_rng(0).permutation(len(labels)).tolist()
    assert rank_by_class(0, labels, contents, rows) == rank_by_class(0, labels, contents, range(len(labels)))


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.99])
def test_each_class_gives_its_share_within_one_image(fraction):
    counts = (*COUNTS, 2, 3, 1000)
    labels, contents = images(counts)
    taken, rest = carve(rank_by_class(0, labels, contents, range(len(labels))), fraction, contents)
    for label, count in enumerate(counts):
        assert abs(len(taken[label]) - count * fraction) <= 1
        assert len(taken[label]) >= 1
        assert len(rest[label]) >= 1
        assert len(taken[label]) + len(rest[label]) == count
        assert {labels[row] for row in taken[label] + rest[label]} == {label}


def test_the_last_image_of_a_class_is_never_taken():
    labels, contents = images((1, 1))
    taken, rest = carve(rank_by_class(0, labels, contents, range(2)), 0.9, contents)
    assert taken == {0: [], 1: []}
    assert rest == {0: [0], 1: [1]}


def test_adding_images_moves_few_of_the_others():
    """A tenth more images: of the old ones about a tenth of each split's border moves, not nine in ten."""
    labels, contents = images((400, 400, 400))
    more_labels, more_contents = images((40, 40, 40), start=1)
    before = divided(labels, contents)
    after = divided(labels + more_labels, contents + more_contents)
    moved = sum(before[content] != after[content] for content in contents)
    assert 0 < moved < 0.05 * len(contents)


def test_one_more_image_moves_at_most_one_across_each_border():
    labels, contents = images((200, 200))
    before = divided(labels, contents)
    for number in range(20):
        more = hashlib.sha256(f"new {number}".encode()).hexdigest()
        after = divided([*labels, 0], [*contents, more])
        moved = [content for content in contents if before[content] != after[content]]
        assert len(moved) <= 2
        assert all(labels[contents.index(content)] == 0 for content in moved)


def test_another_seed_gives_another_split_of_the_same_size():
    labels, contents = images((300, 300))
    splits = [divided(labels, contents, seed) for seed in range(4)]
    for i, split in enumerate(splits):
        assert Counter(split.values()) == Counter(splits[0].values())
        for other in splits[:i]:
            tests = [{content for content in contents if one[content] == "test"} for one in (split, other)]
            assert len(tests[0] & tests[1]) / len(tests[0]) == pytest.approx(0.2, abs=0.13)


def test_an_images_name_does_not_decide_but_its_content_does():
    """Ranks follow the hash of the content, so every stretch of rows is spread over the splits."""
    labels, contents = images((1000,))
    split = divided(labels, contents)
    for start in range(0, 1000, 250):
        share = np.mean([split[content] == "test" for content in contents[start : start + 250]])
        assert share == pytest.approx(0.2, abs=0.08)


def test_equal_pictures_stand_side_by_side_in_row_order():
    contents = ["aa", "bb", "aa", "cc", "aa"]
    ranked = rank_by_class(0, [0] * 5, contents, [4, 3, 2, 1, 0])[0]
    at = ranked.index(0)
    assert ranked[at : at + 3] == [0, 2, 4]


def test_only_the_given_rows_are_ranked_and_classes_come_in_order():
    labels, contents = [2, 0, 2, 1], ["a", "b", "c", "d"]
    ranked = rank_by_class(0, labels, contents, [0, 1, 2])
    assert list(ranked) == [0, 2]
    assert in_row_order(ranked) == [0, 1, 2]


def test_a_cap_keeps_the_first_of_each_class_and_none_keeps_all():
    ranked = {0: [5, 3, 9], 1: [2], 2: []}
    assert cap(ranked, 2) == {0: [5, 3], 1: [2], 2: []}
    assert cap(ranked, None) == ranked


def test_a_larger_cap_keeps_what_a_smaller_one_kept():
    labels, contents = images((50, 50))
    ranked = rank_by_class(0, labels, contents, range(100))
    for label in (0, 1):
        assert set(cap(ranked, 10)[label]) < set(cap(ranked, 20)[label])


def test_the_ranks_are_the_ones_of_all_earlier_runs():
    """Written down once, by hand from SHA-256 of "seed:content": a change here moves everybody's test images."""
    contents = [hashlib.sha256(bytes([row])).hexdigest() for row in range(8)]
    by_hand = sorted(range(8), key=lambda row: hashlib.sha256(f"7:{contents[row]}".encode()).hexdigest())
    assert rank_by_class(7, [0] * 8, contents, range(8)) == {0: by_hand} == {0: [5, 0, 3, 4, 6, 1, 7, 2]}


# Equal pictures


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.9])
def test_equal_pictures_are_never_split_apart_and_each_class_gives_about_its_share(fraction):
    labels, contents = images((100, 60))
    copies = np.random.default_rng(0).integers(0, 160, 80)
    labels += [labels[row] for row in copies]
    contents += [contents[row] for row in copies]
    taken, rest = carve(rank_by_class(0, labels, contents, range(240)), fraction, contents)
    for label in (0, 1):
        assert not {contents[row] for row in taken[label]} & {contents[row] for row in rest[label]}
        count = labels.count(label)
        assert 0.6 * count * fraction - 1 <= len(taken[label]) <= count * fraction + 1
        assert len(taken[label]) + len(rest[label]) == count


def test_many_copies_that_would_overdraw_the_share_stay_where_they_are():
    contents = ["aa"] * 50 + [f"{number:02d}" for number in range(50)]
    for seed in range(5):
        taken, rest = carve(rank_by_class(seed, [0] * 100, contents, range(100)), 0.2, contents)
        assert len(taken[0]) == 10  # a fifth of the 51 different ones
        assert set(range(50)) <= set(rest[0])


def test_where_each_picture_has_its_copies_the_smallest_group_is_taken_all_the_same():
    contents = ["aa"] * 4 + ["bb"] * 3 + ["cc"] * 4
    taken, _ = carve(rank_by_class(0, [0] * 11, contents, range(11)), 0.1, contents)
    assert taken == {0: [4, 5, 6]}


def test_a_class_of_nothing_but_copies_of_one_picture_keeps_them_all():
    taken, rest = carve({0: [0, 1, 2, 3]}, 0.5, ["aa"] * 4)
    assert (taken, rest) == ({0: []}, {0: [0, 1, 2, 3]})


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
