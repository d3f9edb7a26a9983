"""Where DVC's own limits stood in the way: odd folder names, runs in a copy of the tree, marks of a merge."""

import os
import shlex
import shutil
import time

import pytest
import tiny
from dulwich.index import index_entry_from_stat
from dulwich.repo import Repo
from faults.harness import vitlora
from ruamel.yaml import YAML

from vitlora.safety.dvc_command import let_git_see


def refused(root, *words):
    done = tiny.run(root, tiny.DVC, *words)
    assert done.returncode == 255, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("error: ")]


def wait_for_queue(root):
    deadline = time.monotonic() + 240
    while "Running" in (status := tiny.run(root, tiny.DVC, "queue", "status").stdout) or "Queued" in status:
        assert time.monotonic() < deadline, status
        time.sleep(1)
    return status


@pytest.mark.faults
@pytest.mark.parametrize("name", ["Bücher und Bilder (2024)", "森"])
def test_experiments_run_in_a_copy_of_a_project_in_a_folder_of_any_name(project, name):
    root = project.rename(project.with_name(name))
    assert tiny.dvc(root, "exp", "run", "--temp", "-S", "evaluate.top_k=3") == ["evaluate"]
    assert tiny.dvc(root, "exp", "run", "--queue", "-n", "queued", "-S", "evaluate.batch_size=3") == []
    tiny.dvc(root, "queue", "start")
    status = wait_for_queue(root)
    assert "Success" in status, status + tiny.run(root, tiny.DVC, "queue", "logs", "queued").stdout
    assert "queued" in tiny.run(root, tiny.DVC, "exp", "list", "--name-only").stdout


@pytest.mark.parametrize("name", [pytest.param("my pets (2024)", marks=pytest.mark.faults), "Tom & Jerry's, #1 = ü"])
def test_pictures_in_a_folder_of_any_name_need_no_quotes(project, name):
    project = project.rename(project.with_name("a project {1} {"))  # DVC fills braces in its cache's path
    path = shutil.copytree(project / "pictures", project.parent / name)
    assert tiny.dvc(project, "exp", "run", "-S", f"data.path={path}", "download") == ["download"]
    assert YAML(typ="safe").load(project / "params.yaml")["data"]["path"] == str(path)


def new_pictures(root, kept):
    """A folder that Git keeps not at all, or not whole."""
    shutil.copytree(root / "pictures", root / "images2")
    if kept:
        tiny.git(root, "add", "images2/red", "images2/green")
        tiny.git(root, "commit", "-q", "-m", "some")
    return "images2"


def beside(root, kept):
    shutil.copytree(root / "pictures", root.parent / "images3")
    return "../images3"


