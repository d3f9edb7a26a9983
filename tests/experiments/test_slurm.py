"""SLURM without a cluster: what is asked of it, what its answers mean, and how a job that is over has ended."""

import re
import signal
import time

import pytest

from vitlora.compare.screen import make_console
from vitlora.core.errors import VitloraError
from vitlora.experiments.begin import as_begun, hand_over
from vitlora.experiments.control import status
from vitlora.experiments.journal import Journal
from vitlora.experiments.slurm import job, queue
from vitlora.experiments.slurm.engine import GRACE_S, Slurm
from vitlora.experiments.slurm.queue import Line, options, parsed
from vitlora.experiments.slurm.record import Record, read_record, write_record
from vitlora.experiments.work import LOST
from vitlora.trials.child import DONE, FAILED, FULL, STOPPED
from vitlora.trials.names import JOURNAL
from vitlora.trials.tree import CHANGES


@pytest.fixture
def login_node(tmp_path, monkeypatch):
    """A PATH with an sbatch, and a squeue that never answers well."""
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "squeue"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\necho '{name}: error: one' >&2\necho two >&2\nexit 1\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")


@pytest.fixture
def sweep(tmp_path):
    """One experiment, submitted, and no project."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    journal = Journal(folder / JOURNAL)
    journal.begin({"below": ".", "document": {"lora": {}}, "commit": "0" * 40, "changes": ""})
    journal.note(0, values={"lora.r": 4})
    journal.note(0, state="queued", job="12", tries=1, seconds=5.0)
    (folder / CHANGES).touch()
    return as_begun(folder)


@pytest.mark.parametrize(
    ("partition", "text", "words"),
    [
        (None, "", ["--gres=gpu:1"]),
        ("gpu", "", ["--partition=gpu", "--gres=gpu:1"]),
        ("cpu", "--gres=none", ["--partition=cpu", "--gres=none"]),
        (None, "--gpus=2 --time=02:00:00", ["--gpus=2", "--time=02:00:00"]),
        (None, "--account='two words' --exclusive", ["--gres=gpu:1", "--account=two words", "--exclusive"]),
    ],
)
def test_options_of_sbatch_ask_for_a_gpu_unless_they_say_otherwise(login_node, partition, text, words):
    assert options(partition, text) == words


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job.sh", "--sbatch: got job.sh; the rule: sbatch's long options, each in one word, such as"),
        ("--time 02:00:00", "--sbatch: got 02:00:00; the rule"),
        ("-A x", "--sbatch: got -A; the rule"),
        ("--", "--sbatch: got --; the rule"),
        ("--account='x", "--sbatch: got --account='x: No closing quotation"),
        ("--output=x", "--sbatch: got --output=x, which is set here for every job; leave it out"),
        ("--sig=B:INT@5", "--sbatch: got --sig=B:INT@5, which is set here"),
        ("--array=1-4", "--sbatch: got --array=1-4, which is set here"),
        ("--quiet", "--sbatch: got --quiet, which is set here"),  # sbatch would not print the job's id
        ("--cluster=x", "--sbatch: got --cluster=x, which is set here"),  # squeue would not see the job
    ],
)
def test_what_is_no_option_or_is_set_here_is_refused(login_node, text, said):
    with pytest.raises(VitloraError, match=re.escape(said)):
        options(None, text)


def test_what_the_environment_sets_hides_no_job(login_node, tmp_path, monkeypatch):
    (tmp_path / "bin/squeue").write_text('#!/bin/sh\necho "12|RUNNING|$SQUEUE_ACCOUNT$SBATCH_WAIT|$SBATCH_ACCOUNT"\n')
    for name in ("SQUEUE_ACCOUNT", "SBATCH_WAIT", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, name)
    jobs = queue.Queue()
    jobs.look()
    assert jobs.jobs == {"12": Line("RUNNING", "", "SBATCH_ACCOUNT")}


def test_an_empty_partition_and_a_machine_without_sbatch_are_refused(login_node, monkeypatch, tmp_path):
    with pytest.raises(VitloraError, match="--partition: got nothing"):
        options("", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VitloraError, match="--engine slurm: there is no sbatch on the PATH; the rule: a login node"):
        options(None, "")


def test_squeue_is_read_by_job_and_other_lines_are_left_out():
    text = "12|PENDING|Resources|\n13|RUNNING|None|n1\nslurm says hello\n14_[1-3]|PENDING|Priority|\n"
    assert parsed(text)["12"] == Line("PENDING", "Resources", "")
    assert parsed(text)["13"] == Line("RUNNING", "None", "n1")
    assert len(parsed(text)) == 3


def test_a_refusal_is_told_in_slurms_words_and_the_sweep_stays(sweep, login_node):
    with pytest.raises(VitloraError, match=r"^sbatch: error: one; two\nnothing is lost; the same command goes on$"):
        Slurm().begin(sweep, sweep.journal.members[0], ())
    engine = Slurm()
    assert engine.begin(sweep, sweep.journal.members[0], (1,)) is None
    assert engine.why == "sbatch: error: one; two; tried again in a minute"


def test_a_record_is_read_as_it_was_written(tmp_path):
    assert read_record(tmp_path, 3) == Record()
    record = Record("12", 2, (3, "000040"), 17.5, 4.5, "n1 GPU 0", True, "stopped", "")
    assert write_record(tmp_path, 3, record) == read_record(tmp_path, 3) == record
    assert [path.name for path in tmp_path.iterdir()] == ["003.json"]


# --- how it ended ---


@pytest.fixture
def follow(sweep):
    """Return a function that tells the job what squeue and its own record say, and returns it."""

    def told(line, record):
        engine = Slurm()
        (one,) = engine.at_work(sweep)
        write_record(sweep.folder, 0, record)
        engine.jobs.jobs = {} if line is None else {"12": line}
        engine.jobs.asked = engine.jobs.answered = time.monotonic() + 1
        return one

    return told


MINE = {"job": "12", "began": 1.0, "seconds": 7.0, "device": "n1 GPU 0"}


@pytest.mark.parametrize(
    ("state", "shown"),
    [("PENDING", "queued"), ("REQUEUE_HOLD", "queued"), ("RUNNING", "running"), ("COMPLETING", "running")],
)
def test_a_job_that_slurm_has_is_shown_and_not_over(sweep, follow, state, shown):
    assert not follow(Line(state, "Priority, x", "n1"), Record(**MINE)).is_over()
    member = sweep.journal.members[0]
    assert (member.state, member.seconds) == (shown, 12.0)
    assert member.device == ("n1 GPU 0" if shown == "running" else "(Priority)")


@pytest.mark.parametrize("line", [None, Line("RUNNING", "None", "n1"), Line("COMPLETED", "None", "n1")])
@pytest.mark.parametrize("kind", [DONE, FAILED, FULL])
def test_what_a_job_has_written_of_its_end_counts(follow, line, kind):
    one = follow(line, Record(**MINE, kind=kind, error="why"))
    assert one.is_over()
    assert one.settle(False) == (kind, "why")


@pytest.mark.parametrize(
    ("line", "record", "halted", "kind"),
    [
        (None, Record(**MINE), False, LOST),  # forgotten
        (None, Record("11", kind=DONE), False, LOST),  # another job's
        (None, Record(**MINE, kind=STOPPED), True, STOPPED),
        (Line("TIMEOUT", "TimeLimit", "n1"), Record(**MINE, kind=STOPPED), False, LOST),
        (Line("OUT_OF_MEMORY", "x", "n1"), Record(**MINE), False, LOST),
        (Line("CANCELLED", "None", ""), Record(), False, STOPPED),
        (Line("NODE_FAIL", "None", "n1"), Record(), False, LOST),
        (Line("FAILED", "JobLaunchFailure", "n1"), Record(), False, FAILED),
        (Line("FAILED", "JobLaunchFailure", "n1"), Record(), True, STOPPED),
    ],
)
def test_a_job_that_said_nothing_is_judged_by_slurm_after_a_while(follow, monkeypatch, line, record, halted, kind):
    one = follow(line, record)
    one.is_over()
    later = time.monotonic() + GRACE_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert one.is_over()
    assert one.settle(halted).kind == kind


def test_a_job_that_never_began_says_why(sweep, follow):
    one = follow(Line("FAILED", "JobLaunchFailure", "n1"), Record())
    assert not one.is_over(), "a node's file may need a while"
    said = "job 12 never began: FAILED (JobLaunchFailure) n1: "
    assert one.settle(False).error.startswith(f"{said}does the node see /")
    (sweep.folder / "000.log").write_text("of job 11\njob 12\n1: exec: /x/python: not found\n\n")
    assert one.settle(False).error == f"{said}1: exec: /x/python: not found"


def test_status_goes_on_where_squeue_does_not_answer(sweep, login_node, capsys):
    status(sweep.folder, make_console())
    said = " ".join(capsys.readouterr().out.split())
    assert "sweep: 1 queued; no runner is at work, and jobs carry on without it; the same command" in said
    assert "note: squeue: error: one; two" in said


def test_what_a_job_has_written_counts_where_squeue_does_not_answer(sweep, login_node):
    engine = Slurm()
    (one,) = engine.at_work(sweep)
    engine.look()
    assert not one.is_over()
    write_record(sweep.folder, 0, Record(**MINE, kind=DONE))
    engine.jobs.asked = float("-inf")
    assert engine.look() == "squeue: error: one; two"
    assert one.is_over()
    assert one.settle(halted=False).kind == DONE


def test_jobs_that_are_not_known_yet_are_not_over(sweep):
    engine = Slurm()
    engine.jobs.asked = engine.jobs.answered = time.monotonic() - queue.POLL_S
    (one,) = engine.at_work(sweep)
    assert not one.is_over()


# --- on the node, where nothing is to run ---


@pytest.fixture
def node(sweep, monkeypatch):
    """Signals as they were, and a job's id."""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setattr(job, "CLAIM_S", 0.0)
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
    yield sweep
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("changes", [{"state": "waiting"}, {"job": "13"}, {"state": "done"}])
def test_a_job_that_the_journal_does_not_name_runs_nothing(node, capsys, changes):
    node.journal.note(0, **changes)
    assert job.main(node.folder, 0) == 0
    assert capsys.readouterr().out == "sweep: experiment 0 does not wait for job 12; nothing is run\n"
    assert read_record(node.folder, 0) == Record()


@pytest.mark.parametrize(
    ("warned", "error"),
    [(True, "the time limit is too short to get any further"), (False, "killed 4 times, as where memory runs out")],
)
def test_an_experiment_that_gets_no_further_is_not_begun_for_ever(node, warned, error):
    hand_over(node, [])
    write_record(node.folder, 0, Record("11", 4, (2, "000004"), 1.0, 50.0, "n1", warned, "stopped"))
    assert job.main(node.folder, 0) == 1
    record = read_record(node.folder, 0)
    assert (record.job, record.kind, record.tries) == ("12", "failed", 4)
    assert record.error.startswith(error)
    assert record.seconds < 50.0, "of another job"
