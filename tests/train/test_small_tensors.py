"""Where the small tensors of PEFT's layers lie while a step is captured; the device is torch's `meta`."""

import pytest
import torch
from peft import FourierFTConfig, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model
from torch import nn

from vitlora.train.small_tensors import settle

META = torch.device("meta")


def adapted(config):
    config.target_modules = ["0"]
    return get_peft_model(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), config)


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (LoraConfig(r=2), "meta"),
        (OFTConfig(oft_block_size=4, module_dropout=0.2), "meta"),
        (LoHaConfig(r=2), "cpu"),
        (LoKrConfig(r=2), "cpu"),
        (LoKrConfig(r=2, rank_dropout=0.5), "cpu"),
        (LoHaConfig(r=2, module_dropout=0.1), "meta"),  # the draw decides something: the device is waited for
        (LoKrConfig(r=2, module_dropout=0.1), "meta"),
    ],
)
def test_they_are_made_on_the_device_unless_a_draw_that_decides_nothing_would_wait_for_it(config, where):
    with settle(adapted(config), META)():
        assert torch.zeros(1).device.type == where
    assert torch.zeros(1).device.type == "cpu"


def test_places_that_fourierft_keeps_are_moved_once():
    model = adapted(FourierFTConfig(n_frequency=5))
    layer = model.base_model.model[0]
    assert layer.indices["default"].device.type == "cpu"
    settle(model, META)
    assert layer.indices["default"].device.type == "meta"
