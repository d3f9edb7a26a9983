"""A project without data, and a sweep of it whose experiments have been told, not run."""

import shutil

import pytest
import tiny

from vitlora.experiments.begin import prepare

WORDS = ("lora.r=4,8,16", "train.seed=0,1")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    root = tmp_path_factory.mktemp("template") / "project"
    shutil.copytree(tiny.ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    shutil.copy2(tiny.ROOT / "dvc.yaml", root)
    shutil.copy2(tiny.DIGITS, root / "params.yaml")
    (root / ".gitignore").write_text("/.work/\n/pictures/\n")
    tiny.git(root, "init", "-q", "-b", "main")
    tiny.commit(root)
    return root


@pytest.fixture
def project(template, tmp_path, monkeypatch):
    root = shutil.copytree(template, tmp_path / "project")
    monkeypatch.chdir(root)
    for key, value in tiny.environment(root).items():
        monkeypatch.setenv(key, value)
    return root


@pytest.fixture
def sweep(project):
    folder = project / ".work/experiments/sweep"
    folder.mkdir(parents=True)
    return prepare(WORDS, folder)


@pytest.fixture
def finished(sweep):
    """Four done, one failed, one never begun: rank 8 is best on val, rank 16 on test."""
    scores = {0: (0.80, 0.81), 1: (0.82, 0.80), 2: (0.93, 0.90), 3: (0.91, 0.91), 4: (0.90, 0.95)}
    for number, (val, test) in scores.items():
        sweep.journal.note(number, state="running", tries=1, began=1.0, slot=0, device="CPU")
        figures = {"val": val, "test": (test, test - 0.05, test + 0.04), "pictures": 368}
        sweep.journal.note(number, state="done", commit=f"{number}" * 40, seconds=61.0 + number, **figures)
    sweep.journal.note(5, state="failed", error="train: out of GPU memory", seconds=3.0, tries=1)
    return sweep
