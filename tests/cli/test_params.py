"""`vitlora params` explains keys in the terminal."""

import pytest
from tiny import ROOT

from vitlora.cli import command_line
from vitlora.core.errors import VitloraError
from vitlora.safety.keys import keys


def told(capsys, *words):
    args = command_line(["params"]).parse_args(["params", *words])
    args.act(args)
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_a_key_is_explained_with_what_it_is_now_and_what_a_change_runs(capsys):
    assert told(capsys, "lora.r").splitlines() == [
        "lora.r",
        "  what it does  Rank of each adapter; trained parameters grow with it.",
        "  may be        whole number ≥ 1",
        "  is            16",
        "  read by       train",
        "  a change runs train; evaluate and export, if the adapter changes",
    ]


@pytest.mark.parametrize("key", list(keys()))
def test_every_key_can_be_explained_within_a_screen(capsys, key):
    lines = told(capsys, key).splitlines()
    assert max(map(len, lines)) <= 100
    assert len(lines) <= 16


def test_a_section_and_all_are_listed(capsys):
    assert [line.split()[0] for line in told(capsys, "split").splitlines()] == [
        key for key in keys() if key.startswith("split.")
    ]
    assert [line.split()[0] for line in told(capsys).splitlines()] == list(keys())


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        ("learning_rate", "train.learning_rate"),
        ("lora.rr", "lora.r"),
        ("train.learning_rat", "train.learning_rate"),
        ("sizepx", "image.size_px"),
        ("Train", "did you mean train"),
        ("x\x1b[2J", "`vitlora params` lists them"),
    ],
)
def test_a_wrong_key_is_refused_with_the_nearest(capsys, wrong, cure):
    with pytest.raises(VitloraError) as refused:
        told(capsys, wrong)
    assert cure in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_a_preset_keeps_the_schema_in_editors_and_what_was_not_committed(tmp_path, monkeypatch, capsys):
    (tmp_path / "presets").mkdir()
    for path in (ROOT / "presets").glob("*.yaml"):
        (tmp_path / "presets" / path.name).write_text(path.read_text())
    monkeypatch.chdir(tmp_path)
    own = f"{(ROOT / 'presets/digits.yaml').read_text()}# mine\n"
    (tmp_path / "params.yaml").write_text(own)
    for name in ("folder-offline", "folder"):  # a preset's own text is not kept
        args = command_line(["preset"]).parse_args(["preset", name])
        args.act(args)
    (tmp_path / "params.yaml").write_text("train: {}\n")
    args.act(args)
    assert [(tmp_path / f".work/params-{number}.yaml").read_text() for number in (0, 1)] == [own, "train: {}\n"]
    assert capsys.readouterr().out.count("is kept as .work/params-") == 2
    assert "# yaml-language-server: $schema=params.schema.json\n" in (tmp_path / "params.yaml").read_text()
