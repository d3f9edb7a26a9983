"""Values handed to DVC."""

import pytest
import tiny

from vitlora.core.params import read_document
from vitlora.safety.overrides import ready
from vitlora.trials.values import override


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 1e-05),
        ("lora.r", 8),
        ("lora.use_rslora", True),
        ("train.head_learning_rate", None),
        ("train.lr_scheduler_type", "cosine"),
        ("lora.target_modules", ["query", "value"]),
        ("lora.target_modules", r"blocks\.\d+\.attn"),
        ("lora.target_modules", "a, b=c 'd' {e}"),
        ("lora.target_modules", [r"a\.b", 'say "x"', "c,d"]),
        ("augment.scale", [0.5, 1.0]),
        ("lora.layers_to_transform", []),
        ("train.class_weights", {"big cat": 5.0, "a-b": 1e-05}),
    ],
)
def test_what_is_handed_to_dvc_means_the_same_to_its_reader(tmp_path, monkeypatch, key, value):
    from dvc.utils.hydra import apply_overrides

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes(tiny.DIGITS.read_bytes())
    apply_overrides("params.yaml", ready([override(key, value)], queue=False))
    section, _, name = key.partition(".")
    assert read_document(tmp_path / "params.yaml")[section][name] == value
