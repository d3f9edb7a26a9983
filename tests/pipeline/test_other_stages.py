"""Whatever DVC itself allows in a project is no error: other people's stages, links, moved caches, added data.

run, verify and recover ask DVC what the stages and outputs are, and mend what DVC itself stumbles over.
"""

import os
import shutil
import sys

import pytest
import tiny
from ruamel.yaml import YAML


def vitlora(root, *words):
    done = tiny.run(root, sys.executable, "-m", "vitlora", *words, env={"PYTHONPATH": "src"})
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def add_stages(root, stages, file="dvc.yaml", **more):
    yaml = YAML()
    path = root / file
    path.parent.mkdir(exist_ok=True)
    document = yaml.load(path) if path.exists() else {"stages": {}}
    document["stages"].update(stages)
    yaml.dump({**more, **document}, path)


ECHO = "mkdir -p notes && echo {0} > notes/{0}.txt"
OTHERS = {
    "loop": {"foreach": ["red", "blue"], "do": {"cmd": ECHO.format("${item}"), "outs": ["notes/${item}.txt"]}},
    "loop_in_git": {
        "foreach": {"a": {"word": "green"}, "b": {"word": "grey"}},
        "do": {
            "cmd": ECHO.format("${item.word}"),
            "deps": ["models/export"],
            "outs": [{"notes/${item.word}.txt": {"cache": False}}],
        },
    },
    "matrix": {
        "matrix": {"size": [1, 2], "kind": ["x", "y"]},
        "cmd": ECHO.format("${item.kind}${item.size}"),
        "outs": ["notes/${item.kind}${item.size}.txt"],
    },
    "elsewhere": {"wdir": "sub", "cmd": "echo 1 > out.txt", "deps": ["../models/export"], "outs": ["out.txt"]},
    "elsewhere_a_folder": {"wdir": "sub", "cmd": "mkdir -p d/e; echo 1 > d/e/f", "outs": ["d"]},
    "words": {"cmd": ECHO.format("r${lora.r}"), "outs": ["notes/r${lora.r}.txt"]},
    "kept_in_git": {
        "cmd": "echo '{\"a\": 1}' > m.json; mkdir -p p; printf 'x,y\\n1,2\\n' > p/p.csv",
        "metrics": [{"m.json": {"cache": False}}],
        "plots": [{"p": {"cache": False, "x": "x", "y": "y"}}],
    },
    "grows": {"cmd": "echo 1 >> log.txt", "outs": [{"log.txt": {"persist": True}}]},
    "always": {"cmd": "echo 1 > now.txt", "always_changed": True, "outs": ["now.txt"]},
    "no_output": {"cmd": "test -d models/export", "deps": ["models/export"]},
    "two_commands": {"cmd": ["echo 1 > a.txt", "echo 2 > b.txt"], "outs": ["a.txt", "b.txt"]},
    "not_pushed": {"cmd": "echo 1 > c.txt", "outs": [{"c.txt": {"push": False}}]},
}


def test_other_stages_are_no_error(project):
    (project / "sub").mkdir()
    add_stages(project, OTHERS)
    code, out, err = vitlora(project, "run")
    assert (code, "test accuracy" in out) == (0, True), out + err
    assert out.count("Running stage '") == len(OTHERS) + 1 + 1 + 3, "two loops of two, a matrix of four"
    assert vitlora(project, "verify") == (0, "41 outputs and DVC's cache: sound\n", "")
    assert vitlora(project, "recover") == (0, "nothing to mend\n", "")
    code, out, err = vitlora(project, "run")
    assert (code, out.count("Running stage '")) == (0, 1), "always_changed"


def test_stages_of_a_second_file_and_variables_and_added_data_are_no_error(project):
    (project / "sub").mkdir()
    (project / "sub/words.yaml").write_text("word: red\n")
    stages = {"t": {"cmd": "echo ${word} > ${word}.txt", "outs": ["${word}.txt"]}}
    add_stages(project, stages, "sub/dvc.yaml", vars=["words.yaml"])
    (project / "notes.md").write_text("mine")
    tiny.dvc(project, "add", "notes.md")
    tiny.dvc(project, "repro", "-P")
    code, out, err = vitlora(project, "verify")
    assert (code, out) == (0, "25 outputs and DVC's cache: sound\n"), err
    (project / "sub/red.txt").unlink()  # a link into the cache
    (project / "sub/red.txt").write_text("other")
    code, out, _ = vitlora(project, "verify")
    assert (code, out) == (1, "sub/red.txt: is not what dvc.lock records (made by sub/dvc.yaml:t)\n")
    tiny.git(project, "add", "sub/dvc.lock")
    (project / "sub/dvc.lock").write_text((project / "sub/dvc.lock").read_text()[:-9])
    code, _, err = vitlora(project, "verify")
    assert "sub/dvc.lock is damaged; `vitlora recover` mends it" in err
    code, out, _ = vitlora(project, "recover")
    assert "sub/dvc.lock: removed" in out
    tiny.dvc(project, "repro", "-P")
    assert vitlora(project, "verify")[0] == 0


