"""Trainings of any method on the tiny ViT, and what a model says."""

import torch
import training

# PEFT's defaults are for layers of some hundred units; here they have 32.
OPTIONS = {
    "adalora": {"init_r": 6, "target_r": 2},
    "oft": {"oft_block_size": 8},
    "vera": {"r": 8},
    "vblora": {"vector_length": 8, "num_vectors": 16},
    "randlora": {"r": 4},
    "fourierft": {"n_frequency": 50},
    "waveft": {"n_frequency": 50},
    "c3a": {"block_size": 8},
    "shira": {"r": 4},
    "miss": {"r": 8},
    "road": {"group_size": 8},
    "gralora": {"r": 4},
}


def fit(method, **changes):
    """Train a method on all layers, with options that suit the tiny model."""
    own = {"lora__options": OPTIONS.get(method, {}), "lora__target_modules": "all-linear", "train__save_steps": 1000}
    training.fit(lora__method=method, **{**own, **changes})


def logits(model):
    """Return the logits of four random pictures, always the same."""
    torch.manual_seed(1)
    with torch.no_grad():
        return model.eval()(pixel_values=torch.randn(4, 3, 32, 32)).logits
