"""The Trainer around our batches: micro-batches, timing, and what the section is turned into."""

import math
from types import SimpleNamespace

import pytest
import tiny
import torch
from safetensors.torch import load_file

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.params import load_params, read_document
from vitlora.download.params import DownloadStage
from vitlora.download.stage import download
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import TRAIN_COLUMNS, preprocess
from vitlora.storage.packed import write_packed
from vitlora.train.callbacks import TimeLimit
from vitlora.train.params import TrainStage
from vitlora.train.stage import _announce, _best, _smaller, curves, get_ready, loader_workers, train, training_arguments
from vitlora.train.timing import TIMINGS

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A tiny base model and prepared pictures, in the order that train takes them."""
    root = tmp_path_factory.mktemp("prepared")
    tiny.make_images(root / "pictures")
    tiny.make_base(root / "tiny")
    document = parameters(root, {"data.path": str(root / "pictures"), "model.path": str(root / "tiny")})
    fetch = load_params(DownloadStage, document, root)
    download(fetch.data, fetch.model, root / "raw", root / "base")
    made = load_params(PreprocessStage, document, root)
    outs = [root / name for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
    preprocess(made.ingest, made.image, made.split, root / "raw", *outs)
    return root / "base", root / "train", root / "val", root / "labels.json"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # checkpoints and timings go below the working directory


def parameters(folder, changes: dict) -> dict:
    path = folder / "params.yaml"
    path.write_bytes(tiny.DIGITS.read_bytes())
    tiny.set_params(path, {**tiny.PARAMS, "train.num_train_epochs": 1, **changes})
    return read_document(path)


def trained(folder, inputs, name: str, changes: dict) -> tuple[dict, dict]:
    """Train, and return the adapter's tensors and the metrics."""
    stage = load_params(TrainStage, parameters(folder, changes), folder)
    out = folder / name
    train(stage.augment, stage.lora, stage.train, *inputs, out / "adapter", out / "metrics.json", out / "plots")
    return load_file(out / "adapter/adapter_model.safetensors"), read_json(out / "metrics.json")


@pytest.mark.slow
def test_accumulated_micro_batches_give_the_gradient_of_one_large_batch(inputs, tmp_path):
    whole, _ = trained(tmp_path, inputs, "whole", {"lora.lora_dropout": 0.0, "train.per_device_train_batch_size": 8})
    small = {"train.per_device_train_batch_size": 2, "train.gradient_accumulation_steps": 4}
    parts, metrics = trained(tmp_path, inputs, "parts", {"lora.lora_dropout": 0.0, **small})
    assert (metrics["micro_batch"], metrics["steps"]) == (2, 4)  # joined on GPUs only
    assert whole.keys() == parts.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(parts[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "mixup", "expected"), [(512, 0.0, 256), (3, 0.0, 1), (1, 0.0, 0), (512, 0.2, 128), (128, 0.2, 0)]
)
def test_images_that_are_mixed_stay_together_whatever_memory_holds(tmp_path, images, mixup, expected):
    changes = {"train.per_device_train_batch_size": 128, "augment.mixup_alpha": mixup}
    stage = load_params(TrainStage, parameters(tmp_path, changes), tmp_path)
    assert _smaller(images, stage.augment, stage.train) == expected


@pytest.mark.parametrize(("minutes", "epochs"), [(1e-6, 1), (1000, 3)])
def test_a_run_ends_after_the_last_epoch_that_fits_with_the_best_so_far(inputs, tmp_path, capsys, minutes, epochs):
    changes = {"train.num_train_epochs": 3, "train.max_minutes": minutes, "train.early_stopping_patience": None}
    _, metrics = trained(tmp_path, inputs, "run", changes)
    assert (metrics["epochs"], metrics["best_epoch"] <= epochs) == (epochs, True)
    assert (
        "note: stopped after epoch 1 of 3: another would end later than train.max_minutes" in capsys.readouterr().out
    ) == (epochs == 1)


def test_an_epoch_that_was_interrupted_counts_whole(monkeypatch):
    """50 s, and epochs of 20 s: the third does not fit, also where the second goes on after 19 of its 20 s."""
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("vitlora.train.callbacks.time", clock)
    args, state = SimpleNamespace(num_train_epochs=9), SimpleNamespace(epoch=1, global_step=1, max_steps=9)
    control = SimpleNamespace(should_training_stop=False)
    first, second = TimeLimit(50 / 60), TimeLimit(50 / 60)
    first.on_train_begin(args, state, control)
    clock.now += 20
    first.on_evaluate(args, state, control)
    assert not control.should_training_stop
    clock.now += 19
    kept, clock.now = first.kept, 1000.0
    second.on_train_begin(args, state, control)
    second.kept = kept
    clock.now += 1
    second.on_evaluate(args, state, control)
    assert control.should_training_stop


def test_metrics_say_how_it_ran_and_timings_lie_beside_them(inputs, tmp_path):
    _, metrics = trained(tmp_path, inputs, "run", {"train.decoder": "pil", "train.num_train_epochs": 2})
    assert {name: metrics[name] for name in ("decoder", "device", "precision", "step")} == (
        {"decoder": "pil", "device": "cpu", "precision": "fp32", "step": "eager"}
        if not torch.cuda.is_available()
        else {"decoder": "pil", "device": "cuda", "precision": "fp32", "step": "eager"}
    )
    rows = TIMINGS.read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["epoch", "1", "2"]


