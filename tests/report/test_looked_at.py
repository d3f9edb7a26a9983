"""Heat maps point at what a model has learnt to look for, in every family's layout, and leave the model as it was."""

import numpy as np
import pytest
import torch
import transformers
from tiny import LORA, make_base

from vitlora.core.errors import VitloraError
from vitlora.model.adapters import add_adapter
from vitlora.model.base import Normalisation, load_base
from vitlora.model.params import Lora
from vitlora.report.looked_at import Grid, find_block, lay_out, looked_at

NORMAL = Normalisation([0.5] * 3, [0.5] * 3)
WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
SMALL = {**WIDE, "intermediate_size": 64}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4}
# Name of the class and the config without their endings; settings; the grid of 32 px; where its block is.
FAMILIES = {
    "ViT": (SMALL, (4, 4), "vit.layers.1"),
    "DeiT": (SMALL, (4, 4), "deit.layers.1"),
    "Dinov2": (WIDE, (4, 4), "dinov2.encoder.layer.1"),
    "Dinov2WithRegisters": (WIDE, (4, 4), "dinov2_with_registers.encoder.layer.1"),
    "Beit": (SMALL, (4, 4), "beit.layers.1"),
    "Swin": (SWIN, (4, 4), "swin.encoder.layers.1.blocks.0"),
    "Swinv2": (SWIN, (4, 4), "swinv2.encoder.layers.1.blocks.0"),
    "CLIP": (
        {"vision_config": SMALL, "text_config": {"bos_token_id": 0, "eos_token_id": 1}},
        (4, 4),
        "vision_model.encoder.layers.1",
    ),
    "Siglip": ({"vision_config": SMALL, "text_config": {}}, (4, 4), "vision_model.encoder.layers.1"),
    "ConvNext": (
        {"hidden_sizes": [16, 16], "depths": [1, 2], "num_stages": 2, "patch_size": 4},
        (4, 4),
        "convnext.encoder.stages.1.layers.0",
    ),
    "ResNet": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        (8, 8),
        "resnet.encoder.stages.1",
    ),
    "IJepa": (SMALL, (4, 4), "ijepa.layers.1"),
    "Data2VecVision": (SMALL, (4, 4), "data2vec_vision.encoder.layer.1"),
}  # fmt: skip
COLOURS = np.array([(127, 127, 127), (230, 30, 30), (30, 200, 30), (40, 40, 230)])


def make(family, seed=0):
    settings, grid, block = FAMILIES[family]
    torch.manual_seed(seed)
    config = getattr(transformers, f"{family}Config")(**settings, num_labels=4)
    return getattr(transformers, f"{family}ForImageClassification")(config).eval(), grid, block


def spotted(count, seed, cells=4, side=8, empty=False):
    """Grey noise, class 0, or with one cell in a colour, classes 1 to 3: squares, labels, the number of the cell.

    Without class 0 a model may know one of the colours by the absence of the others, and be right to look nowhere.
    """
    random = np.random.default_rng(seed)
    images = random.integers(90, 165, (count, 3, cells * side, cells * side)).astype(np.uint8)
    labels, places = random.integers(0 if empty else 1, 4, count), random.integers(0, cells * cells, count)
    for image, label, place in zip(images, labels, places, strict=True):
        top, left = side * (place // cells), side * (place % cells)
        image[:, top : top + side, left : left + side] = COLOURS[label][:, None, None]
    return images, labels, places


def trained(family, steps=100):
    model, grid, _ = make(family)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        images, labels, _ = spotted(32, step, empty=True)
        logits = model(pixel_values=NORMAL(torch.from_numpy(images))).logits
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels)).backward()
        optimiser.step()
    return model.eval(), grid


