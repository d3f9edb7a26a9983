"""What only a CUDA device can show: half precision is used, recorded, and leaves usable weights."""

from pathlib import Path

import pytest
import tiny
import torch
import training

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.train.trainer import ImageTrainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """The tiny project, run stage by stage without dvc."""
    monkeypatch.chdir(tmp_path)
    tiny.make_images(tmp_path / "pictures")
    tiny.make_base(tmp_path / "tiny")
    (tmp_path / "params.yaml").write_bytes(tiny.DIGITS.read_bytes())
    return tiny.stage_runner(tmp_path)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_training_uses_and_records_the_precision_asked_for(stages, precision):
    flags = {"train.fp16": precision == "fp16", "train.bf16": precision == "bf16"}
    stages({**tiny.PARAMS, "train.num_train_epochs": 6, **flags})
    recorded = read_json(Path("metrics/train/metrics.json"))
    assert (recorded["device"], recorded["precision"], recorded["step"]) == ("cuda", precision, "fused")
    assert read_json(Path("metrics/evaluate/scores.json"))["accuracy"] > 0.6
    assert read_json(Path("metrics/export.json"))["lowest_agreement"] == 1.0


@pytest.mark.parametrize("step", ["eager", "compiled", "fused"])
def test_every_way_to_run_a_step_learns_the_same(stages, step):
    joined = {"train.per_device_train_batch_size": 4, "train.gradient_accumulation_steps": 2}
    stages({**tiny.PARAMS, "train.num_train_epochs": 6, "train.fp16": True, "train.step": step, **joined})
    recorded = read_json(Path("metrics/train/metrics.json"))
    assert (recorded["step"], recorded["micro_batch"]) == (step, 8)
    assert read_json(Path("metrics/evaluate/scores.json"))["accuracy"] > 0.6
    assert read_json(Path("metrics/evaluate/scores.json"))["precision"] == "fp16"


def test_batches_reach_the_device_whole_and_in_order():
    from vitlora.model.batches import Feed

    class Chunks:
        dataset = range(6)

        def __len__(self) -> int:
            return 2

        def set_epoch(self, epoch: int) -> None:
            pass

        def __iter__(self):
            for start in (0, 3):
                rows = torch.arange(start * 48, (start + 3) * 48, dtype=torch.uint8).view(3, 4, 4, 3).pin_memory()
                labels = torch.arange(start, start + 3).pin_memory()
                parts = zip(rows.permute(0, 3, 1, 2).split([2, 1]), labels.split([2, 1]), strict=True)
                yield [{"pixel_values": pixels, "labels": part} for pixels, part in parts]

    feed = Feed(Chunks(), torch.device("cuda"))
    found = list(feed)
    want = torch.arange(6 * 48, dtype=torch.uint8).view(6, 4, 4, 3).permute(0, 3, 1, 2)
    assert torch.equal(torch.cat([batch["pixel_values"] for batch in found]).cpu(), want)
    assert torch.cat([batch["labels"] for batch in found]).tolist() == list(range(6))
    assert all(batch["pixel_values"].is_contiguous(memory_format=torch.channels_last) for batch in found)
    assert feed.take()[0] >= 0


@pytest.mark.parametrize("step", ["fused", "eager"])
def test_a_run_stopped_and_resumed_in_fp16_ends_with_the_same_bytes(tmp_path, monkeypatch, step):
    monkeypatch.chdir(training.prepare(tmp_path))
    settings = {"train__fp16": True, "train__step": step, "train__full_determinism": True}
    training.fit(**settings)
    golden = training.hashes()
    for at in (2, training.PER_EPOCH, training.STEPS - 1):
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at


def test_a_lack_of_gpu_memory_names_batch_and_image_size(tmp_path, monkeypatch):
    monkeypatch.chdir(training.prepare(tmp_path))

    def full(*args, **kwargs):
        return torch.empty(2**50, device="cuda")

    monkeypatch.setattr(ImageTrainer, "_loss", full)
    with pytest.raises(VitloraError, match=r"out of GPU memory \(\d+ GiB\) with 6 images of 32 px at once; halve"):
        training.fit(train__fp16=True)
