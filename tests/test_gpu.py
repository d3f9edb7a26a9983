"""What only a CUDA device can show: half precision is used, recorded, and leaves usable weights."""

from pathlib import Path

import pytest
import tiny
import torch

from vitlora.files import read_json

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
    (tmp_path / "params.yaml").write_bytes((tiny.ROOT / "params.yaml").read_bytes())
    return tiny.stage_runner(tmp_path)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_training_uses_and_records_the_precision_asked_for(stages, precision):
    flags = {"train.fp16": precision == "fp16", "train.bf16": precision == "bf16"}
    stages({**tiny.PARAMS, "train.num_train_epochs": 6, **flags})
    recorded = read_json(Path("metrics/train/metrics.json"))
    assert (recorded["device"], recorded["precision"]) == ("cuda", precision)
    assert read_json(Path("metrics/evaluate/scores.json"))["accuracy"] > 0.6
    assert read_json(Path("metrics/export.json"))["onnx_agreement"] == 1.0