@pytest.mark.parametrize(
    ("make", "kept", "option"),
    [
        pytest.param(new_pictures, False, "--queue", marks=pytest.mark.faults),
        (new_pictures, True, "--temp"),
        pytest.param(beside, False, "--temp", marks=pytest.mark.faults),
    ],
)
def test_a_relative_path_outside_git_is_refused_before_a_run_in_a_copy(project, make, kept, option):
    place = make(project, kept)
    (line,) = refused(project, "exp", "run", option, "-S", f"data.path={place}", "download")
    assert f"params.yaml: data.path: got {place}, where Git does not keep all files; the rule: " in line
    assert tiny.git(project, "diff", "--name-only") == ""
    (cure,) = shlex.split(line.rpartition("-S ")[2])
    done = tiny.run(project, tiny.DVC, "exp", "run", "--temp", "-S", cure, "download")
    assert (done.returncode, "36 images of 3 classes" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_picture_that_git_does_not_keep_is_not_lost_in_a_copy(project):
    """The experiment would be recorded as one of 37 pictures, and use 36."""
    picture = project / "pictures/red/00.jpg"
    shutil.copy2(picture, picture.with_name("new.jpg"))
    (line,) = refused(project, "exp", "run", "--temp", "-S", "ingest.on_duplicate=skip", "preprocess")
    assert "data.path: got pictures, where Git does not keep all files" in line
    tiny.git(project, "add", "pictures")
    assert tiny.dvc(project, "exp", "run", "--temp", "preprocess") == ["download", "preprocess"]


def test_a_run_in_a_copy_that_needs_no_picture_is_let_through(project):
    tiny.git(project, "rm", "-rq", "--cached", "pictures")
    tiny.git(project, "commit", "-q", "-m", "pictures are not in Git")
    assert tiny.dvc(project, "exp", "run", "--temp", "-S", "split.seed=1", "preprocess") == ["preprocess"]


def test_a_dry_experiment_is_told_what_shows_the_same(project):
    done = tiny.run(project, tiny.DVC, "exp", "run", "--dry", "-S", "lora.r=4")
    assert done.returncode == 255
    assert "write the values into params.yaml, and `dvc repro --dry` shows what would run" in done.stderr
    tiny.set_params(project / "params.yaml", {"lora.r": 4})
    done = tiny.run(project, tiny.DVC, "repro", "--dry")
    assert (done.returncode, "Running stage 'train'" in done.stdout) == (0, True)


THREE = """
stages:
  first: {cmd: mkdir a && cp value.yaml a/copy, deps: [value.yaml], outs: [a]}
  second: {cmd: mkdir b && cp a/copy b/copy, deps: [a/copy], outs: [b]}
  third: {cmd: cp b/copy c, deps: [b/copy], outs: [c]}
"""


def test_an_experiment_that_is_all_in_the_run_cache_needs_no_output_of_the_last_commit(tmp_path):
    """As in a clone whose results were made elsewhere: DVC looked for them once every stage had been restored."""
    (tmp_path / "dvc.yaml").write_text(THREE)
    (tmp_path / "value.yaml").write_text("x: 1\n")
    tiny.git(tmp_path, "init", "-q")
    tiny.dvc(tmp_path, "init", "-q")
    all_three = ["first", "second", "third"]
    assert tiny.dvc(tmp_path, "repro") == all_three
    tiny.commit(tmp_path)
    shutil.rmtree(tmp_path / ".dvc/cache/files")
    for expected in (all_three, []):
        assert tiny.dvc(tmp_path, "exp", "run", "-S", "value.yaml:x=2") == expected
        assert (tmp_path / "c").read_text() == "x: 2\n"
        tiny.git(tmp_path, "checkout", "-q", ".")


def test_git_sees_a_value_of_equal_length_that_dvcs_own_git_has_noted_as_the_old_one(tmp_path, monkeypatch):
    params = tmp_path / "params.yaml"
    params.write_text("source: timm!\n")
    tiny.git(tmp_path, "init", "-q")
    tiny.commit(tmp_path)
    old = tiny.git(tmp_path, "rev-parse", "HEAD:params.yaml").strip()
    params.write_text("source: wheel\n")
    os.utime(params, (params.stat().st_mtime - 60,) * 2)
    index = Repo(tmp_path).open_index()
    index[b"params.yaml"] = index_entry_from_stat(params.stat(), old.encode())
    index.write()
    assert tiny.git(tmp_path, "status", "--short") == ""
    monkeypatch.chdir(tmp_path)
    let_git_see()
    assert tiny.git(tmp_path, "status", "--short") == " M params.yaml\n"


def test_without_a_name_for_git_an_experiment_says_how_to_give_one(project, tmp_path):
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    nobody = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), **dict.fromkeys(names, "")}
    tiny.set_params(project / "params.yaml", {"evaluate.batch_size": 3})  # which DVC sets aside, in a commit
    done = tiny.run(project, tiny.DVC, "exp", "run", "-S", "evaluate.top_k=2", env=nobody)
    assert done.returncode == 255
    assert "commits of experiments; type `git config user.name NAME` and `git config user.email ADDRESS`" in done.stderr
    assert "unexpected" not in done.stderr


def conflict(root, file, ours, theirs):
    """Merge two branches that changed the same line of a file."""
    text = (root / file).read_text()
    assert ours[0] in text
    for branch, (old, new) in (("other", theirs), ("main", ours)):
        tiny.git(root, "checkout", "-q", *(["-b"] if branch == "other" else []), branch)
        (root / file).write_text(text.replace(old, new))
        tiny.git(root, "commit", "-qam", branch)
    assert tiny.run(root, "git", "merge", "other").returncode == 1


CONFLICTS = {
    "params.yaml": (("  val_fraction: 0.1", "  val_fraction: 0.2"), ("  val_fraction: 0.1", "  val_fraction: 0.3")),
    "dvc.yaml": (("Score the adapter", "Rate the adapter"), ("Score the adapter", "Judge the adapter")),
}


@pytest.mark.parametrize("file", CONFLICTS)
def test_marks_of_a_merge_are_named_with_their_line_and_a_cure_that_helps(project, file):
    conflict(project, file, *CONFLICTS[file])
    line = (project / file).read_text().splitlines().index("<<<<<<< HEAD") + 1
    for done in (tiny.run(project, tiny.DVC, "repro"), vitlora(project, "run")):
        assert done.returncode != 0
        assert f"error: {file}: the marks of a merge conflict begin in line {line}; the rule: " in done.stderr
    if file == "dvc.yaml":
        done = vitlora(project, "verify")
        assert f"error: {file}: the marks of a merge conflict begin in line {line}" in done.stderr
    tiny.git(project, "checkout", "--ours", file)
    assert tiny.dvc(project, "repro", "preprocess") == (["preprocess"] if file == "params.yaml" else [])


def test_marks_of_a_merge_in_source_yaml_are_written_over(project):
    text = (project / "source.yaml").read_text()
    (project / "source.yaml").write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n")
    assert tiny.dvc(project, "repro") == []
    assert (project / "source.yaml").read_text() == text
