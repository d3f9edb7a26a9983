"""Who adds, changes or removes a picture and types `dvc repro` gets it used, with nothing else to remember."""

import json
import os
import shutil

import tiny
from PIL import Image

from vitlora.safety.source import SOURCE, write_source

FIRST_TWO = ["download", "preprocess"]


def counts(root):
    found = json.loads((root / "metrics/preprocess.json").read_text())
    return sum(found[name] for name in ("train", "val", "test"))


def some_picture(root):
    return sorted((root / "pictures").rglob("*.png"))[0]


def add(root):
    path = some_picture(root)
    Image.effect_noise((40, 40), 90).convert("RGB").save(path.with_name("new.png"))


def change(root):
    Image.effect_noise((40, 40), 90).convert("RGB").save(some_picture(root))


def remove(root):
    some_picture(root).unlink()


def test_a_picture_that_is_added_changed_or_removed_is_noticed(project):
    for alter, more in ((add, 1), (change, 0), (remove, -1)):
        before = counts(project)
        alter(project)
        assert tiny.dvc(project, "repro", "preprocess") == FIRST_TWO, alter
        assert counts(project) == before + more
    assert tiny.dvc(project, "repro", "preprocess") == []


def test_the_same_pictures_in_another_place_or_with_another_time_change_nothing_that_follows(project):
    shutil.copytree(project / "pictures", project / "elsewhere")
    tiny.set_params(project / "params.yaml", {"data.path": "elsewhere"})
    assert tiny.dvc(project, "repro") == ["download"]
    some_picture(project).touch()
    tiny.git(project, "checkout", "-q", "--", "params.yaml", "source.yaml", "dvc.lock")
    assert tiny.dvc(project, "repro") == []


def test_an_experiment_on_another_folder_sees_what_lies_there(project):
    shutil.copytree(project / "pictures", project / "elsewhere")
    add(project)
    (project / "pictures").rename(project / "gone")
    (project / "elsewhere").rename(project / "pictures")
    (project / "gone").rename(project / "elsewhere")
    before = counts(project)
    assert tiny.dvc(project, "exp", "run", "-S", f"data.path={project / 'elsewhere'}", "preprocess") == FIRST_TWO
    assert counts(project) == before + 1


def test_a_change_behind_a_linked_folder_of_a_hub_folder_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("hub", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "hub/data").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "params.yaml").write_text("data: {source: hub_folder, path: hub}\n")
    write_source()
    before = SOURCE.read_text()
    (tmp_path / "elsewhere/train.parquet").touch()
    write_source()
    assert SOURCE.read_text() != before


def test_a_file_with_its_size_and_time_kept_or_behind_a_link_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    archive = tmp_path / "pets-1.zip"
    archive.write_bytes(b"one")
    (tmp_path / "pets.zip").symlink_to(archive)
    (tmp_path / "params.yaml").write_text("data: {source: archive, path: pets.zip}\n")
    write_source()
    before, about = SOURCE.read_text(), archive.stat()
    archive.write_bytes(b"two")
    os.utime(archive, ns=(about.st_atime_ns, about.st_mtime_ns))
    write_source()
    assert SOURCE.read_text() != before


def test_who_has_the_outputs_but_not_the_pictures_runs_nothing(project):
    shutil.rmtree(project / "pictures")
    assert tiny.dvc(project, "repro") == []


def test_a_queued_experiment_carries_what_lay_there_and_leaves_the_workspace_as_it_was(project):
    before = (project / "source.yaml").read_text()
    add(project)
    tiny.git(project, "add", "pictures")  # a copy of the tree has what Git keeps
    done = tiny.run(project, tiny.DVC, "exp", "run", "--queue", "-S", "lora.r=4")
    assert done.returncode == 0, done.stderr
    queued = tiny.git(project, "show", "refs/exps/celery/stash:source.yaml")
    assert queued != before
    assert 'data: "37 files, ' in queued
    assert (project / "source.yaml").read_text() == before
