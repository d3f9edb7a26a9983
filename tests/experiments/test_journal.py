"""A sweep's memory: cut lines, damage, a full disk, and what its lines come to."""

import json
import re
import resource

import pytest

from vitlora.core.errors import VitloraError
from vitlora.experiments.journal import JOURNAL, Journal, mend, read_journal


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / JOURNAL)
    found.begin({"commit": "a" * 40, "document": {"lora": {"r": "ü\n"}}})
    for number in range(3):
        found.note(number, values={"lora.r": number + 1})
    found.note(1, state="running", tries=1, began=5.0, device="CPU")
    found.note(1, state="done", val=0.5, test=(0.4, 0.3, 0.5), commit="b" * 40)
    return found


def test_what_was_noted_is_read_again(journal, tmp_path):
    found = read_journal(tmp_path)
    assert found.about == journal.about
    assert found.members == journal.members
    assert [member.state for member in found.members.values()] == ["waiting", "done", "waiting"]
    assert (found.members[1].tries, found.members[1].device, found.members[1].val) == (1, "CPU", 0.5)


def test_no_journal_is_an_empty_one(tmp_path):
    assert not read_journal(tmp_path).members
    (tmp_path / JOURNAL).write_bytes(b"")
    assert not read_journal(tmp_path).about


def test_cut_anywhere_its_whole_lines_count_and_more_can_be_noted(journal, tmp_path):
    whole = journal.path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole), 7):
        journal.path.write_bytes(whole[:cut])
        before = read_journal(tmp_path)
        mend(journal.path)
        assert read_journal(tmp_path) == before
        assert journal.path.read_bytes() == whole[: whole.rfind(b"\n", 0, cut) + 1]
        again = read_journal(tmp_path)
        again.note(len(again.members), values={})
        assert read_journal(tmp_path).members == again.members


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'{"number": 1, "state": "running"', b'"number": 1, "state": "running"', "damaged in line 5"),
        (b'"state": "done"', b'"fate": "done"', "damaged in line 6"),
        (b'{"number": 0, "values": {"lora.r": 1}}\n', b"", "lines are missing"),
        (b'{"number": 1, "values": {"lora.r": 2}}\n', b"\n", "damaged in line 3"),
        (b'{"about"', b'{"abort"', "damaged in line 1"),
    ],
)
def test_damage_is_named_with_a_cure(journal, tmp_path, old, new, said):
    text = journal.path.read_bytes()
    assert old in text
    journal.path.write_bytes(text.replace(old, new, 1))
    with pytest.raises(VitloraError, match=re.escape(said)) as caught:
        read_journal(tmp_path)
    assert f"`rm -r {tmp_path}` forgets this sweep, or --name another" in str(caught.value)


@pytest.mark.parametrize("room", [0, 1, 20, 40])
def test_what_a_full_disk_took_of_a_line_is_taken_back(journal, tmp_path, room):
    whole, limits = journal.path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + room, limits[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|No space left"):
            journal.note(2, state="failed", error="x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.path.read_bytes() == whole
    assert journal.members[2].state == "waiting"
    journal.note(2, state="done")
    assert json.loads(journal.path.read_bytes().splitlines()[-1]) == {"number": 2, "state": "done"}
