"""A run that was interrupted and goes on ends with the bytes of one that was not, wherever it was interrupted."""

import os
import shutil
import signal
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from training import PER_EPOCH, STEPS, fit, hashes, link, stopped_after

from vitlora.core.errors import StoppedError, VitloraError
from vitlora.core.files import read_json
from vitlora.storage.manifest import MANIFEST, problems
from vitlora.train import checkpoints
from vitlora.train.checkpoints import Checkpoints
from vitlora.train.stage import CHECKPOINTS
from vitlora.train.trainer import ImageTrainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def golden(prepared, tmp_path_factory):
    """Hashes of an undisturbed run."""
    with chdir(link(prepared, tmp_path_factory.mktemp("golden"))):
        fit()
        return hashes()


def kill_after(monkeypatch, saves):
    """End the run as a crash would, after so many checkpoints."""

    class CrashError(Exception):
        pass

    original, seen = Checkpoints.save, []

    def save(self, *args):
        original(self, *args)
        seen.append(1)
        if len(seen) == saves:
            raise CrashError

    monkeypatch.setattr(Checkpoints, "save", save)
    return CrashError


def runs():
    return [path for path in CHECKPOINTS.iterdir() if path.is_dir()] if CHECKPOINTS.exists() else []


BORDERS = {1, PER_EPOCH - 1, PER_EPOCH, PER_EPOCH + 1, STEPS}  # of the run and of an epoch; other steps: `make faults`
STEPS_AT = [step if step in BORDERS else pytest.param(step, marks=pytest.mark.faults) for step in range(1, STEPS + 1)]


@pytest.mark.parametrize(
    ("step", "workers"),
    [
        *(pytest.param(step, 0, marks=() if step in BORDERS else pytest.mark.faults) for step in range(1, STEPS + 1)),
        (PER_EPOCH, 2),
        (7, 2),
        *(pytest.param(step, 2, marks=pytest.mark.faults) for step in (1, STEPS)),
    ],
)
@pytest.mark.survives("F06", "training asked to stop after every step, 0 or 2 workers: goes on to the same bytes")
def test_a_run_stopped_after_any_step_ends_with_the_same_bytes(golden, folder, step, workers):
    with stopped_after(step):
        fit(train__dataloader_num_workers=workers, train__save_steps=1000)
    fit(train__dataloader_num_workers=workers)
    assert hashes() == golden
    assert not runs(), "nothing is left behind"


@pytest.mark.parametrize("saves", STEPS_AT)
@pytest.mark.survives("F07", "training crashed after every checkpoint: the newest is used, same bytes")
def test_a_run_that_crashed_goes_on_from_its_newest_checkpoint(golden, folder, capsys, saves):
    with pytest.MonkeyPatch.context() as patch:
        crash = kill_after(patch, saves)
        with pytest.raises(crash):
            fit()
    fit()
    assert f"resuming after step {saves}" in capsys.readouterr().out
    assert hashes() == golden


def test_large_checkpoints_wait_until_their_time_is_a_small_part(folder, monkeypatch):
    clock = [0.0]

    def write(draft):
        (draft / "weights").write_bytes(bytes(9))
        clock[0] += 2.0

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "QUICK", 18)  # the first one is thought to take half a second
    # A later one would be ready less than 20 s before the end, half of what is waited for between two.
    for steps, large, expected in ((99, 10**6, [*range(1, 100)]), (99, 8, [10, 50]), (112, 8, [10, 50, 90])):
        monkeypatch.setattr(checkpoints, "LARGE", large)
        some, kept = Checkpoints(CHECKPOINTS, {}, size=9), []
        for step in range(1, steps + 1):
            clock[0] += 1.0
            if some.due(step, steps - step):
                some.save(step, write)
                kept.append(step)
        assert kept == expected


def test_one_large_checkpoint_that_took_long_does_not_put_off_the_next_and_two_do(folder, monkeypatch):
    clock, took = [0.0], dict.fromkeys((41, 81, 101), 20.0)

    def write(draft):
        (draft / "weights").write_bytes(bytes(9))
        clock[0] += took.get(step, 1.0)

    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "LARGE", 8)
    some, kept = Checkpoints(CHECKPOINTS, {}, size=9), []
    for step in range(1, 530):
        clock[0] += 1.0
        if some.due(step, 10**6):
            some.save(step, write)
            kept.append(step)
    assert kept == [1, 21, 41, 61, 81, 101, 501, 521]


