"""`vitlora tune` in a real project: experiments of its own, killed at five bad moments, applied at the end."""

import json
import os
import re
import shlex
import shutil
import signal

import pytest
import tiny
from faults.harness import VERB, Running, make_digits, processes, vitlora, wait_until_none
from ruamel.yaml import YAML

SPACE = ("lora.r=4,8,16", "train.learning_rate=5e-4:5e-3:log")
TRIALS = 12
ENV = {"PYTHONPATH": "src"}


def experiments(root, name="tune"):
    """Return commit by experiment."""
    listed = tiny.git(root, "for-each-ref", "--format=%(refname) %(objectname)", "refs/exps").split("\n")
    return {line.split()[0].rpartition("/")[2]: line.split()[1] for line in listed if f"/{name}-" in line}


def trials(root, name="tune"):
    """Return each finished trial's values and score, from the commits that Git has."""
    found = {}
    for experiment, commit in experiments(root, name).items():
        params = YAML(typ="safe").load(tiny.git(root, "show", f"{commit}:params.yaml"))
        epochs = tiny.git(root, "show", f"{commit}:metrics/train/plots/epochs.csv")
        found[experiment] = (params["lora"]["r"], params["train"]["learning_rate"], epochs)
    return found


def table(text):
    """Return place, experiment, score and values of each line of the table, without times."""
    return re.findall(r"^(\d+)\s+(tune-\d+)\s+(\S+ \(.*?\))\s+(\S+)\s+\d.*?s\s{2,}(\S.*?)\s*$", text, re.MULTILINE)


def line_of(text):
    """Return the words after `dvc` of the line that applies the best."""
    (line,) = re.findall(r"^  dvc (exp run .*)$", text, re.MULTILINE)
    return shlex.split(line)


# --- a finished project of three colours ---


def test_a_trial_is_an_experiment_and_the_project_is_left_alone(project):
    (project / "README.md").write_text("not committed\n")
    tiny.git(project, "add", "README.md")
    before = tiny.git(project, "status", "--porcelain"), tiny.git(project, "rev-parse", "HEAD")
    done = vitlora(project, "tune", "--space", "lora.r=1,2", "--trials", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tiny.git(project, "status", "--porcelain"), tiny.git(project, "rev-parse", "HEAD")) == before
    assert [row[1:3] for row in table(done.stdout)] == [("tune-000", "1.0000 (0.5101 to 1.0000)")]
    assert [*experiments(project)] == ["tune-000"]
    assert tiny.git(project, "show", f"{experiments(project)['tune-000']}:README.md") == "not committed\n"
    assert not list((project / ".work/tune/tune").glob("tree-*"))


@pytest.mark.faults
def test_the_best_is_applied_by_the_line_and_a_forgotten_search_can_begin_anew(project):
    words = ("tune", "--space", "lora.r=1,2", "--trials", "1")
    done = vitlora(project, *words)
    assert tiny.dvc(project, *line_of(done.stdout)) == []
    assert tiny.dvc(project, "exp", "apply", "tune-000") == []
    again = vitlora(project, *words)
    assert again.returncode == 0, again.stderr
    assert "begins   lora" not in again.stdout
    assert table(again.stdout) == table(done.stdout)
    shutil.rmtree(project / ".work/tune/tune")
    refused = vitlora(project, *words)
    assert refused.returncode == 1
    (cure,) = re.findall(r"`dvc (exp remove .*)`", refused.stderr)
    tiny.dvc(project, *cure.split())
    assert vitlora(project, *words).returncode == 0


