"""What -S may say, and what is refused before the first experiment."""

import re

import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.experiments.grid import identity, members, read_grid, refuse_mistakes, varied

MANY = ",".join(map(str, range(1000)))


@pytest.fixture
def document(project):
    return read_document(tiny.DIGITS)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("lora.r=4,8,16", [4, 8, 16]),
        ("lora.r=8", [8]),
        ("train.seed=2, 0 ,1", [2, 0, 1]),
        ("train.weight_decay=0,0.1", [0.0, 0.1]),
        ("train.head_learning_rate=null,1e-3", [None, 0.001]),
        ("lora.use_rslora=true,false", [True, False]),
        ("lora.target_modules=[query, value],attention", [["query", "value"], "attention"]),
        ("export.formats=[transformers],[transformers, onnx]", [["transformers"], ["transformers", "onnx"]]),
        ('data.path="a, b",c d,Größe (1)', ["a, b", "c d", "Größe (1)"]),
    ],
)
def test_values_are_read_as_params_yaml_has_them(word, values):
    assert read_grid([word]) == {word.partition("=")[0]: values}


@pytest.mark.parametrize(
    ("word", "said", "cure"),
    [
        ("lora.rank=4,8", "got lora.rank; the rule: a key of params.yaml; did you mean lora.r?", "lora.r=4,8"),
        ("train.sead=0,1", "did you mean train.seed?", "train.seed=0,1"),
        ("zzz=1", "`vitlora params` lists them", "lora.r=1"),
        ("lora.r", "has no value; the rule: KEY=VALUES, such as lora.r=4,8,16", "lora.r=4,8,16"),
        ("lora.r=", "has no value", "lora.r=4"),
        ("lora.target_modules=[query,value", "can't be read", "lora.target_modules=[query],[value]"),
        ("train.class_weights=none,{a: 2}", "got a mapping", "train.class_weights=none,balanced"),
        (
            f"train.seed={MANY}",
            "1,000 combinations; the rule: at most 999",
            "train.seed=0,1",
        ),
    ],
)
def test_a_word_that_says_nothing_is_refused_and_the_cure_helps(word, said, cure):
    with pytest.raises(VitloraError, match=re.escape(said)) as caught:
        read_grid([word])
    assert str(caught.value).startswith("-S")
    assert read_grid([cure])


@pytest.mark.parametrize(
    ("words", "said", "cure"),
    [
        (["lora.r=4,0", "train.seed=0,1"], r"-S lora\.r: got 0; .* \(2 of 4 experiments, such as .*=0 ", ["lora.r=4"]),
        (["train.seed=0,x"], r'-S train\.seed: got "x"; the rule: a whole number', ["train.seed=0,7"]),
        (["data.path=nowhere"], r"data\.path: got nowhere|data\.path", ["split.seed=1,2"]),
        (["train.swa_epoch_start=2,5"], r"below num_train_epochs", ["train.swa_epoch_start=1,2"]),
        (["export.formats=[onx]"], r"-S export\.formats", ["export.formats=[onnx]"]),
        (["train.teacher=models/export"], r"-S train\.teacher: got models/export", ["train.teacher=models/export@abc"]),
    ],
)
def test_each_mistake_is_named_with_an_experiment_that_has_it(document, words, said, cure, project):
    (project / "models/export").mkdir(parents=True)
    with pytest.raises(VitloraError, match=said):
        refuse_mistakes(document, members(read_grid(words)))
    refuse_mistakes(document, members(read_grid(cure)))


def test_every_mistake_is_named_once(document):
    with pytest.raises(VitloraError) as caught:
        refuse_mistakes(document, members(read_grid(["lora.r=0,1,-2", "train.seed=0,1,2", "evaluate.top_k=0,1"])))
    lines = str(caught.value).split("\n")
    assert len(lines) == 3
    assert [re.findall(r"got (-?\d+)", line) for line in lines] == [["0"], ["0"], ["-2"]]


def test_a_folder_of_which_git_keeps_a_part_is_refused(document, project):
    for name in ("1.png", "2.png"):
        (project / "mine").mkdir(exist_ok=True)
        (project / "mine" / name).write_text(name)
    tiny.git(project, "add", "mine/1.png")
    with pytest.raises(VitloraError, match=r"data\.path: got mine, of which Git keeps a part") as caught:
        refuse_mistakes(document, [{"data.source": "folder", "data.path": "mine"}])
    cure = re.findall(r"Give the whole path: (\S+)", str(caught.value))
    refuse_mistakes(document, [{"data.source": "folder", "data.path": cure[0]}])


def test_the_grid_is_every_combination_the_last_key_first():
    found = members(read_grid(["lora.r=4,8", "train.num_train_epochs=1", "train.seed=0,1"]))
    assert [tuple(each.values()) for each in found] == [(4, 1, 0), (4, 1, 1), (8, 1, 0), (8, 1, 1)]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lora.r=4,8,4", "note: -S lora.r: 4 is there 2 times; it counts once\n"),
        ("train.weight_decay=0,0.0,0.1", "note: -S train.weight_decay: 0.0 is there 2 times; it counts once\n"),
        ("lora.target_modules=[query],[query],null,[ query ]", '["query"] is there 3 times'),
        ("lora.r=4,8", ""),
    ],
)
def test_equal_values_count_once_and_that_is_said(capsys, word, said):
    assert len(members(read_grid([word]))) == 2
    assert said in capsys.readouterr().out
    assert said or not capsys.readouterr().out


def test_what_varies_and_what_is_equal_is_told_by_the_whole_parameters(document):
    every = members(read_grid(["lora.r=4,8", "train.num_train_epochs=1", "train.seed=0,1"]))
    assert varied(every, document) == ["lora.r", "train.seed"]
    assert varied([{"lora.r": 16}, {"train.seed": 1}], document) == ["train.seed"]  # 16 is the document's own
    assert identity(document, {"lora.r": 4}) == identity(document, {"lora.r": 4, "train.seed": 0})
    assert len({identity(document, values) for values in every}) == 4
