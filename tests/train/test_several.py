"""Several processes that share each step learn what one learns, and stop, resume and fail as one."""

import json
import re
import shutil
import signal
from contextlib import chdir
from pathlib import Path
from types import SimpleNamespace

import loading
import numpy as np
import pytest
import several
import torch
from safetensors.torch import load_file
from several import said, together
from training import PER_EPOCH, STEPS, evaluate_here, export_here, hashes, link

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json
from vitlora.model.batches import Feed
from vitlora.processes.launch import Place
from vitlora.processes.peers import ALONE, Peers
from vitlora.storage.manifest import digest
from vitlora.train.dataset import TrainLoader
from vitlora.train.sampling import epoch_numbers
from vitlora.train.shares import Share
from vitlora.train.stage import CHECKPOINTS, _check_shared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(torch.cuda.is_available(), reason="these share a CPU; GPUs have tests of their own"),
]
CLOSE = 1e-5
BOTH = pytest.mark.parametrize("count", [2, 3])


def weights():
    return load_file(next(Path("adapter").glob("*.safetensors")))


def assert_learns_the_same(counts, **changes):
    """Compare what one process and several compute and keep."""
    alone = several.fit(1, **changes)
    kept, metrics, epochs = weights(), read_json(Path("metrics.json")), list(read_csv(Path("plots/epochs.csv")))
    for count in counts:
        found = several.fit(count, **changes)
        assert len(found) == len(alone)
        assert max(abs(ours - theirs) for ours, theirs in zip(found, alone, strict=True)) < CLOSE
        assert all(torch.allclose(weight, kept[name], atol=1e-4) for name, weight in weights().items())
        assert read_json(Path("metrics.json")) == {**metrics, "num_processes": count}
        for ours, theirs in zip(read_csv(Path("plots/epochs.csv")), epochs, strict=True):
            assert {**ours, "train_loss": 0, "val_loss": 0} == {**theirs, "train_loss": 0, "val_loss": 0}
            assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), rel=1e-3)


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.faults)])
def test_two_and_three_processes_learn_in_fifty_steps_what_one_learns(folder, count):
    """With dropout; with two micro-batches a step, and two images in an epoch's last step."""
    assert_learns_the_same([count], train__num_train_epochs=50 // PER_EPOCH)


@pytest.mark.faults
@BOTH
@pytest.mark.parametrize(
    "changes",
    [
        {"lora__lora_dropout": 0.0, "train__num_train_epochs": 10},
        {"train__per_device_train_batch_size": 8, "train__gradient_accumulation_steps": 1},
        {"train__per_device_train_batch_size": 1, "train__gradient_accumulation_steps": 5},  # one image at the end
        {"train__per_device_train_batch_size": 26, "train__gradient_accumulation_steps": 1},
        {"train__per_device_train_batch_size": 9, "train__gradient_accumulation_steps": 4},  # more than there are
        {"augment__mixup_alpha": 0.4, "train__gradient_accumulation_steps": 3},
        {"augment__cutmix_alpha": 1.0, "augment__mixup_alpha": 0.4, "train__gradient_accumulation_steps": 4},
        {"augment__policy": "trivialaugment", "augment__erasing_p": 0.5},
        {"train__class_weights": "balanced", "train__focal_gamma": 2.0},
        {"train__class_weights": {"red": 3.0}, "train__logit_adjustment": 0.5, "train__label_smoothing_factor": 0.1},
        {"train__sampling": "balanced"},
        {"train__ema_decay": 0.9},
        {"train__swa_epoch_start": 1, "train__num_train_epochs": 3},
        {"train__soup_size": 2, "train__num_train_epochs": 4},
        {"train__head_only_epochs": 1},
        {"train__layer_decay": 0.5, "train__head_learning_rate": 0.003},
        {"train__early_stopping_patience": 1, "train__num_train_epochs": 6, "train__learning_rate": 1e-9},
        {"train__activation_checkpointing": True},
        {"train__dataloader_num_workers": 2},
        {"train__optim": "adafactor"},
        {"train__optim": "sgd"},
        {"train__per_device_eval_batch_size": 1},
        {"train__per_device_eval_batch_size": 3},
        {
            "lora__method": "adalora",
            "lora__options": {"target_r": 1, "init_r": 3, "tinit_fraction": 0.1, "tfinal_fraction": 0.3},
        },
        {"lora__method": "dora"},
        {"lora__method": "full", "train__learning_rate": 1e-3},
        {"lora__method": "head"},
        {"lora__method": "pissa"},
    ],
    ids=lambda changes: ", ".join(f"{key.split('__')[1]}={value}" for key, value in changes.items()),
)
def test_whatever_is_asked_for_is_learnt_alike(folder, count, changes):
    assert_learns_the_same([count], **changes)


@pytest.mark.faults
def test_more_processes_than_images_of_a_step_learn_the_same(folder):
    """The first one has none, ever."""
    assert Share(0, 3, 2).most() == 0
    assert_learns_the_same([3], train__per_device_train_batch_size=2, train__gradient_accumulation_steps=1)


@pytest.mark.faults
def test_a_teacher_teaches_several_processes_alike(folder):
    several.fit(2, train__num_train_epochs=4)
    evaluate_here()
    export_here(to="teacher")
    assert_learns_the_same([2], train__teacher=f"teacher@sha256:{digest(Path('teacher'))[:16]}")


@pytest.mark.faults
def test_dropout_that_others_draw_differs_between_images_and_is_the_same_each_time(folder):
    """VeRA's own layer knows nothing of other processes."""
    changes = {"lora__method": "vera", "lora__options": {"r": 4, "vera_dropout": 0.5}}
    alone, first, again = several.fit(1, **changes), several.fit(2, **changes), several.fit(2, **changes)
    assert first == again
    assert first != pytest.approx(alone, abs=CLOSE)


def test_batch_norms_are_refused_with_several_processes_and_not_with_one():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3))
    model.config = SimpleNamespace(model_type="resnet")
    _check_shared(model, ALONE)
    with pytest.raises(VitloraError, match=r"train\.num_processes: got 3; the rule: 1 with resnet, whose"):
        _check_shared(model, Peers(Place(1, 3, 1, "nowhere")))
    _check_shared(model[0], Peers(Place(1, 3, 1, "nowhere")))


