"""Two at once: one works, the other leaves with the holder's name, and nothing is mixed."""

import time

import pytest
from faults.harness import REPRO, RUNNING, STAGES, Running, copy_without, repro, same, start_stage, tries

DELAYS = (0, 0.5, 3)


@pytest.mark.survives("F18", "two dvc repro 0, 0.5 or 3 s apart: one writer, the other non-zero or idle; same bytes")
@pytest.mark.parametrize("number", tries(30))
def test_two_repros_at_once_never_mix(finished_run, scratch, note, number):
    stage, delay = STAGES[number % 5], DELAYS[number // 5 % 3]
    root = copy_without(finished_run, scratch / "project", stage)
    first = Running(root, *REPRO, stage)
    time.sleep(delay)
    second = Running(root, *REPRO, stage)
    codes = [running.ended() for running in (first, second)]
    losers = [running for running, code in zip((first, second), codes, strict=True) if code]
    note(f"{delay} s: {'one refused' if losers else 'second found all done'}")
    assert len(losers) < 2, first.text() + second.text()
    assert all(names_a_holder(loser.text()) for loser in losers), losers[0].text()
    assert sum(len(RUNNING.findall(running.text())) for running in (first, second)) == 1 or losers
    repro(root, stage)
    same(root, finished_run, stage)


def names_a_holder(text):
    return "is already running here (process" in text or "PID " in text or "Unable to acquire lock" in text


@pytest.mark.survives("F18", "a stage by hand beside dvc's own: refused with the holder's name, or waits; same bytes")
@pytest.mark.faults
@pytest.mark.parametrize("number", range(10))
def test_a_stage_by_hand_beside_dvc_never_mixes(finished_run, scratch, note, number):
    stage = STAGES[number % 5]
    root = copy_without(finished_run, scratch / "project", stage)
    first = Running(root, *REPRO, stage)
    held = root / ".work" / f"{stage}.lock"
    assert first.wait_for(lambda: held.exists() and held.read_text()), first.text()
    second = start_stage(root, stage)
    assert first.ended() == 0, first.text()
    refused = second.ended() != 0
    note("refused" if refused else "waited until dvc's was done")
    assert not refused or f"{stage} is already running here (process " in second.text(), second.text()
    repro(root, stage)
    same(root, finished_run, stage)