@pytest.mark.parametrize("late", [False, True], ids=["while a step runs", "once none was found due"])
def test_a_run_asked_to_stop_keeps_a_checkpoint_that_was_not_due(golden, folder, monkeypatch, late):
    monkeypatch.setattr(Checkpoints, "due", lambda self, done, left: False)
    if late:
        original = ImageTrainer._save_checkpoint

        def save(self, *args):
            original(self, *args)
            os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(ImageTrainer, "_save_checkpoint", save)
            with pytest.raises(StoppedError, match="stopped after step 1, which is kept"):
                fit()
    else:
        with stopped_after(4):
            fit()
    kept = sorted(path.name for path in runs()[0].glob("0*"))
    assert kept == [f"{1 if late else 4:09d}"]
    fit()
    assert hashes() == golden


def test_early_stopping_is_remembered(folder):
    changes = {"train__early_stopping_patience": 1, "train__num_train_epochs": 6, "train__learning_rate": 1e-9}
    fit(**changes)
    want = hashes()
    assert read_json(Path("metrics.json"))["epochs"] < 6
    for saves in (PER_EPOCH, PER_EPOCH + 2, 2 * PER_EPOCH):
        with pytest.MonkeyPatch.context() as patch:
            crash = kill_after(patch, saves)
            with pytest.raises(crash):
                fit(**changes)
        fit(**changes)
        assert hashes() == want, saves


@pytest.fixture(scope="module")
def cut_short(prepared, tmp_path_factory):
    """A folder whose run was cut after six steps: checkpoints of steps 5 and 6."""
    with chdir(link(prepared, tmp_path_factory.mktemp("cut"))), pytest.MonkeyPatch.context() as patch:
        crash = kill_after(patch, 6)
        with pytest.raises(crash):
            fit()
        return CHECKPOINTS.absolute()


@pytest.fixture
def interrupted(cut_short, folder):
    shutil.copytree(cut_short, CHECKPOINTS)
    (run,) = runs()
    return run


FILES = (
    "weights.safetensors",
    "best.safetensors",
    "optimizer.safetensors",
    "progress.json",
    "trainer_state.json",
    MANIFEST,
)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path):
    path.write_bytes(b"")


def harm_to(name, harm):
    """Any harm to the first file, and to the list of all; one to each other file, the rest in `make faults`."""
    quick = harm is flip or name in (FILES[0], MANIFEST)
    return pytest.param(name, harm, id=f"{name}-{harm.__name__}", marks=() if quick else pytest.mark.faults)


@pytest.mark.parametrize(
    ("name", "harm"), [harm_to(name, harm) for name in FILES for harm in (Path.unlink, cut, flip, empty)]
)
@pytest.mark.survives("F16", "a checkpoint's file lost, cut, flipped or empty: named, the one before used, same bytes")
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(golden, interrupted, capsys, name, harm):
    harm(interrupted / "000000006" / name)
    fit()
    out = capsys.readouterr().out
    assert "checkpoint of step 6 not used" in out
    assert name in out or name == MANIFEST, "a manifest that is damaged may accuse another file"
    assert "resuming after step 5" in out
    assert hashes() == golden


@pytest.mark.survives("F16", "a stray empty checkpoint-99999 and a draft: passed over, same bytes")
def test_a_stray_empty_checkpoint_and_a_draft_are_passed_over(golden, interrupted, capsys):
    (interrupted / "000099999").mkdir()
    shutil.copytree(interrupted / "000000006", interrupted / "draft")
    fit()
    assert "resuming after step 6" in capsys.readouterr().out
    assert hashes() == golden


@pytest.mark.survives("F19", "clock set back between saves: the newest step is kept")
def test_a_clock_that_jumps_back_deletes_no_newer_checkpoint(interrupted):
    for path in interrupted.rglob("*"):
        os.utime(path, (0, 0))
    kept = sorted(path.name for path in interrupted.glob("[0-9]*"))
    assert kept == ["000000005", "000000006"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__learning_rate": 0.02}, "train.learning_rate was 0.01, is 0.02"),
        ({"train__seed": 1}, "train.seed was 0, is 1"),
        ({"lora__r": 1}, "lora.r was 2, is 1"),
    ],
)
@pytest.mark.survives("F17", "checkpoint of another rate, seed, rank, data, code, version or device: unused, says why")
def test_another_parameter_starts_afresh_and_says_why(interrupted, capsys, changes, said):
    fit(**changes)
    out = capsys.readouterr().out
    assert said in out
    assert "resuming" not in out
    assert interrupted.exists(), "going back finds it again"


