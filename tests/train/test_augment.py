"""Random crops, flips and order: torchvision's law, and a pure function of seed, epoch and image."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from vitlora.train.augment import draw_crops, epoch_order, uniforms

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def table(count, seed=0):
    """Return sizes of many shapes, odd ones among them."""
    return np.random.default_rng(seed).integers(1, 700, (count, 2)).astype(np.int64)


def crops(seed=0, epoch=0, sizes=None, scale=SCALE, ratio=RATIO, flip=0.5):
    sizes = table(200) if sizes is None else sizes
    return draw_crops(seed, [(epoch, row) for row in range(len(sizes))], sizes, scale, ratio, flip)


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_images_crop_does_not_depend_on_the_number_of_images():
    boxes, flips = crops(3, 2)
    for count in (1, 2, 17, 199):
        assert same(crops(3, 2, table(200)[:count]), (boxes[:count], flips[:count]))


def test_an_images_crop_does_not_depend_on_the_other_images_sizes():
    sizes = table(200)
    others = np.concatenate([np.full((150, 2), 1), sizes[150:]])
    for ours, theirs in zip(crops(sizes=sizes), crops(sizes=others), strict=True):
        assert np.array_equal(ours[150:], theirs[150:])


def test_the_same_seed_and_epoch_give_the_same_and_nothing_outside_is_touched():
    np.random.seed(0)
    torch.manual_seed(0)
    first = crops(5, 1)
    np.random.seed(9)
    torch.manual_seed(9)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    assert same(first, crops(5, 1))
    assert np.array_equal(np.random.get_state()[1], numpy_state)
    assert torch.equal(torch.get_rng_state(), torch_state)


def test_another_seed_or_epoch_gives_other_crops_and_flips():
    sizes = table(200) + 300
    drawn = [crops(seed, epoch, sizes) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1, 2)]
    for i, (boxes, flips) in enumerate(drawn):
        for other_boxes, other_flips in drawn[:i]:
            assert (boxes == other_boxes).all(axis=1).mean() < 0.05
            assert not np.array_equal(flips, other_flips)


def test_crops_are_the_ones_of_all_earlier_runs():
    """Values written down once: NumPy promises Philox's words for ever, so a change here is a change of ours."""
    boxes, flips = crops(7, 3, np.array([[512, 384], [100, 700], [8, 8]], np.int64))
    assert boxes.tolist() == [[85, 32, 376, 379], [0, 283, 100, 416], [1, 3, 4, 5]]
    assert flips.tolist() == [False, True, False]
    assert epoch_order(7, 3, 8).tolist() == [0, 4, 1, 3, 2, 6, 7, 5]


def test_the_order_is_a_permutation_that_changes_with_epoch_and_seed():
    orders = [epoch_order(seed, epoch, 500) for seed in (0, 1) for epoch in range(4)]
    for i, order in enumerate(orders):
        assert sorted(order.tolist()) == list(range(500))
        assert not np.array_equal(order, np.arange(500))
        assert all((order == other).mean() < 0.05 for other in orders[:i])
    assert np.array_equal(orders[0], epoch_order(0, 0, 500))


def test_every_image_comes_at_every_place_equally_often():
    first = np.bincount([epoch_order(0, epoch, 10)[0] for epoch in range(2000)], minlength=10)
    assert np.all(np.abs(first - 200) < 4 * np.sqrt(200))


def test_order_and_crops_are_drawn_from_different_streams():
    assert not np.array_equal(uniforms(0, 0, 0, (8,)), uniforms(0, 0, 1, (8,)))
    assert not np.array_equal(uniforms(0, 0, 1, (8,)), uniforms(0, 1, 0, (8,)))


def test_uniform_numbers_are_uniform_below_one():
    drawn = uniforms(0, 0, 0, (20000,))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert ks_2samp(drawn, (np.arange(20000) + 0.5) / 20000, method="asymp").pvalue > 1e-3


ODD_SIZES = [(1, 1), (1, 2), (1, 1000), (1000, 1), (2, 3), (3, 2), (7, 7), (10, 1000), (1000, 10), (224, 223)]