def test_recover_leaves_alone_what_no_stage_can_make_again(project):
    (project / "mine").mkdir()
    (project / "mine/a.txt").write_text("a")
    tiny.dvc(project, "add", "mine")
    add_stages(project, {"t": {"cmd": "echo 1 > held.txt", "outs": ["held.txt"]}})
    tiny.dvc(project, "repro")
    tiny.dvc(project, "freeze", "t")
    for name in ("mine/b.txt", "held.txt"):
        (project / name).unlink(missing_ok=True)
        (project / name).write_text("changed by hand")
    assert vitlora(project, "recover")[0] == 0
    assert {name: (project / name).read_text() for name in ("mine/a.txt", "mine/b.txt", "held.txt")} == {
        "mine/a.txt": "a",
        "mine/b.txt": "changed by hand",
        "held.txt": "changed by hand",
    }


def linked(root, cache):
    """Let DVC keep its cache elsewhere and link to it."""
    tiny.dvc(root, "config", "--local", "cache.type", "symlink")
    tiny.dvc(root, "cache", "dir", "--local", str(cache))
    shutil.move(root / ".dvc/cache", cache)
    tiny.dvc(root, "checkout", "--relink")
    assert (root / "models/export/model.onnx").is_symlink()
    assert tiny.dvc(root, "repro") == []


def move_cache(root, beside):
    (beside / "one").rename(beside / "two")
    tiny.dvc(root, "cache", "dir", "--local", str(beside / "two"))


def rename_project(root, beside):
    """With the cache where DVC has it unless told otherwise, links lead into the old folder."""
    shutil.move(beside / "one", root / ".dvc/cache")
    tiny.dvc(root, "config", "--local", "--unset", "cache.dir")


@pytest.mark.parametrize("lose", [pytest.param(move_cache, marks=pytest.mark.faults), rename_project])
def test_links_to_nothing_are_named_and_mended(project, tmp_path, lose):
    golden = (project / "models/adapter/adapter_model.safetensors").read_bytes()
    linked(project, tmp_path / "one")
    lose(project, tmp_path)
    code, out, err = vitlora(project, "run")
    assert code == 255, out + err
    assert "links to nothing, such as data/raw" in err
    assert "`dvc cache dir --local FOLDER`" in err
    code, out, err = vitlora(project, "verify")
    assert (code, "data/prepared/labels.json: labels.json is a link to nothing (made by preprocess)\n" in out) == (
        1,
        True,
    )
    assert "`dvc cache dir --local FOLDER`; then `vitlora recover`" in err
    code, out, err = vitlora(project, "recover")
    assert (code, "models/adapter: 5 links to nothing removed\n" in out) == (0, True), out + err
    code, out, err = vitlora(project, "run")
    assert code == 0, out + err
    assert "Running stage" not in out, "what is in the cache isn't made anew"
    assert (project / "models/adapter/adapter_model.safetensors").read_bytes() == golden
    assert vitlora(project, "verify")[0] == 0


def test_a_dead_link_among_added_data_goes_alone(project, tmp_path):
    (project / "mine").mkdir()
    (project / "mine/a.txt").write_text("a")
    tiny.dvc(project, "add", "mine")
    linked(project, tmp_path / "one")
    (project / "mine/new.txt").write_text("not added yet")
    move_cache(project, tmp_path)
    _, out, err = vitlora(project, "recover")
    assert "mine: 1 link to nothing removed; `dvc checkout` brings back what they led to\n" in out, out + err
    assert (project / "mine/new.txt").read_text() == "not added yet"
    assert not os.path.lexists(project / "mine/a.txt")


def test_a_project_without_git_is_told_to_make_one_which_helps(project):
    shutil.rmtree(project / ".git")
    verbs, cures = ("run", "verify", "recover"), set()
    for verb in verbs:
        code, _, err = vitlora(project, verb)
        assert code != 0
        (line,) = err.splitlines()
        assert "is not a git repository, and DVC needs one" in line
        cures.add(line.partition("type `")[2].partition("`")[0])
    (cure,) = cures
    done = tiny.run(project, "sh", "-c", cure)
    assert done.returncode == 0, done.stderr
    assert [vitlora(project, verb)[0] for verb in verbs] == [0, 0, 0]


def test_a_project_whose_dvc_is_told_to_do_without_git_needs_none(project):
    shutil.rmtree(project / ".git")
    tiny.dvc(project, "config", "core.no_scm", "true")
    assert vitlora(project, "run")[0] == 0
    assert vitlora(project, "verify")[0] == 0


@pytest.mark.parametrize("remote", [False, True])
def test_who_has_cloned_is_told_how_to_get_the_outputs(project, tmp_path, remote):
    if remote:
        tiny.dvc(project, "remote", "add", "-d", "store", str(tmp_path / "store"))
        tiny.dvc(project, "push")
        tiny.commit(project)
    clone = tmp_path / "clone"
    tiny.git(project, "clone", "-q", str(project), str(clone))
    code, _, err = vitlora(clone, "verify")
    assert code == 1
    assert ("`dvc pull` fetches them" in err) == remote
    assert "recover" not in err
    code, _, err = vitlora(clone, "predict", "pictures/red/00.jpg")
    assert code == 1
    assert ("`dvc pull models/export` fetches it" in err) == remote
    if remote:
        tiny.dvc(clone, "pull")
        assert vitlora(clone, "verify")[0] == 0