@pytest.mark.parametrize(
    ("section", "name"), [("versions", "torch"), ("code", "src/vitlora/train/trainer.py"), ("device", "device")]
)
@pytest.mark.survives("F17", "checkpoint of another rate, seed, rank, data, code, version or device: unused, says why")
def test_another_version_code_or_device_starts_afresh_and_says_why(interrupted, monkeypatch, capsys, section, name):
    original = Checkpoints.__init__

    def other(self, root, about, size):
        original(self, root, {**about, section: {**about[section], name: "another"}}, size)

    monkeypatch.setattr(Checkpoints, "__init__", other)
    fit()
    out = capsys.readouterr().out
    assert (f"{name} changed" if section == "code" else "is another") in out
    assert "resuming" not in out


@pytest.mark.survives("F17", "checkpoint of another rate, seed, rank, data, code, version or device: unused, says why")
def test_other_data_starts_afresh(interrupted, prepared, capsys):
    Path("val").unlink()
    shutil.copytree(prepared / "val", "val")
    flip(Path("val/images.npy"))
    fit()
    assert "data val changed" in capsys.readouterr().out


@pytest.mark.parametrize("saves", [1, 4])
def test_a_checkpoint_lost_at_its_last_moment_is_not_missed(golden, folder, saves, monkeypatch, capsys):
    """A crash between writing and renaming leaves a draft."""
    written = []

    class CrashError(Exception):
        pass

    def crash(name):
        if name == "checkpoint-synced":
            written.append(1)
            if len(written) == saves:
                raise CrashError

    with monkeypatch.context() as patch:
        patch.setattr("vitlora.train.checkpoints.faultpoint", crash)
        with pytest.raises(CrashError):
            fit()
    fit()
    assert hashes() == golden


@pytest.mark.survives("F53", "a loss that is no number: stops at that step, keeps the last good weights")
def test_a_loss_that_is_no_number_stops_the_step_and_keeps_the_last_good_weights(folder, monkeypatch, capsys):
    original = ImageTrainer._prepare_inputs

    def spoiled(self, inputs):
        prepared = original(self, inputs)
        factor = torch.nan if self.state.global_step == 5 else 1.0
        return {**prepared, "pixel_values": prepared["pixel_values"] * factor}

    monkeypatch.setattr(ImageTrainer, "_prepare_inputs", spoiled)
    with pytest.raises(VitloraError, match=r"step 6, epoch 2: the loss is nan; images .*\.(jpg|png).* step 5 is kept"):
        fit()
    assert not Path("adapter").exists()
    (run,) = runs()
    assert not list(problems(run / "000000005"))


@pytest.mark.survives("F53", "a learning rate that diverges: stops at that step, exports nothing")
def test_a_learning_rate_that_diverges_stops_with_the_step(folder):
    with pytest.raises(VitloraError, match=r"step \d, epoch \d: the (loss|gradient's norm) is (nan|inf)"):
        fit(
            train__learning_rate=10,
            train__max_grad_norm=1e30,
            train__warmup_steps=0,
            train__optim="sgd",
            lora__lora_alpha=10**6,
        )
    assert not Path("adapter").exists()


def test_a_second_signal_ends_at_once_and_the_first_is_undone_afterwards(folder):
    before = signal.getsignal(signal.SIGINT)
    with stopped_after(2, signal.SIGINT):
        fit()
    assert signal.getsignal(signal.SIGINT) is before


def test_minutes_are_counted_over_interruptions_and_a_run_that_is_over_stays_so(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(link(prepared, tmp_path))
    settings = {"train__max_minutes": 1e-6, "train__num_train_epochs": 3}
    fit(**settings)
    golden = hashes()
    assert read_json(Path("metrics.json"))["epochs"] == 1
    with stopped_after(3):
        fit(**settings)
    fit(**settings)
    assert hashes() == golden
