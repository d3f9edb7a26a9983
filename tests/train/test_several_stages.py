"""The stages' own commands with two processes: on two GPUs by NCCL and captured, where there are, else on the CPU."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tiny
import torch
from training import hashes_of

from vitlora.core.files import read_csv, read_json

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.faults,
    pytest.mark.skipif(GPUS == 1, reason="needs two CUDA devices, or none; this machine has one"),
]
TWO = {**tiny.PARAMS, "train.num_processes": 2, "train.full_determinism": GPUS > 0, "train.fp16": GPUS > 0}
OUTPUTS = [Path(name) for name in ("models/adapter", "metrics/train", "data/evaluated", "metrics/evaluate")]
STAGES = ("download", "preprocess", "train", "evaluate")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A function that begins a stage of the tiny project, after some parameters are set."""
    monkeypatch.chdir(tmp_path)
    tiny.make_images(tmp_path / "pictures")
    tiny.make_base(tmp_path / "tiny")
    Path("params.yaml").write_bytes(tiny.DIGITS.read_bytes())
    path = os.pathsep.join([str(tiny.ROOT / "src"), str(tiny.ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**tiny.environment(tmp_path), "PYTHONPATH": path}

    def begin(name, **changes):
        tiny.set_params(Path("params.yaml"), {**TWO, **{key.replace("__", "."): v for key, v in changes.items()}})
        command = [sys.executable, *tiny.stage_arguments(name)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True, process_group=0)

    return begin


def end(process):
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def run(stage, *names, **changes):
    for name in names:
        code, out, err = end(stage(name, **changes))
        assert code == 0, out + err
    return out


def curve():
    return [(float(row["loss"]), float(row["grad_norm"])) for row in read_csv(Path("metrics/train/plots/steps.csv"))]


@pytest.mark.parametrize(
    "way",
    [
        {"train__step": "fused"},
        {"train__step": "fused", "train__cuda_graph": False},
        {"train__step": "eager", "lora__lora_dropout": 0.0},
        {"train__step": "compiled", "lora__lora_dropout": 0.0, "train__bf16": True, "train__fp16": False},
        {"train__per_device_train_batch_size": 3, "train__gradient_accumulation_steps": 4, "augment__mixup_alpha": 0.3},
        {"lora__method": "adalora", "lora__options": {"target_r": 1, "init_r": 3}, "lora__lora_dropout": 0.0},
        {"train__ema_decay": 0.9},
    ],
    ids=lambda way: ", ".join(f"{key.split('__')[1]}={value}" for key, value in way.items()),
)
def test_two_processes_learn_and_score_what_one_does(stage, way):
    if way.get("train__bf16") and not GPUS:
        way = {**way, "train__bf16": False}
    run(stage, *STAGES, train__num_processes=1, **way)
    alone, metrics = curve(), read_json(Path("metrics/train/metrics.json"))
    scores, logits = hashes_of(*OUTPUTS[2:]), np.load("data/evaluated/test_logits.npy")
    run(stage, "train", **way)
    assert read_json(Path("metrics/train/metrics.json"))["num_processes"] == 2
    assert read_json(Path("metrics/train/metrics.json"))["cuda_graph"] == metrics["cuda_graph"]
    assert curve() == [pytest.approx(point, rel=2e-2 if GPUS else 2e-3) for point in alone]
    run(stage, "evaluate", **way)
    assert np.abs(np.load("data/evaluated/test_logits.npy") - logits).max() < (5e-2 if GPUS else 1e-4)
    both = hashes_of(*OUTPUTS[2:])
    run(stage, "evaluate", train__num_processes=1, **way)
    assert hashes_of(*OUTPUTS[2:]) == both, "one process scores the same adapter to the same bytes"
    assert set(both) == set(scores)


def checkpoint(process, least):
    """Wait for a checkpoint of so many steps."""
    while not any(int(path.name) >= least for path in Path(".work/checkpoints").glob("*/0*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def members(process):
    return psutil.Process(process.pid).children()


LONG = {"train__num_train_epochs": 40, "train__save_steps": 1, "train__logging_steps": 50}


@pytest.mark.survives("F06", "SIGTERM to a train stage of two processes: exit 143, one line, same bytes afterwards")
@pytest.mark.survives(
    "F07", "a process of two killed in the train stage: the stage ends with it, same bytes afterwards"
)
def test_a_stage_that_is_stopped_or_loses_a_process_goes_on_to_the_same_bytes(stage):
    run(stage, *STAGES[:3], **LONG)
    golden = hashes_of(*OUTPUTS[:2])
    assert hashes_of(*OUTPUTS[:2]) == golden
    train = stage("train", **LONG)
    checkpoint(train, 20)
    train.send_signal(signal.SIGTERM)
    code, out, err = end(train)
    assert code == 143, out + err
    assert err.count("stopped after step") == 1
    train = stage("train", **LONG)
    checkpoint(train, 60)
    lost = members(train)
    began = time.monotonic()
    lost[1].kill()
    code, out, err = end(train)
    assert code == 137, out + err
    assert "train: process 2 of 2 has been ended by signal 9 (Killed), and the others with it" in err
    assert "Traceback" not in err
    assert time.monotonic() - began < 30  # the rule of the house
    assert not psutil.wait_procs(lost, 5)[1]
    assert "resuming after step" in run(stage, "train", **LONG)
    assert hashes_of(*OUTPUTS[:2]) == golden


@pytest.mark.survives("F03", "the launcher of a train stage of two processes killed: none lives on, same bytes")
def test_a_launcher_that_is_killed_takes_its_processes_with_it(stage):
    run(stage, *STAGES[:3], **LONG)
    golden = hashes_of(*OUTPUTS[:2])
    train = stage("train", **LONG)
    checkpoint(train, 20)
    below = psutil.Process(train.pid).children(recursive=True)
    train.kill()
    end(train)
    assert not psutil.wait_procs(below, 5)[1]
    run(stage, "train", **LONG)
    assert hashes_of(*OUTPUTS[:2]) == golden


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__warmup_steps": 500.0}, "error: train.warmup_steps: got 500, and the run has"),
        (
            {"lora__target_modules": ["nothing_is_called_so"]},
            "error: lora.target_modules: ",
        ),
        (
            {"augment__mixup_alpha": 0.3},
            "error: train.num_processes: got 2; the rule: at most 1, since a step has 1 group of 8 images, within "
            "which images are mixed; lower train.per_device_train_batch_size, and raise train.gradient_accumulation",
        ),
        ({"train__num_processes": 0}, "error: params.yaml: train.num_processes: got 0; the rule:"),
        ({"train__num_processes": "all"}, 'error: params.yaml: train.num_processes: got "all"; the rule:'),
        ({"train__num_processes": 2.0}, "error: params.yaml: train.num_processes: got 2.0; the rule:"),
        (
            {"train__num_processes": 9},
            "error: train.num_processes: got 9" + ("" if GPUS else "; the rule: at most 8, the images of a step"),
        ),
    ],
)
def test_a_mistake_in_the_parameters_is_told_once(stage, changes, said):
    run(stage, *STAGES[:2])
    code, _, err = end(stage("train", **changes))
    assert code == 1
    assert err.startswith(said)
    assert "Traceback" not in err
    assert err.count("error: ") == 1


def test_what_is_mixed_trains_in_two_processes_after_the_cure(stage):
    cure = {"train__per_device_train_batch_size": 4, "train__gradient_accumulation_steps": 2}
    run(stage, *STAGES[:3], augment__mixup_alpha=0.3, **cure)
    assert read_json(Path("metrics/train/metrics.json"))["num_processes"] == 2