# Which images are whose


@pytest.mark.parametrize("images", [0, 1, 2, 5, 26, 70, 700])
@pytest.mark.parametrize("step", [1, 6, 64, 700])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("micro", [1, 2, 3, 1000])
def test_each_image_is_in_one_span_of_one_process(images, step, count, micro):
    alone = list(Share(0, 1, step).spans(0, images, micro))
    spans = [span for number in range(count) for span in Share(number, count, step).spans(0, images, micro)]
    assert sorted(place for span in spans for place in range(span.start, span.stop)) == list(range(images))
    for span in spans:
        whole = next(each for each in alone if each.start <= span.start < each.stop)
        assert span.stop <= whole.stop
        assert (span.unit, span.images) == (whole.unit, whole.stop - whole.start)
        assert span.first == span.start - whole.start
    most = max(Share(number, count, step).most() for number in range(count))
    assert most == -(-step // count)


@pytest.mark.parametrize("images", [1, 5, 26, 64])
@pytest.mark.parametrize(("step", "group"), [(12, 3), (12, 4), (12, 12), (5, 1)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_is_mixed_stays_in_one_span(images, step, group, count):
    spans = [span for number in range(count) for span in Share(number, count, step, group).spans(0, images, group)]
    assert sum(span.stop - span.start for span in spans) == images
    assert all(span.start % step % group == 0 for span in spans)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return loading.packed(tmp_path_factory.mktemp("packed"), 171)


@pytest.mark.parametrize(
    ("step", "group", "micro", "workers"),
    [
        *((70, 1, 7, workers) for workers in (0, 2)),
        *((*law, 0) for law in ((128, 1, 64), (130, 1, 65), (12, 4, 4), (6, 1, 6))),
        *(pytest.param(*law, 2, marks=pytest.mark.faults) for law in ((128, 1, 64), (12, 4, 4), (6, 1, 6))),
    ],
)
def test_processes_load_the_images_of_one_each_once_whatever_a_micro_batch_has(images, step, group, micro, workers):
    """Loading begins before the size of a micro-batch is known."""
    seen = []
    for number in range(3):
        share = Share(number, 3, step, group)
        loader = TrainLoader(images, 3, step, 2, workers, pinned=False, mixed_among=group, share=share)
        loader.start()
        loader.split(micro)
        feed = Feed(loader, torch.device("cpu"))
        for epoch in range(2):
            feed.set_epoch(epoch)
            first = -(-step // micro) * epoch  # the second epoch from its second step on
            spans = loader.spans(first * micro)
            seen += [(epoch, span, batch) for span, batch in zip(spans, feed.skip(first), strict=True)]
        feed.close()
    for epoch in range(2):
        found = sorted((each for each in seen if each[0] == epoch), key=lambda each: each[1].start)
        numbers = epoch_numbers(images.labels.numpy(), "shuffled", 3, epoch)[step * epoch :]
        assert torch.equal(torch.cat([batch["labels"] for *_, batch in found]), images.labels[numbers % len(images)])
        assert torch.equal(torch.cat([batch["pixel_values"] for *_, batch in found]), images.load(numbers.tolist()))


# Stopped, killed, resumed


def run(count, *about, **changes):
    """Train with an incident; return exit codes."""
    return together(count, several.fitted, changes, *about)


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """Folders of undisturbed runs, by number of processes, as they are asked for."""
    found = {}

    def at(count):
        if count not in found:
            found[count] = tmp_path_factory.mktemp("undisturbed")
            with chdir(link(prepared, found[count])):
                several.fit(count)
        return found[count]

    return at


@pytest.fixture
def golden(undisturbed):
    """Return the hashes of an undisturbed run."""

    def at(count):
        with chdir(undisturbed(count)):
            return hashes()

    return at


def by_step(names):
    """Keep one try in the quick tier."""
    return [name if at == 0 else pytest.param(*name, marks=pytest.mark.faults) for at, name in enumerate(names)]


@pytest.mark.parametrize(
    ("count", "who", "step"),
    by_step([(2, 1, 3), *((count, who, step) for count in (2, 3) for who in (0, 1) for step in (0, 4, 5, 8))]),
)
@pytest.mark.survives("F06", "one of several processes asked to stop: all stop after one step, go on to the same bytes")
def test_all_stop_where_one_is_asked_to_and_as_many_go_on_to_the_same_bytes(golden, folder, count, who, step):
    assert run(count, [who, step], train__save_steps=1000) == [143] * count
    kept = [int(path.name) for path in CHECKPOINTS.glob("*/0*")]
    assert len([each for each in kept if each % PER_EPOCH or each == STEPS]) <= 1
    assert step <= max(kept) <= step + 2
    assert all(f"stopped after step {max(kept)}, which is kept" in said(number) for number in range(count))
    if (count, who, step) == (2, 1, 3):
        assert run(1) == [0]
        assert "an earlier one's are not used: train.num_processes was 2, is 1" in said()
        assert "resuming" not in said()
        shutil.rmtree("adapter")
    assert run(count) == [0] * count
    assert f"resuming after step {max(kept)}" in said(), said()
    assert hashes() == golden(count)


@pytest.mark.parametrize(
    ("count", "who", "step"),
    by_step([(2, 1, 6), *((count, who, step) for count in (2, 3) for who in (0, 1) for step in (0, 5, 9))]),
)
@pytest.mark.survives("F07", "one of several processes killed at a step: the others end; same bytes afterwards")
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_to_the_same_bytes(
    golden, folder, count, who, step
):
    codes = run(count, None, [who, step], train__save_steps=2)
    assert codes[who] == -signal.SIGKILL
    assert all("LostError: the processes have lost each other" in said(other) for other in {*range(count)} - {who})
    assert run(count, train__save_steps=2) == [0] * count
    assert ("resuming after step" in said()) == (step > 2)
    assert hashes() == golden(count)


@pytest.mark.faults
def test_minutes_end_all_processes_after_the_same_epoch(folder):
    several.fit(3, train__max_minutes=1e-6, train__num_train_epochs=3)
    assert read_json(Path("metrics.json"))["epochs"] == 1


@pytest.mark.faults
def test_a_loss_that_is_no_number_is_told_by_all_alike(folder):
    changes = {"train__learning_rate": 10, "train__max_grad_norm": 1e30, "train__warmup_steps": 0}
    changes |= {"train__optim": "sgd", "lora__lora_alpha": 10**6}
    assert run(2, **changes) == [1, 1]
    first, second = (said(number).splitlines()[-1].split("; nothing is saved")[0] for number in (0, 1))
    assert first == second
    assert "is nan" in first or "is inf" in first


@pytest.mark.faults
def test_all_are_to_begin_again_where_one_lacks_memory(folder):
    changes = {"train__per_device_train_batch_size": 12, "train__gradient_accumulation_steps": 1}
    alone = several.fit(1, **changes)
    assert together(2, several.short_of_memory, changes) == [1, 1]
    assert said(1).endswith("AgainError: once more, with at most 3 at once\n")
    assert together(2, several.fitted, changes, at_most=3) == [0, 0]
    assert read_json(Path("metrics.json"))["micro_batch"] == 3
    assert len(json.loads(Path("losses.json").read_text())) == len(alone)


@pytest.mark.faults
def test_processes_whose_weights_differ_are_found_out(folder):
    assert together(2, several.led_astray, {"train__save_steps": 1}) == [1, 1]
    assert re.search(r"after step 2 the processes hold different weights, 1 of \d+ tensors, \S+ first;", said())
    (run,) = Path(".work/checkpoints").iterdir()
    assert [int(kept.name) for kept in run.iterdir() if kept.name.isdecimal()] == [1]  # from where to go on


@pytest.mark.faults
def test_processes_that_begin_with_other_weights_do_not_train(folder):
    assert together(2, several.sown_apart, {}) == [1, 1]
    assert "after step 0 the processes hold different weights" in said()
    assert not Path("adapter").exists()


# Evaluation


@pytest.mark.parametrize(
    ("count", "batch", "tta"),
    by_step([(2, 4, "none"), (3, 4, "flip"), (2, 5, "crops"), (3, 1, "none"), (2, 1000, "flip"), (3, 2, "none")]),
)
def test_several_processes_evaluate_to_the_bit_as_one_does(undisturbed, folder, count, batch, tta):
    """Six test images: in batches of four, of one at the end, and in one batch, of which others have none."""
    shutil.copytree(undisturbed(2) / "adapter", "adapter")
    assert together(1, several.evaluated, tta, batch) == [0]
    alone = {path.name: path.read_bytes() for place in ("evaluated", "scores") for path in Path(place).rglob("*.*")}
    for place in ("evaluated", "scores"):
        shutil.rmtree(place)
    codes = together(count, several.evaluated, tta, batch)
    assert codes == [0] * count, said(1)
    again = {path.name: path.read_bytes() for place in ("evaluated", "scores") for path in Path(place).rglob("*.*")}
    assert again == alone
    assert np.load("evaluated/test_logits.npy").shape == (6, 3)
