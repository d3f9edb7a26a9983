"""What ``-S`` says is read before DVC reads it: paths need no quotes, mistakes are named with a form that works."""

import shlex
import shutil
import string

import pytest
import tiny
from dvc.utils.hydra import to_hydra_overrides

from vitlora.core.errors import VitloraError
from vitlora.safety.overrides import quote, ready

ODD = [*string.punctuation.replace("/", ""), " ", "ü", "森", "é", "\N{WAVING HAND SIGN}", "  ", "'\"", '\\"', "${x}"]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy2(tiny.DIGITS, "params.yaml")
    return tmp_path


def value(override):
    (found,) = to_hydra_overrides([override])
    return found.value()


def refused(*given, queue=False):
    with pytest.raises(VitloraError) as caught:
        ready(given, queue)
    return str(caught.value).split("\n")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("key", ["data.path", "model.path", "params.yaml:data.path", "++data.path"])
@pytest.mark.parametrize("queue", [False, True])
def test_a_path_that_is_there_is_taken_as_it_stands(project, odd, key, queue):
    for name in (f"a{odd}b", f"{odd}a", f"a{odd}"):
        path = project / name
        path.mkdir()
        (override,) = ready([f"{key}={path}"], queue)
        assert value(override.removeprefix("params.yaml:").lstrip("+")) == str(path)


@pytest.mark.parametrize("odd", ODD)
def test_a_text_that_hydra_cannot_read_is_refused_with_a_form_that_works(odd):
    text = f"/no/where{odd}({odd}2024)"
    (line,) = refused(f"data.path={text}")
    assert line.endswith(f"; the rule: such a text in quotes: {quote('data.path', text)}")
    _, override = shlex.split(quote("data.path", text))
    assert value(override) == text
    assert ready([override], False) == [override]


@pytest.mark.parametrize("text", ["'my pets'", '"my pets (2024)"', "my\\ pets", "null"])
def test_what_is_quoted_already_stays(text):
    assert ready([f"data.path={text}"], False) == [f"data.path={text}"]


MISSPELT = {
    "lora.rank": "lora.r",
    "lroa.r": "lora.r",
    "r": "lora.r",
    "learning_rate": "train.learning_rate",
    "train.lr_scheduler": "train.lr_scheduler_type",
    "train.lora_alpha": "lora.lora_alpha",
    "lora.alpha": "lora.lora_alpha",
    "image.size": "image.size_px",
    "train.epochs": "train.num_train_epochs",
    "data.pth": "data.path",
    "params.yaml:split.sead": "split.seed",
}


@pytest.mark.parametrize("key", MISSPELT)
def test_a_key_that_is_not_there_is_refused_with_the_nearest(key):
    (line,) = refused(f"{key}=8")
    assert line == f"-S {key}=8: params.yaml has no such key; the rule: a known name; did you mean {MISSPELT[key]}?"
    assert ready([f"{MISSPELT[key]}=8"], False) == [f"{MISSPELT[key]}=8"]


def test_a_key_like_no_other_is_refused_with_those_there_are():
    (line,) = refused("split.zzzzzzzz=8")
    assert line.endswith("; the rule: one of seed, val_from, val_fraction, test_fraction, max_per_class")


REFUSED = {
    "lora.r": "-S lora.r: has no `=`; the rule: -S KEY=VALUE, such as -S lora.r=8",
    "other.yaml:lora.r=8": "-S other.yaml:lora.r=8: there is no other.yaml; without it, params.yaml is meant",
    "lora.options.target_r=4": "-S lora.options.target_r=4: lora.options has no such key yet; a new one needs a plus: "
    "-S +lora.options.target_r=4",
    "lora.r=2,4": "-S lora.r=2,4: several values, each for an experiment, need --queue; one text with a comma needs "
    "quotes: -S 'lora.r=\"2,4\"'",
    "train.seed=range(3)": "-S train.seed=range(3): several values, each for an experiment, need --queue; one text "
    "with a comma needs quotes: -S 'train.seed=\"range(3)\"'",
}


@pytest.mark.parametrize("given", REFUSED)
def test_other_mistakes_are_refused_in_one_line(given):
    assert refused(given) == [REFUSED[given]]


def test_all_mistakes_are_told_each_on_its_line():
    assert [line.split(":")[0] for line in refused("lora.rank=8", "lora.r=8", "lora.r")] == [
        "-S lora.rank=8",
        "-S lora.r",
    ]


GOOD = [
    "lora.r=8",
    "data.path=https://example.org/a.zip",
    "+lora.options.adapters=[models/adapter@3f2a9c1,a@sha256:0]",
    "+lora.options.target_r=4",
    "lora.target_modules=[query,value]",
    "data.path=null",
    "~data.sha256",
]


@pytest.mark.parametrize(
    "given", [*GOOD, "lora.target_modules=attention", "train.learning_rate=5e-5", "lora.options={}"]
)
def test_what_is_right_passes_unchanged(given):
    assert ready([given], False) == [given]


def test_several_values_pass_where_they_are_queued():
    assert ready(["lora.r=2,4", "data.path=a,b"], True) == ["lora.r=2,4", "data.path=a,b"]


def test_a_mapping_does_not_silently_become_a_part_of_another(project):
    (line,) = refused("lora.options={target_r: 6}")
    assert line.endswith("new ones need a plus: -S '+lora.options={target_r: 6}'")
    added = "+lora.options={target_r: 6}"
    assert ready([added], False) == [added]
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("options: {}", "options: {target_r: 4, deltaT: 2}"))
    for text in ("{}", "{target_r: 6}", "{init_r: 8}"):
        (line,) = refused(f"lora.options={text}")
        assert "params.yaml has a mapping there already, with target_r, deltaT, to which -S would add" in line
    assert ready(["lora.options.target_r=6"], False) == ["lora.options.target_r=6"]


def test_names_of_a_mapping_need_no_quotes():
    (line,) = refused('train.class_weights={"0": 5}')
    assert "the names of a mapping without quotes" in line


@pytest.mark.parametrize("method", ["full", "head", "loha"])
def test_a_key_that_the_method_does_not_read_is_refused(project, method):
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("method: lora ", f"method: {method} "))
    lines = refused("lora.r=32", "lora.lora_alpha=8", "train.seed=3")
    assert [line.partition(";")[0] for line in lines] == ["-S lora.r=32: no effect", "-S lora.lora_alpha=8: no effect"]
    assert "add -S lora.method=lora, and a learning rate for it" in lines[0]
    assert refused("lora.r=8,32", queue=True)[0].startswith("-S lora.r=8,32: no effect")
    assert ready(["lora.r=32", "lora.method=lora"], False) == ["lora.r=32", "lora.method=lora"]
    assert ready(["lora.r=16", "lora.use_rslora=false"], False), "what stands there already is no mistake"
    assert ready(["lora.target_modules=[query,value]"], False)
