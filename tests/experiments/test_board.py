"""What is shown of a sweep at work: on a terminal, and where there is none."""

import io
import json
import re

import pytest
from rich.console import Console

from vitlora.experiments.board import Board, counts, fitting, rows
from vitlora.experiments.journal import Member


def at_work(sweep, number, log, *entries, **changes):
    """Let an experiment be at work, as its files say."""
    sweep.journal.note(number, **{"state": "running", "tries": 1, "began": 1.0, "device": "GPU 3", **changes})
    (sweep.folder / f"{number:03d}.log").write_text(log)
    live = sweep.folder / "tree-0/.work/train.jsonl"
    live.parent.mkdir(parents=True)
    live.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


@pytest.mark.parametrize(
    ("log", "entries", "tries", "state", "val"),
    [
        ("", [], 1, "begins", ""),
        ("Stage 'download' is cached - skipping run\nRunning stage 'preprocess':\n> x\n", [], 1, "preprocess", ""),
        ("Running stage 'train':\n", [], 2, "train, try 2", ""),
        ("Running stage 'train':\n", [{"step": 10, "steps": 120}], 1, "train, step 10 of 120", ""),
        (
            "Running stage 'train':\n",
            [{"step": 40, "steps": 120, "eval_accuracy": 0.91}, {"step": 50, "steps": 120}],
            3,
            "train, step 50 of 120, try 3",
            "0.9100",
        ),
        (
            "Running stage 'train':\nRunning stage 'evaluate':\n",
            [{"step": 120, "steps": 120, "eval_accuracy": 0.95}],
            1,
            "evaluate",
            "0.9500",
        ),
    ],
)
def test_an_experiment_at_work_says_how_far_it_is(sweep, log, entries, tries, state, val):
    at_work(sweep, 1, log, *entries, tries=tries)
    lines = rows(sweep, list(sweep.journal.members.values()))
    assert lines[1][:3] == ("sweep-001", state, val)
    assert lines[1][5:] == ("GPU 3", "lora.r=4 train.seed=1")
    assert lines[0] == ("sweep-000", "waiting", "", "", "", "", "lora.r=4 train.seed=0")


def test_without_a_runner_what_was_at_work_is_interrupted(sweep):
    at_work(sweep, 1, "Running stage 'train':\n", seconds=7.0)
    (line,) = rows(sweep, [sweep.journal.members[1]], alive=False)
    assert (line[1], line[4]) == ("interrupted", "7 s")
    assert counts(sweep.journal, alive=False) == "1 interrupted, 5 waiting"
    assert counts(sweep.journal) == "1 running, 5 waiting"


def test_where_not_all_have_room_those_at_work_come_first():
    states = ["done"] * 20 + ["failed"] + ["running"] * 3 + ["waiting"] * 30
    members = [Member(number, {}, state) for number, state in enumerate(states)]
    assert [member.number for member in fitting(members, 5)] == [19, 20, 21, 22, 23]
    assert [member.number for member in fitting(members, 25)] == list(range(25))
    assert fitting(members, 99) == members
    assert [member.number for member in fitting(members[24:], 3)] == [24, 25, 26]
    assert len(fitting(members, -4)) == 1


@pytest.mark.parametrize(("width", "height"), [(100, 40), (60, 12), (240, 8), (40, 5)])
def test_a_live_table_fits_the_terminal_and_leaves_nothing_behind(finished, width, height, capsys):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None)
    with Board(finished, console) as board:
        board.say("sweep-000", "not on a terminal")
        board.refresh("stopping")
        shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", console.file.getvalue())
    assert "5 done, 1 failed; stopping" in " ".join(shown.split())
    assert max(map(len, shown.replace("\r", "\n").split("\n"))) <= width
    assert capsys.readouterr().out == ""


def test_without_a_terminal_there_are_lines_and_no_codes(finished, capsys):
    with Board(finished, Console(file=io.StringIO())) as board:
        board.refresh()
        board.say("sweep-000", "failed: \x1b[2Jgone")
    assert capsys.readouterr().out == "sweep-000  failed: \\x1b[2Jgone\n"
    assert board.console.file.getvalue() == ""
