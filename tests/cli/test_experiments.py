"""The verb: what is refused before anything is made, and what each of its words does."""

import re
import shutil

import pytest
import tiny

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError


@pytest.fixture
def project(tmp_path, monkeypatch):
    """All that is looked at before Git is."""
    shutil.copy2(tiny.DIGITS, tmp_path / "params.yaml")
    shutil.copy2(tiny.ROOT / "dvc.yaml", tmp_path)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def run(*words):
    args = command_line(["experiments"]).parse_args(["experiments", *words])
    args.act(args)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "-S", "lora.r=4,8", "--name", "../x"), "--name: got ../x; the rule: a letter, then"),
        (("run", "-S", "lora.r=4,8", "--name", "out"), "--name: got out"),
        (("run", "-S", "lora.r=4,8", "--jobs", "0"), "--jobs: got 0; the rule: at least 1"),
        (("run", "-S", "lora.r=4,8", "-S", "lora.r=2"), "-S lora.r=2: lora.r is there twice; the rule: once"),
        (("run", "-S", "lora.rank=4,8"), "did you mean lora.r?"),
        (("run", "-S", "lora.r=4,8", "--partition", "x"), "--partition: got x, which says something to SLURM only"),
        (("status",), "no sweep has begun here; `vitlora experiments run -S lora.r=4,8` begins one"),
        (("stop",), "no sweep has begun here"),
        (("retry", "x"), "no sweep has begun here"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_made(project, words, said):
    with pytest.raises(VitloraError, match=re.escape(said)):
        run(*words)
    assert not list(project.glob(".work/experiments/*/journal*"))


@pytest.mark.parametrize("words", [(), ("run",), ("begin",), ("run", "-S"), ("stop", "a", "b")])
def test_a_command_line_that_says_too_little_or_too_much_shows_the_usage(capsys, words):
    with pytest.raises(SystemExit):
        run(*words)
    assert "usage: vitlora" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("run", "-S", "lora.r=4"), ("status",), ("stop",), ("retry",)])
def test_any_other_folder_is_refused(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VitloraError, match=r"no dvc.yaml and .dvc here"):
        run(*words)
