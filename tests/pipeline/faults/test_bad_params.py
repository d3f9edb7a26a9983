"""Bad parameter files are refused by the stages themselves, at once and before any data; good ones are let through."""

import re
import time

import param_files as files
import pytest
import tiny
from faults.harness import repro, stage_command
from ruamel.yaml import YAML

LIMIT_S = 5.0
TYPES = (
    files.WHOLE,
    files.NUMBER,
    files.SWITCH,
    files.WORD,
    files.TARGETS,
    "not empty",
    "a list, such as",
    "two numbers",
)
ODD = {name: text for name, (text, _) in files.ODD_FILES.items()}
VALUES = {f"{key} {value}": (files.changed(key, value), rule) for key, value, _, rule in files.BAD_VALUES}
KINDS = {name: text for name, (text, rule) in VALUES.items() if rule.startswith(TYPES)}
RANGES = {name: text for name, (text, _) in VALUES.items() if name not in KINDS}
PAIRS = {" ".join(each[0]): files.changed_all(each[0]) for each in files.NOT_TOGETHER}
GOOD = {f"{key} {value}": files.changed(key, value) for key, value, _ in files.GOOD_VALUES}
GOOD |= {name: files.changed_all(values) for name, values in files.GOOD_FILES.items()}
STAGES = ("train", "download")


def many(texts, quick=1):
    return [
        pytest.param(number, text, id=name, marks=() if number < quick else pytest.mark.faults)
        for number, (name, text) in enumerate(texts.items())
    ]


def refused_at_once(tmp_path, number, text):
    begun = time.monotonic()
    done = files.run_stage(STAGES[number % 2], text, tmp_path)
    assert time.monotonic() - begun <= LIMIT_S
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith(f"error: {tmp_path}/p.yaml: ") for line in lines), done.stderr
    assert done.stdout == ""


@pytest.mark.survives("F27", "a parameter file that is odd as a whole: refused within 5 s, before data")
@pytest.mark.parametrize(("number", "text"), many(ODD))
def test_an_odd_file_is_refused_by_the_stage(tmp_path, number, text):
    refused_at_once(tmp_path, number, text)


@pytest.mark.survives("F28", "a parameter of another kind: refused within 5 s, before data, not coerced")
@pytest.mark.parametrize(("number", "text"), many(KINDS))
def test_a_value_of_another_kind_is_refused_by_the_stage(tmp_path, number, text):
    refused_at_once(tmp_path, number, text)


@pytest.mark.survives("F29", "a parameter out of range, or two that don't go together: refused within 5 s")
@pytest.mark.parametrize(("number", "text"), many({**RANGES, **PAIRS}))
def test_a_value_out_of_range_is_refused_by_the_stage(tmp_path, number, text):
    refused_at_once(tmp_path, number, text)


@pytest.mark.survives("F27-F29", "a good parameter file: let through to the data")
@pytest.mark.parametrize(("number", "text"), many(GOOD))
def test_a_good_file_is_let_through_by_the_stage(tmp_path, number, text):
    done = files.run_stage("train", text, tmp_path)
    assert f"error: {tmp_path}/base: missing" in done.stderr, done.stderr


AGAINST_BASE = [
    ("F29", {"lora.r": 33}, "lora.r: got 33; the rule: no larger than the base model's layers, 32"),
    ("F29", {"image.size_px": 36}, "image.size_px: got 36; the rule: a multiple of the base model's patch, 8 px"),
    ("F30", {"lora.target_modules": ["nothing"]}, "nothing"),
    ("F30", {"lora.target_modules": ["query", "valeu"]}, "valeu"),
    ("F30", {"lora.target_modules": "no.such.layer"}, "no.such.layer"),
    ("F31", {"lora.modules_to_save": ["head"]}, "head"),
    ("F31", {"lora.modules_to_save": ["layernorm"]}, "classifier"),
]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        pytest.param(
            values,
            said,
            marks=[pytest.mark.faults, pytest.mark.survives(fault, "a parameter that the base model refutes: refused")],
        )
        for fault, values, said in AGAINST_BASE
    ],
)
def test_what_the_base_model_refutes_is_refused_by_train(project, values, said):
    tiny.set_params(project / "params.yaml", values)
    done = tiny.run(project, *stage_command("train"), env={"PYTHONPATH": "src"})
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines, done.stderr
    assert said in lines[0]


@pytest.mark.survives("F32", "5e-5, 1e-3 and 5e-05 by -S: a number")
@pytest.mark.faults
@pytest.mark.parametrize("text", ["5e-5", "1e-3", "5e-05"])
def test_a_number_in_any_spelling_reaches_the_optimiser(project, text):
    done = tiny.run(project, tiny.DVC, "exp", "run", "-S", f"train.learning_rate={text}", "train")
    assert done.returncode == 0, done.stderr
    assert YAML(typ="safe").load(project / "params.yaml")["train"]["learning_rate"] == float(text)
    rates = re.findall(r"(?m)^\d+,[\d.]+,[^,]+,([^,]+),", (project / "metrics/train/plots/steps.csv").read_text())
    assert max(map(float, rates)) == pytest.approx(float(text), rel=0.5)


@pytest.mark.survives("F33", "a batch larger than the data: trains on one batch an epoch")
@pytest.mark.faults
@pytest.mark.parametrize("size", [28, 512])
def test_a_batch_larger_than_the_data_trains(project, size):
    tiny.set_params(project / "params.yaml", {"train.per_device_train_batch_size": size})
    repro(project, "train")
    assert len((project / "metrics/train/plots/steps.csv").read_text().splitlines()) == 1 + 2