def test_the_epoch_that_is_recorded_is_the_one_kept_where_losses_differ_in_their_fifth_digit(tmp_path):
    rows, history = validated((1.09871, 0.5), (1.09869, 0.6), (1.09874, 0.7))
    assert len({row[3] for row in rows}) == 1
    changes = [{"metric_for_best_model": "loss"}, {}, {"load_best_model_at_end": False}]
    stages = [
        load_params(TrainStage, parameters(tmp_path, {f"train.{key}": value for key, value in each.items()}), tmp_path)
        for each in changes
    ]
    assert [_best(rows, history, stage.train)["best_epoch"] for stage in stages] == [2, 3, 3]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_an_epoch_whose_loss_on_val_is_no_number_is_not_kept(tmp_path, metric):
    stage = load_params(TrainStage, parameters(tmp_path, {"train.metric_for_best_model": metric}), tmp_path)
    rows, history = validated((math.nan, 0.3), (1.2, 0.5), (math.inf, 0.4))
    assert _best(rows, history, stage.train)["best_epoch"] == 2
    with pytest.raises(VitloraError, match=r"epoch 1, which would be kept: val loss is nan.*bf16 or fp32"):
        _best(*validated((math.nan, 0.5), (math.nan, 0.5)), stage.train)


def validated(*scores):
    """Return what training has of epochs: their rows, and its log."""
    history = [
        {"epoch": epoch, "step": epoch, "eval_loss": loss, "eval_accuracy": right, "eval_balanced_accuracy": right}
        for epoch, (loss, right) in enumerate(scores, 1)
    ]
    return curves(history)[1], history


def test_an_empty_training_split_is_refused(inputs, tmp_path):
    base, _, val, labels = inputs
    write_packed(tmp_path / "none", TRAIN_COLUMNS, [])
    stage = load_params(TrainStage, parameters(tmp_path, {}), tmp_path)
    with pytest.raises(VitloraError, match="no image to train on"):
        get_ready(stage.augment, stage.lora, stage.train, base, tmp_path / "none", val, labels)


def ready(inputs, tmp_path, changes):
    stage = load_params(TrainStage, parameters(tmp_path, changes), tmp_path)
    base, images, val, labels = inputs
    return get_ready(stage.augment, stage.lora, stage.train, base, images, val, labels), stage.train


@pytest.mark.parametrize("scheduler", ["linear", "cosine", "polynomial", "inverse_sqrt", "constant_with_warmup"])
@pytest.mark.parametrize("steps", [500, 6])
def test_a_warm_up_as_long_as_the_run_is_refused(inputs, tmp_path, scheduler, steps):
    changes = {"train.warmup_steps": steps, "train.lr_scheduler_type": scheduler, "train.num_train_epochs": 2}
    with pytest.raises(
        VitloraError, match=rf"train\.warmup_steps: got {steps}, and the run has \d steps \(2 epochs of \d"
    ):
        ready(inputs, tmp_path, {**changes, "train.per_device_train_batch_size": 100 if steps == 6 else 8})


@pytest.mark.parametrize("changes", [{"train.lr_scheduler_type": "constant"}, {"train.warmup_steps": 0.99}])
def test_a_warm_up_that_is_not_read_or_a_fraction_is_taken(inputs, tmp_path, changes):
    ready(inputs, tmp_path, {"train.warmup_steps": 500, **changes})


@pytest.mark.parametrize("large", [{"per_device_train_batch_size": 500}, {"gradient_accumulation_steps": 99}])
def test_steps_larger_than_the_data_are_said_to_be_one_an_epoch(inputs, tmp_path, capsys, large):
    made, section = ready(inputs, tmp_path, {f"train.{key}": value for key, value in large.items()})
    _announce(made, section)
    note = capsys.readouterr().out.splitlines()[1]
    assert note.startswith(f"note: {len(made.images)} training images and steps of ")
    assert "each epoch is one step of all images" in note


def test_steps_that_the_data_fills_are_not_remarked_on(inputs, tmp_path, capsys):
    _announce(*ready(inputs, tmp_path, {}))
    assert "note:" not in capsys.readouterr().out


@pytest.mark.parametrize(("asked", "gpu", "expected"), [(None, False, 0), (None, True, 14), (3, True, 3), (0, True, 0)])
def test_loader_workers_are_those_asked_for_or_what_the_machine_bears(monkeypatch, tmp_path, asked, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr("vitlora.train.stage.cores", lambda: 32)
    section = load_params(TrainStage, parameters(tmp_path, {"train.dataloader_num_workers": asked}), tmp_path).train
    assert loader_workers(section) == expected


def test_one_gpu_is_used_and_the_section_reaches_the_trainer(tmp_path):
    section = load_params(TrainStage, parameters(tmp_path, {"train.seed": 7}), tmp_path).train
    arguments = training_arguments(section, (24, 2))
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps, arguments.seed) == (24, 2, 7)
    assert arguments.n_gpu <= 1
