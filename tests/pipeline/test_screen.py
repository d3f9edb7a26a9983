"""What a person sees of a run: each stage, what it did, how long it took; nothing wider than the screen."""

import shutil
import sys

import tiny
from faults.harness import STAGES

WIDTH = 120
NOISE = ("PYTHONPATH", "Updating lock", "dvc push", "autostage")


def shown(lines):
    """Return the stages that are said to run, and those that are said to have taken a time."""
    running = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
    return running, [line.split()[0] for line in lines if " took " in line]


def test_a_run_shows_its_stages_in_lines_that_fit_the_screen(finished_run):
    said = (finished_run.parent / "said.txt").read_text()
    lines = said.splitlines()
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    assert shown(lines) == ([*STAGES], [*STAGES])
    assert "the saved model was loaded in a fresh process and gives the same logits (4 images)" in lines
    assert not any(word in said for word in NOISE)


def test_a_run_says_what_was_changed_and_ends_with_results_and_what_to_commit(project):
    """The pictures are the same, so nothing follows the first two stages."""
    shutil.copytree(project / "pictures", project / "elsewhere")
    tiny.set_params(project / "params.yaml", {"data.path": "elsewhere", "ingest.on_duplicate": "skip"})
    done = tiny.run(project, sys.executable, "-m", "vitlora", "run", env={"PYTHONPATH": "src"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    assert shown(lines) == (["download", "preprocess"], ["download", "preprocess"])
    assert done.stdout.count("parameters that differ") == 1
    changed = '  data.path: "pictures" -> "elsewhere"\n  ingest.on_duplicate: "fail" -> "skip"\n'
    assert f"parameters that differ from the last commit:\n{changed}" in done.stdout
    assert not any(word in done.stdout for word in NOISE)
    assert lines[-1] == "keep this result: git add params.yaml source.yaml dvc.lock metrics && git commit"
    assert lines[-3].startswith("test accuracy ")
    again = tiny.run(project, sys.executable, "-m", "vitlora", "run", env={"PYTHONPATH": "src"})
    assert "\nData and pipelines are up to date.\ntest accuracy " in again.stdout


def test_a_dry_run_shows_the_commands(project):
    tiny.set_params(project / "params.yaml", {"lora.r": 4})
    done = tiny.run(project, tiny.DVC, "repro", "--dry")
    assert "> exec env PYTHONPATH=src python -m stages.train --base models/base " in done.stdout
