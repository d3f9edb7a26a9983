"""An adapter records which pictures it has met; a mixture has met what its adapters have."""

import hashlib

import pytest

from vitlora.core.files import read_csv
from vitlora.evaluate.stage import _tell_seen
from vitlora.model.seen import SEEN, count_seen, write_seen

NAMES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(12)]


def adapter(folder, train, val, *made_of):
    folder.mkdir()
    return folder, write_seen(folder, train, val, made_of)


def test_what_it_was_trained_and_chosen_on_counts_and_nothing_else(tmp_path):
    folder, written = adapter(tmp_path / "a", NAMES[:4], NAMES[4:6])
    assert written
    assert count_seen(folder, NAMES[6:]) == 0
    assert count_seen(folder, NAMES[3:]) == 3
    assert count_seen(folder, NAMES) == 6
    rows = read_csv(folder / SEEN)
    assert rows == [
        {"picture": name[:16], "used": "val" if name in NAMES[4:6] else "train"} for name in sorted(NAMES[:6])
    ]


def test_a_mixture_has_met_what_its_adapters_have(tmp_path):
    first, _ = adapter(tmp_path / "a", NAMES[:2], NAMES[2:3])
    second, _ = adapter(tmp_path / "b", NAMES[3:5], NAMES[5:6])
    mixed, _ = adapter(tmp_path / "mixed", NAMES[6:7], NAMES[7:8], first, second)
    assert [count_seen(mixed, [name]) for name in NAMES] == [1] * 8 + [0] * 4


def test_one_that_does_not_record_its_pictures_leaves_the_mixture_unknown(tmp_path):
    first, _ = adapter(tmp_path / "a", NAMES[:2], NAMES[2:3])
    (tmp_path / "old").mkdir()
    mixed, written = adapter(tmp_path / "mixed", NAMES[6:7], NAMES[7:8], first, tmp_path / "old")
    assert not written
    assert count_seen(mixed, NAMES) is None


def test_the_same_pictures_give_the_same_bytes_in_any_order(tmp_path):
    first, _ = adapter(tmp_path / "a", NAMES[:6], NAMES[6:])
    again, _ = adapter(tmp_path / "b", reversed(NAMES[:6]), reversed(NAMES[6:]))
    assert (first / SEEN).read_bytes() == (again / SEEN).read_bytes()


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (0, ""),
        (2, "note: 2 of 9 test images played a part in training"),
        (
            None,
            "note: an adapter that this one is made of, or the teacher that it learnt from, was trained on",
        ),
    ],
)
def test_evaluate_says_what_it_means_for_the_accuracy(capsys, seen, says):
    _tell_seen(seen, 9)
    out = capsys.readouterr().out
    assert out.startswith(says)
    assert bool(out) == bool(says)