@pytest.mark.parametrize("scale", [SCALE, (1.0, 1.0), (0.01, 0.02)])
@pytest.mark.parametrize("ratio", [RATIO, (1.0, 1.0), (3.0, 4.0), (0.2, 0.3), (0.01, 100.0)])
def test_every_box_holds_pixels_and_lies_inside_its_image(scale, ratio):
    sizes = np.repeat(np.array(ODD_SIZES, np.int64), 100, axis=0)
    boxes, flips = crops(sizes=sizes, scale=scale, ratio=ratio)
    assert boxes.dtype == np.int64
    assert flips.dtype == bool
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= sizes).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()


def torchvisions(width, height, scale, ratio, count):
    """Draw torchvision's crops: float (count, 4), left, top, right, bottom."""
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)])
    top, left, crop_h, crop_w = drawn.T
    return np.stack([left, top, left + crop_w, top + crop_h], axis=1)


def measures(boxes, width, height):
    left, top, right, bottom = boxes.T
    return {
        "area": (right - left) * (bottom - top) / (width * height),
        "aspect": (right - left) / (bottom - top),
        "left": left,
        "top": top,
        "right": width - right,
        "bottom": height - bottom,
    }


def p_values(width, height, ours, theirs, count=4000):
    """Compare the two laws in each measure; each law is (scale, ratio)."""
    sizes = np.tile(np.array([[width, height]], np.int64), (count, 1))
    boxes, _ = crops(seed=1, sizes=sizes, scale=ours[0], ratio=ours[1])
    first = measures(boxes, width, height)
    second = measures(torchvisions(width, height, *theirs, count), width, height)
    return {name: ks_2samp(first[name], second[name], method="asymp").pvalue for name in first}


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [
        (512, 384, SCALE, RATIO),
        (100, 700, SCALE, RATIO),
        (700, 100, SCALE, RATIO),
        (8, 8, SCALE, RATIO),
        (8, 8, (0.8, 1.0), (0.9, 10 / 9)),
        (333, 500, (0.3, 1.0), (0.5, 2.0)),
        (31, 97, (0.9, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_the_law_of_crops_is_torchvisions(width, height, scale, ratio):
    found = p_values(width, height, (scale, ratio), (scale, ratio))
    assert min(found.values()) > 1e-3, found


def test_the_comparison_would_notice_a_law_that_is_a_little_off():
    assert p_values(512, 384, ((0.11, 1.0), RATIO), (SCALE, RATIO))["area"] < 1e-3
    assert p_values(512, 384, (SCALE, (0.72, 1.28)), (SCALE, RATIO))["aspect"] < 1e-3


@pytest.mark.parametrize(
    ("width", "height"), [(10, 1000), (1000, 10), (99, 700), (700, 99), (1, 50), (50, 1), (13, 19)]
)
def test_where_no_crop_fits_the_middle_is_cut_as_torchvision_does(width, height):
    """With scale (1, 1) no crop within the ratio bounds fits a longer image, so every draw falls back."""
    boxes, _ = crops(sizes=np.array([[width, height]] * 50, np.int64), scale=(1.0, 1.0))
    theirs = torchvisions(width, height, (1.0, 1.0), RATIO, 50)
    assert len(np.unique(theirs, axis=0)) == 1
    assert np.array_equal(boxes, theirs)


def test_the_whole_image_is_taken_where_it_is_the_only_crop():
    boxes, _ = crops(sizes=np.array([[40, 40]] * 20, np.int64), scale=(1.0, 1.0), ratio=(1.0, 1.0))
    assert (boxes == [0, 0, 40, 40]).all()


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_flips_come_as_often_as_asked(probability):
    _, flips = crops(sizes=np.ones((20000, 2), np.int64), flip=probability)
    spread = np.sqrt(probability * (1 - probability) / 20000)
    assert abs(flips.mean() - probability) <= 4 * spread


def test_flips_have_nothing_to_do_with_crops():
    sizes = np.tile(np.array([[512, 384]], np.int64), (20000, 1))
    boxes, flips = crops(sizes=sizes)
    area = measures(boxes, 512, 384)["area"]
    assert ks_2samp(area[flips], area[~flips], method="asymp").pvalue > 1e-3


def test_no_images_give_no_crops():
    boxes, flips = crops(sizes=np.empty((0, 2), np.int64))
    assert boxes.shape == (0, 4)
    assert flips.shape == (0,)