@pytest.mark.faults
def test_trials_that_fail_are_told_and_the_search_goes_on_until_all_have(project):
    done = vitlora(project, "tune", "--space", "lora.layers_to_transform=[5],[1],[7]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tune: 3 trials" in done.stdout  # the space has no more
    assert re.findall(r"^tune-00(\d)  failed: lora.layers_to_transform: got (\d)", done.stdout, re.MULTILINE) == [
        ("0", "5"),
        ("2", "7"),
    ]
    assert [*experiments(project)] == ["tune-001"]
    done = vitlora(project, "tune", "--space", "lora.layers_to_transform=[5],[7]", "--name", "none")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no trial of .work/tune/none has finished")


@pytest.mark.faults
def test_ctrl_c_keeps_the_trial_at_work_and_the_same_command_goes_on(project):
    words = ("tune", "--space", "lora.r=1,4", "-S", "train.num_train_epochs=30", "--trials", "1")
    running = Running(project, *VERB, *words, env=ENV)
    assert running.wait_for(lambda: list((project / ".work/tune/tune/checkpoints/000").glob("*/0*")))
    running.send_group(signal.SIGINT)
    assert running.ended() == 130
    assert "stopped after 0 of 1 trials, which are kept; the same command goes on" in running.text()
    assert "Traceback" not in running.text()
    assert not wait_until_none(project)
    done = vitlora(project, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resuming after step" in (project / ".work/tune/tune/000.log").read_text()
    assert len(experiments(project)) == 1


@pytest.mark.faults
def test_two_at_once_give_what_each_gives_alone(project):
    done = vitlora(project, "tune", "--space", "lora.r=1,2,4", "--trials", "3", "--jobs", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    found = trials(project)
    assert len(found) == 3
    for r, _, epochs in found.values():
        tiny.git(project, "checkout", "-qf", "HEAD")
        tiny.dvc(project, "exp", "run", "-f", "-S", f"lora.r={r}", "train")
        assert (project / "metrics/train/plots/epochs.csv").read_text() == epochs


@pytest.mark.faults
def test_hopeless_trials_are_stopped_early_and_are_no_experiments(project):
    fixed = ("-S", "train.metric_for_best_model=loss", "-S", "train.num_train_epochs=40")
    done = vitlora(project, "tune", "--space", "train.learning_rate=1e-6:1e-1:log", *fixed, "--trials", "9")
    assert done.returncode == 0, done.stdout + done.stderr
    early = re.findall(r"^(tune-\d+)  stopped early", done.stdout, re.MULTILINE)
    assert early
    assert len(experiments(project)) == 9 - len(early)
    assert not {*early} & {*experiments(project)}
    logs = [(project / f".work/tune/tune/{name[-3:]}.log").read_text() for name in early]
    assert any("stopped after step" in log for log in logs)
    assert "how much of its lead is luck is not estimated for a loss" in done.stdout


# --- digits: twelve trials, five kills ---


def command(root):
    fixed = ("-S", "train.num_train_epochs=1", "-S", "train.save_steps=10")
    return (*VERB, "tune", "--space", *SPACE, *fixed, "--trials", str(TRIALS))


def pid_of(root, word):
    """Return the id of the process at work in a clone whose command line has a word."""
    return next((pid for pid, line in processes(root / ".work/tune").items() if word in line), None)


def kill(root, running, who):
    """Kill the runner and see that nobody stays, or kill a child of its."""
    if who == "runner":
        running.send(signal.SIGKILL)
        running.process.wait()
        assert not wait_until_none(root, 4.0), "an orphan works on"
        return Running(root, *command(root), env=ENV)
    os.kill(pid_of(root, who), signal.SIGKILL)
    return running


def moments(root):
    """Five bad moments: who is killed, and when."""
    search = root / ".work/tune/tune"

    def log(number):
        path = search / f"{number:03d}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def recorded(number):
        return next(search.glob(f"tree-0/.git/refs/exps/*/*/tune-{number:03d}"), None)

    return [
        ("runner", lambda: (search / "tree-0/.git").exists()),
        ("stages.train", lambda: list(search.glob("checkpoints/002/*/0*")) and pid_of(root, "stages.train")),
        ("dvc_command", lambda: "Running stage 'train'" in log(4) and pid_of(root, "dvc_command")),
        ("runner", lambda: list(search.glob("checkpoints/007/*/0*"))),
        ("runner", lambda: recorded(10)),
    ]


@pytest.mark.faults
@pytest.mark.survives("T01", "vitlora tune of 12 trials on digits: kill -9 of runner, dvc and stage, 5 in all")
def test_twelve_trials_on_digits_survive_five_kills_with_twelve_right_results(tmp_path):
    root, quiet = make_digits(tmp_path / "killed", {}), tmp_path / "quiet"
    shutil.copytree(root, quiet, symlinks=True)
    running = Running(root, *command(root), env=ENV)
    for who, moment in moments(root):
        assert running.wait_for(moment, 1200), running.text()
        running = kill(root, running, who)
    assert running.ended(1800) == 0, running.text()
    print(running.text())
    undisturbed = tiny.run(quiet, *command(quiet), env=ENV, timeout=3600)
    assert undisturbed.returncode == 0, undisturbed.stdout + undisturbed.stderr
    print(undisturbed.stdout)
    assert table(running.text()) == table(undisturbed.stdout)
    assert len(table(running.text())) == TRIALS
    assert trials(root) == trials(quiet)
    assert len(trials(root)) == TRIALS
    assert tiny.git(root, "status", "--porcelain") == ""
    assert tiny.git(root, "rev-parse", "--abbrev-ref", "HEAD") == "main\n"
    assert "resuming after step" in (root / ".work/tune/tune/002.log").read_text()
    assert tiny.dvc(root, *line_of(running.text())) == ["evaluate", "export"]
    assert json.loads((root / "metrics/evaluate/scores.json").read_text())["accuracy"] > 0.5
