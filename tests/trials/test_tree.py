"""A clone for trials: what the project has, committed or not, and nothing of it touched."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.trials.tree import Origin, Tree, find_origin, refuse_half_kept


@pytest.fixture
def project(request, tmp_path, monkeypatch):
    """A project, at the top of its repository or below, with pictures that Git does not keep."""
    root = tmp_path / "repository" / getattr(request, "param", ".")
    root.mkdir(parents=True)
    shutil.copytree(tiny.ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache", "config.local"))
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("lora: {}\n")
    (root / "picture.bin").write_bytes(bytes(range(256)))
    (root / ".gitignore").write_text("/.work/\n/pictures/\n")
    top = tmp_path / "repository"
    tiny.git(top, "init", "-q", "-b", "main")
    for key, value in {"user.name": "Ann Ü", "user.email": "ann@example.org", "diff.noprefix": "true"}.items():
        tiny.git(top, "config", key, value)
    tiny.commit(top)
    (root / "pictures").mkdir()
    monkeypatch.chdir(root)
    for key, value in tiny.environment(root).items():
        monkeypatch.setenv(key, value)
    return root


def renewed(project, values=None):
    tree = Tree(Path(".work/tune/s/tree-0"), find_origin())  # as `vitlora tune` names it
    tree.renew(values or {}, project / ".work/tune/s/checkpoints/000")
    return tree


@pytest.mark.parametrize("project", [".", "sub/project ü"], indirect=True)
def test_a_clone_has_what_is_committed_and_what_is_not_yet(project):
    (project / "params.yaml").write_text("lora: {r: 8}\n")
    (project / "picture.bin").write_bytes(bytes(range(255, -1, -1)))
    (project / "new.txt").write_text("new\r\nüöä")
    tiny.git(project, "add", "new.txt")
    (project / "not tracked").write_text("x")
    before = tiny.git(project, "status", "--porcelain"), os.listdir(project)
    for _ in range(2):
        tree = renewed(project)
        for name in ("params.yaml", "picture.bin", "new.txt", "dvc.yaml"):
            assert (tree.project / name).read_bytes() == (project / name).read_bytes()
        assert not (tree.project / "not tracked").exists()
        (tree.project / "params.yaml").write_text("of a trial that was killed")
    assert tiny.git(tree.project, "config", "user.name") == "Ann Ü\n"
    now = tiny.git(project, "status", "--porcelain"), os.listdir(project)
    assert now[0] == before[0]
    assert {*now[1]} - {".work"} == {*before[1]}


def test_a_clone_shares_the_cache_and_keeps_checkpoints_outside(project):
    (project / ".dvc/config.local").write_text('[cache]\n    type = copy\n[remote "mine"]\n    url = /x\n')
    tree = renewed(project)
    settings = (tree.project / ".dvc/config.local").read_text()
    assert f"dir = {project / '.dvc/cache'}\n" in settings
    assert "type = copy\n" in settings
    assert "url = /x\n" in settings
    (tree.project / ".work/checkpoints/kept").write_text("kept")
    assert (renewed(project).project / ".work/checkpoints/kept").read_text() == "kept"


@pytest.mark.parametrize("place", ["pictures", "../images", "./pictures/"])
def test_pictures_that_git_does_not_keep_are_linked(project, place):
    Path(place).mkdir(exist_ok=True)
    Path(place, "1.png").write_text("1")
    values = {"data": {"source": "folder", "path": place}}
    refuse_half_kept(values)
    tree = renewed(project, values)
    assert (tree.project / place / "1.png").read_text() == "1"


def test_pictures_of_which_git_keeps_a_part_are_refused_with_a_cure(project):
    for name in ("1.png", "2.png"):
        (project / "images").mkdir(exist_ok=True)
        (project / "images" / name).write_text(name)
    values = {"data": {"source": "folder", "path": "images"}}
    refuse_half_kept(values)
    tiny.git(project, "add", "images/1.png")
    with pytest.raises(
        VitloraError, match=r"data.path: got images, of which Git keeps a part; the rule: all or none"
    ) as caught:
        refuse_half_kept(values)
    whole = str(caught.value).rpartition(": ")[2]
    refuse_half_kept({"data": {"source": "folder", "path": whole}})
    tiny.git(project, "add", "images/2.png")
    refuse_half_kept(values)


@pytest.mark.parametrize("project", [".", "sub/project ü"], indirect=True)
def test_an_experiment_is_fetched_or_its_lack_is_told(project):
    tree = renewed(project)
    commit = tree.origin.commit
    tiny.git(tree.project, "update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/s-000", "HEAD")
    assert tree.fetch("s-000") == commit
    assert "s-000" in tiny.git(project, "for-each-ref", "refs/exps")
    with pytest.raises(VitloraError, match=r"git fetch .* failed"):
        tree.fetch("s-001")


def test_a_state_has_a_name_of_its_own(project):
    clean = find_origin()
    (project / "params.yaml").write_text("lora: {r: 8}\n")
    changed = find_origin()
    assert clean.fingerprint == clean.commit[:7]
    assert changed.fingerprint.startswith(f"{clean.commit[:7]}+")
    assert isinstance(changed, Origin)


@pytest.mark.parametrize("at", range(1, 8))
def test_a_git_that_is_killed_is_called_again(project, tmp_path, monkeypatch, at):
    """Whichever of the calls that make a clone and fetch from it."""
    (project / "params.yaml").write_text("lora: {r: 8}\n")
    origin = find_origin()
    real, bin_, calls = shutil.which("git"), tmp_path / "bin", tmp_path / "calls"
    bin_.mkdir()
    (bin_ / "git").write_text(
        f'#!/bin/sh\necho >> {calls}\n[ "$(wc -l < {calls})" -eq {at} ] && kill -9 $$\nexec {real} "$@"\n'
    )
    (bin_ / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    tree = Tree(Path(".work/experiments/s/tree-0"), origin)
    tree.renew({}, project / ".work/experiments/s/checkpoints/000")
    assert (tree.project / "params.yaml").read_text() == "lora: {r: 8}\n"
    subprocess.run(
        [real, "-C", tree.project, "update-ref", f"refs/exps/{origin.commit[:2]}/{origin.commit[2:]}/s-000", "HEAD"],
        check=True,
    )
    assert tree.fetch("s-000") == origin.commit
    assert len(calls.read_text()) >= at
