"""What has no effect is said, and said once."""

import subprocess
from typing import get_args

import pytest
from param_files import TEXT, changed_all

from vitlora.core.params import load_params, read_document
from vitlora.model.methods import configure
from vitlora.model.params import MIXTURES, PLAIN, UNREAD, WITHOUT_ADAPTER, Method
from vitlora.safety.announce import announce
from vitlora.train.params import TrainStage

OTHER = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.25, "bias": "all", "use_rslora": True}
WITH_CONFIG = [name for name in get_args(Method) if name not in (*MIXTURES, *WITHOUT_ADAPTER)]


def section(tmp_path, changes):
    path = tmp_path / "p.yaml"
    path.write_text(changed_all({f"lora.{key}": str(value).lower() for key, value in changes.items()}))
    return load_params(TrainStage, read_document(path), path).lora


@pytest.mark.parametrize("method", WITH_CONFIG)
def test_the_keys_said_to_have_no_effect_are_those_that_leave_pefts_config_as_it_is(tmp_path, method):
    def config(**changes):
        lora = section(tmp_path, {"method": method, **changes})
        return configure(lora, ["a.q_proj"], ["classifier"], 100).to_dict()

    idle = {key for key in PLAIN if config(**{key: OTHER[key]}) == config()}
    assert idle == set(UNREAD.get(method, ())) & set(PLAIN)


IDLE = {
    "warmup_steps": {"lr_scheduler_type": "constant", "warmup_steps": "0.1"},
    "early_stopping_patience": {"early_stopping_patience": "3", "num_train_epochs": "3"},
    "soup_size": {"soup_size": "2", "num_train_epochs": "1"},
    "metric_for_best_model": {"load_best_model_at_end": "false"},
}
BUSY = [
    {"lr_scheduler_type": "constant", "warmup_steps": "0"},
    {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": "0.1"},
    {"early_stopping_patience": "2", "num_train_epochs": "3"},
    {"soup_size": "2", "num_train_epochs": "2"},
]


def train(tmp_path, changes):
    path = tmp_path / "p.yaml"
    path.write_text(changed_all({f"train.{key}": value for key, value in changes.items()}))
    return load_params(TrainStage, read_document(path), path).train


@pytest.mark.parametrize("key", IDLE)
def test_keys_of_train_that_others_leave_without_effect(tmp_path, key):
    assert list(train(tmp_path, IDLE[key]).without_effect) == [key]


@pytest.mark.parametrize("changes", BUSY)
def test_keys_of_train_that_have_an_effect(tmp_path, changes):
    assert train(tmp_path, changes).without_effect == {}


def test_a_value_of_null_is_no_setting_that_could_have_an_effect(tmp_path):
    lora = section(tmp_path, {"method": "head", "target_modules": "null"})
    assert lora.without_effect == list(PLAIN)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(TEXT)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        subprocess.run(["git", *words], check=True)
    return tmp_path


def test_nothing_is_said_where_nothing_was_changed(project, capsys):
    announce(project)
    assert capsys.readouterr().out == ""


def test_the_stages_of_a_run_say_it_once_and_again_when_it_is_another(project, capsys):
    (project / "params.yaml").write_text(changed_all({"lora.method": "loha", "lora.r": "32"}))
    for _ in range(5):
        announce(project)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert out.splitlines()[:3] == [
        "parameters that differ from the last commit:",
        '  lora.method: "lora" -> "loha"',
        "  lora.r: 16 -> 32",
    ]
    assert out.count("no effect, since lora.method loha does not read them:\n  r: 32, lora_alpha: 16, ") == 1
    assert out.endswith("it reads lora.options:\n  r: 8, alpha: 8, rank_dropout: 0.0, module_dropout: 0.0\n")
    (project / "params.yaml").write_text(changed_all({"lora.r": "8"}))
    announce(project)
    assert capsys.readouterr().out == "parameters that differ from the last commit:\n  lora.r: 16 -> 8\n"


@pytest.mark.parametrize("rate", [None, "1e-4"])
def test_another_method_at_the_same_rate_is_said(project, capsys, rate):
    changes = {"lora.method": "full", **({"train.learning_rate": rate} if rate else {})}
    (project / "params.yaml").write_text(changed_all(changes))
    announce(project)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert ("note: lora.method is another, train.learning_rate is not" in out) == (rate is None)


def test_a_key_of_train_without_effect_is_said_with_its_reason(project, capsys):
    (project / "params.yaml").write_text(changed_all({"train.lr_scheduler_type": "constant"}))
    announce(project)
    out = capsys.readouterr().out
    expected = "  warmup_steps: 0.1, for constant has no warm-up; constant_with_warmup has\n"
    assert out.endswith("these keys of train have no effect:\n" + expected)
