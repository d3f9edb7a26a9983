"""Stages of any project: what is gone after a failure comes back, what the stage has left stays."""

import os
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage import Stage
from ruamel.yaml import YAML

from vitlora.core.errors import VitloraError
from vitlora.safety.put_back import run_or_put_back

GOOD = "mkdir -p d; echo 1 > d/f; echo 1 > kept.txt; echo 1 > plain.txt; echo 1 >> grows.txt"
OUTS = ["d", "kept.txt", {"plain.txt": {"cache": False}}, {"grows.txt": {"persist": True}}]
FAILURES = {  # a command that fails, and what lies there afterwards
    "at once": ("exit 3", {"d/f": "1\n", "kept.txt": "1\n", "plain.txt": "1\n", "grows.txt": "1\n"}),
    "with a log": ("echo log > kept.txt; exit 3", {"kept.txt": "log\n", "plain.txt": "1\n", "d/f": "1\n"}),
    "in a folder": ("mkdir d; echo half > d/g; exit 3", {"d/g": "half\n", "kept.txt": "1\n", "plain.txt": "1\n"}),
    "not all is made": ("echo 2 > plain.txt", {"plain.txt": "2\n", "d/f": "1\n", "kept.txt": "1\n"}),
    "killed": ("kill -9 $$", {"d/f": "1\n", "plain.txt": "1\n"}),
}


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of DVC's libraries


def write(command, **more):
    YAML().dump({"stages": {"t": {"cmd": command, "outs": OUTS, **more}}}, Path("dvc.yaml"))


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A project of one stage, which has run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    with Repo.init(no_scm=True) as found:
        write(GOOD)
        found.reproduce()
        yield found


def run(repo, command, **more):
    """Run the stage with another command, as dvc's wrapper does."""
    write(command, **more)
    repo._reset()
    stage = repo.stage.load_one(name="t")
    with repo.lock:
        run_or_put_back(Stage.run, stage)
    return stage


@pytest.mark.parametrize(("command", "left"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("same_disk", [True, False])
def test_what_has_gone_comes_back_and_what_the_stage_left_stays(repo, monkeypatch, capsys, command, left, same_disk):
    if not same_disk:
        monkeypatch.setattr("pathlib.Path.rename", lambda *_: os.stat("/nowhere"))  # any OSError
    with pytest.raises(Exception, match=r"failed to run|does not exist"):
        run(repo, command)
    assert {name: Path(name).read_text() for name in left} == left
    assert "put back as it was: " in capsys.readouterr().err


def test_a_stage_that_ends_well_leaves_nothing_aside(repo, capsys):
    run(repo, GOOD.replace("echo 1", "echo 2"))
    assert (Path("d/f").read_text(), Path("grows.txt").read_text()) == ("2\n", "1\n2\n")
    assert not os.listdir(".dvc/tmp/before")
    assert capsys.readouterr().err == ""


def test_what_a_stage_kept_to_go_on_from_goes_when_dvc_has_its_outputs_and_not_before(repo):
    Path(".work/t/kept").mkdir(parents=True)
    with pytest.raises(Exception, match="failed to run"):
        run(repo, "exit 3")
    assert Path(".work/t/kept").is_dir()
    run(repo, GOOD.replace("echo 1", "echo 2"))
    assert os.listdir(".work/t") == []


def test_an_output_that_did_not_reach_the_cache_fails_its_stage(repo, monkeypatch):
    """DVC says nothing where the disk was full."""
    monkeypatch.setattr("dvc.output.Output.commit", lambda *args, **options: None)
    with pytest.raises(VitloraError, match=r"d: not in cache; kept.txt: not in cache; .*is the disk full\?"):
        run(repo, GOOD.replace("echo 1", "echo 3"))


def test_what_is_edited_while_a_stage_runs_is_recorded_as_it_was_when_the_stage_began(repo, capsys):
    """Else the values of the next run would stand beside this one's results, and nothing would run any more."""
    Path("params.yaml").write_text("a: 1\n")
    Path("code").mkdir()
    Path("code/c.py").write_text("1\n")
    stage = run(repo, f"echo 'a: 2' > params.yaml; echo 2 > code/c.py; {GOOD}", params=["a"], deps=["code"])
    assert [dep.status() for dep in stage.deps] == [{"code": "modified"}, {"params.yaml": {"a": "modified"}}]
    assert capsys.readouterr().err == "".join(
        f"note: {name} was changed while t ran; this run is without it, the next one has it\n"
        for name in ("code", "params.yaml")
    )


def test_a_parameter_that_was_changed_before_its_stage_began_runs_it(repo):
    """And nothing comes from DVC's caches, which know the outputs of the other value."""
    for value in "121":
        Path("params.yaml").write_text(f"a: {value}\n")
        run(repo, "mkdir d; cp params.yaml d/f", params=["a"], outs=["d"]).dump()
        assert Path("d/f").read_text() == f"a: {value}\n"


def test_files_of_somebody_where_a_stage_of_ours_writes_are_kept(repo, capsys):
    Path("stages").mkdir()
    Path("stages/t.py").touch()
    Path("d/mine").mkdir()
    Path("d/mine/picture.jpg").write_text("the only copy")
    run(repo, f"test ! -e d && {GOOD} && touch d/MANIFEST.sha256")
    assert Path(".work/found/d-0/mine/picture.jpg").read_text() == "the only copy"
    assert capsys.readouterr().out == "note: d held files that no stage had made; they lie in .work/found/d-0 now\n"
    run(repo, GOOD)
    assert os.listdir(".work/found") == ["d-0"], "what a stage has made goes as before"
