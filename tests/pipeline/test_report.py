"""`vitlora report` of a real run: with its model, of a commit, and of two."""

import re
import shutil

import tiny


def report(root, *words):
    done = tiny.run(root, "vitlora", "report", *words)
    assert done.returncode == 0, done.stderr
    return (root / "report.html").read_text(encoding="utf-8"), done


def test_a_run_is_shown_with_its_model_with_another_and_without_outputs_as_of_the_commit(project):
    page, done = report(project)
    assert "labels: what the base model thinks" in done.stderr
    assert "Labels worth a second look" in page
    assert "Not known" not in page
    assert re.search(r"<td>train<td class=n>[\d.]+ s<td>cpu", page)
    assert page.count('class="strip"') >= 4
    again, _ = report(project)
    assert again == page
    assert tiny.git(project, "status", "--short") == ""
    # Heat maps are not made by an adapter of another run.
    path = project / "models/adapter/adapter_config.json"
    text = path.read_text()
    path.unlink()
    path.write_text(text + " ")
    other, _ = report(project)
    assert "No heat maps: models/adapter is not the one that dvc.lock records" in other
    # Of the commit, from Git and the cache, without the outputs.
    for name in ("data", "models"):
        shutil.rmtree(project / name)
    of_commit, _ = report(project, "HEAD")
    assert "No heat maps" in of_commit
    accuracy = re.search(r'<div class="head">([\d.]+%)', page)[1]
    assert f'<div class="head">{accuracy}' in of_commit


def test_two_runs_of_six_pictures_are_too_few_to_compare(project):
    done = tiny.run(project, "vitlora", "report", "HEAD", "workspace", "--quick")
    assert done.returncode == 1
    assert "6 test pictures; the rule: at least 20" in done.stderr
    assert not (project / "report.html").exists()