@pytest.mark.parametrize("family", ["ViT", "DeiT", "Dinov2", "Beit", "Swin", "Siglip", "ConvNext"])
def test_the_hottest_cell_is_where_the_evidence_lies(family):
    model, grid = trained(family)
    images, labels, places = spotted(64, 1000)
    with torch.no_grad():
        named = model(pixel_values=NORMAL(torch.from_numpy(images))).logits.argmax(dim=1).numpy()
    assert (named == labels).mean() > 0.9
    maps = looked_at(model, images, NORMAL, batch_size=10)
    assert maps.shape == (64, *grid)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert (maps.max(axis=(1, 2)) == 1).all()
    right = named == labels
    hottest = maps.reshape(64, -1).argmax(axis=1)
    assert (hottest == places)[right].mean() > 0.95
    again = looked_at(model, images, NORMAL, labels=named.tolist())
    assert np.allclose(maps, again, atol=1e-4)
    both, second, elsewhere = images.copy(), labels % 3 + 1, (places + 7) % 16
    for image, label, place in zip(both, second, elsewhere, strict=True):
        top, left = 8 * (place // 4), 8 * (place % 4)
        image[:, top : top + 8, left : left + 8] = COLOURS[label][:, None, None]
    for asked, where in ((labels, places), (second, elsewhere)):
        hottest = looked_at(model, both, NORMAL, labels=asked.tolist()).reshape(64, -1).argmax(axis=1)
        assert (hottest == where).mean() > 0.5  # a map that passes over the class can't be so for both


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_patch_changes_its_own_cell_most(family):
    model, grid, block = make(family)
    rows, columns = grid
    name, found = find_block(model, torch.zeros(1, 3, 32, 32))
    assert (name, found[:2]) == (block, grid)
    given = []
    hook = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args, kwargs: given.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    random = np.random.default_rng(0)
    image = torch.from_numpy(random.normal(size=(1, 3, 32, 32)).astype(np.float32))
    for row, column in ((0, 0), (0, columns - 1), (rows - 1, 0), (1, 2), (2, 1)):
        other, side = image.clone(), 32 // rows
        other[..., row * side : (row + 1) * side, column * side : (column + 1) * side] += 3
        given.clear()
        with torch.no_grad():
            model(pixel_values=image)
            model(pixel_values=other)
        change = (given[0] - given[1]).abs().sum(dim=found.channels)
        change = change[:, found.extra :] if change.ndim == 2 else change
        hottest = divmod(int(change.reshape(-1).argmax()), columns)
        leeway = int(family in ("ResNet", "Swinv2"))  # which have mixed neighbours before
        assert abs(hottest[0] - row) <= leeway
        assert abs(hottest[1] - column) <= leeway
    hook.remove()


@pytest.mark.parametrize("family", ["ViT", "Swin", "ConvNext"])
def test_the_model_is_left_as_it_was(family):
    model, _, _ = make(family)
    for place, weight in enumerate(model.parameters()):
        weight.requires_grad_(place % 2 == 0)
    images, _, _ = spotted(3, 0)
    pixels = NORMAL(torch.from_numpy(images))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        logits = model(pixel_values=pixels).logits
    kept = images.copy()
    looked_at(model, images, NORMAL)
    assert (kept == images).all()
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert all(weight.requires_grad == (place % 2 == 0) for place, weight in enumerate(model.parameters()))
    assert all(weight.grad is None for weight in model.parameters())
    assert not model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        assert torch.equal(logits, model(pixel_values=pixels).logits)


def test_it_takes_a_model_with_an_adapter_apart_or_merged(tmp_path):
    make_base(tmp_path / "base")
    images, _, _ = spotted(5, 0)
    model, fresh = load_base(tmp_path / "base", ["a", "b", "c", "d"], 32)
    adapted = add_adapter(model, fresh, Lora(**LORA), 10).model.eval()
    apart = looked_at(adapted, images, NORMAL)
    merged = looked_at(adapted.merge_and_unload(), images, NORMAL)
    assert apart.shape == (5, 4, 4)
    assert np.allclose(apart, merged, atol=1e-4)


def test_no_picture_gives_no_map():
    model, _, _ = make("ViT")
    assert looked_at(model, np.empty((0, 3, 32, 32), np.uint8), NORMAL).shape == (0, 4, 4)


def test_a_model_without_a_grid_is_refused_by_name():
    config = transformers.LevitConfig(
        image_size=32, hidden_sizes=[8, 8, 8], num_attention_heads=[1] * 3, key_dim=[4] * 3
    )
    model = transformers.LevitForImageClassification(config).eval()
    model.config.model_type = "oddity"
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.ModuleList):
                setattr(module, name, torch.nn.Sequential(*child))
    with pytest.raises(VitloraError, match="no heat map of oddity: it has no blocks"):
        find_block(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("shape", "patch", "grid"),
    [
        ((1, 17, 8), 8, Grid(4, 4, 1, 2)),
        ((1, 10, 8), 14, Grid(3, 3, 1, 2)),
        ((1, 9, 8), 16, Grid(2, 2, 5, 2)),  # two by two and five more, not three by three
        ((1, 49, 8), 4, Grid(7, 7, 0, 2)),  # merged patches
        ((1, 50, 8), None, Grid(7, 7, 1, 2)),
        ((1, 8, 7, 7), 4, Grid(7, 7, 0, 1)),
        ((1, 7, 7, 8), 4, Grid(7, 7, 0, 3)),
        ((1, 52, 8), 4, None),
        ((4, 17, 8), 8, None),
        ((1, 7, 6, 5), 4, None),
        ((1, 8), 8, None),
    ],
)
def test_shapes_are_laid_out(shape, patch, grid):
    assert lay_out(shape, {14: 42}.get(patch, 32), patch) == grid
