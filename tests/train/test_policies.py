"""RandAugment, TrivialAugment, AugMix, colours and erasing: torchvision's own classes, given our draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from loading import packed
from scipy.stats import chisquare, ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import _augment, _auto_augment, _color

from vitlora.train.augment import DRAWS, ERASING, JITTER, POLICY, erased_box, uniforms_of
from vitlora.train.dataset import TrainLoader
from vitlora.train.operations import operate
from vitlora.train.params import Augment
from vitlora.train.policies import AUGMIX_DRAWS, alter, augmix, jitter, magnitudes, operation

CLASSES = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide, "augmix": v2.AugMix}
BINS = {"randaugment": 31, "trivialaugment": 31, "augmix": 10}
SIZES = [8, 42, 97, 224]
ALL = {"policy": "randaugment", "color_jitter": 0.4, "erasing_p": 0.5}
each_policy = pytest.mark.parametrize("policy", CLASSES)


def law(**changes):
    return Augment(**{**tiny.AUGMENT, **changes})


def picture(size, seed=0):
    """Return noise over soft shapes, of narrow range, so that every operation does something."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    waves = np.stack([np.sin(x / 7 + shift) + np.cos(y / 5 - shift) for shift in range(3)])
    return torch.from_numpy(np.clip(120 + 35 * waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8))


class Scripted:
    """Stands for torch in one of torchvision's modules and answers its draws from a list of (name, answer)."""

    def __init__(self, answers):
        self.answers = list(answers)

    def __getattr__(self, name):
        return getattr(torch, name)

    def _next(self, name):
        wanted, answer = self.answers.pop(0)
        assert wanted == name
        return answer

    def randint(self, *args, **kwargs):
        return torch.tensor(self._next("randint"))

    def rand(self, *args):
        return torch.tensor(self._next("rand"))

    def randperm(self, count):
        return self._next("randperm")

    def _sample_dirichlet(self, alphas):
        assert torch.equal(alphas, torch.ones_like(alphas))
        return torch.tensor([self._next("dirichlet")], dtype=torch.float32)

    def empty(self, *shape, **kwargs):
        def uniform(low, high):
            return torch.tensor([float(low) + (float(high) - float(low)) * self._next("uniform")])

        return SimpleNamespace(uniform_=uniform)


def scripted(monkeypatch, module, answers):
    stand_in = Scripted(answers)
    monkeypatch.setattr(module, "torch", stand_in)
    return stand_in


def answers_of(policy, size, drawn, level):
    """What torchvision asks for to come to the operation of three draws; ``level`` is None where it is not asked."""
    space = CLASSES[policy]._AUGMENTATION_SPACE
    name = list(magnitudes(policy, size))[int(drawn[0] * len(space))]
    values, signed = space[name]
    yield "randint", list(space).index(name)
    if values(BINS[policy], size, size) is not None:
        if level is not None:
            yield "randint", level
        if signed:
            yield "rand", 0.1 if drawn[2] < 0.5 else 0.9


# Tables and pixels


@each_policy
@pytest.mark.parametrize("size", SIZES)
def test_operations_and_strengths_are_torchvisions_to_the_bit(policy, size):
    ours, theirs = magnitudes(policy, size), CLASSES[policy]._AUGMENTATION_SPACE
    assert set(ours) == set(theirs)
    for name, (values, _) in theirs.items():
        expected = values(BINS[policy], size, size)
        assert ours[name] == ([] if expected is None else [float(value) for value in expected]), name


@each_policy
@pytest.mark.parametrize("size", [8, 42, 97])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_pixels_of_every_operation_are_torchvisions_to_the_bit(policy, size, interpolation):
    image, theirs = picture(size), CLASSES[policy]()
    for name, values in magnitudes(policy, size).items():
        for magnitude in [0.0, *(sign * value for value in values[:: 1 + len(values) // 4] for sign in (1, -1))]:
            if magnitude < 0 and not theirs._AUGMENTATION_SPACE[name][1]:
                continue
            expected = theirs._apply_image_or_video_transform(image, name, magnitude, interpolation, theirs._fill)
            assert torch.equal(operate(image, name, magnitude, interpolation), expected), (name, magnitude)


ODD = {
    "black": torch.zeros(3, 9, 9, dtype=torch.uint8),
    "white": torch.full((3, 9, 9), 255, dtype=torch.uint8),
    "two values": (torch.arange(243).view(3, 9, 9) % 2).to(torch.uint8) * 200 + 20,
    "one bright pixel": torch.zeros(3, 20, 20, dtype=torch.uint8).index_fill(2, torch.tensor([7]), 255),
    "every byte": torch.arange(768).remainder(256).view(3, 16, 16).to(torch.uint8),
    "one pixel": torch.tensor([[[5]], [[100]], [[250]]], dtype=torch.uint8),
    "one colour": torch.tensor([92, 41, 69], dtype=torch.uint8).view(3, 1, 1).repeat(1, 42, 42),  # ties everywhere
    "one colour of augmix": torch.tensor([173, 254, 96], dtype=torch.uint8).view(3, 1, 1).repeat(1, 14, 14),
    "dark, many pixels": torch.arange(3 * 97 * 97).remainder(3).view(3, 97, 97).to(torch.uint8),
}


@each_policy
@pytest.mark.parametrize("kind", ODD)
def test_pixels_of_odd_pictures_are_torchvisions_too(policy, kind):
    image, theirs = ODD[kind], CLASSES[policy]()
    for name, values in magnitudes(policy, image.shape[-1]).items():
        for magnitude in values or [0.0]:
            expected = theirs._apply_image_or_video_transform(image, name, magnitude, "nearest", theirs._fill)
            assert torch.equal(operate(image, name, magnitude, "nearest"), expected), (name, magnitude)


# Whole laws: torchvision's classes, answered by our draws


@pytest.mark.parametrize(("num_ops", "magnitude", "size"), [(2, 9, 42), (1, 30, 97), (3, 5, 31), (5, 17, 16)])
def test_a_picture_is_what_torchvisions_randaugment_makes_of_our_draws(monkeypatch, num_ops, magnitude, size):
    wanted = law(policy="randaugment", randaugment_num_ops=num_ops, randaugment_magnitude=magnitude)
    for row in range(30):
        drawn = uniforms_of(row, 3, 1, POLICY, 3 * num_ops).reshape(-1, 3)
        script = scripted(
            monkeypatch, _auto_augment, (step for each in drawn for step in answers_of("randaugment", size, each, None))
        )
        expected = v2.RandAugment(num_ops, magnitude)(picture(size, row))
        assert script.answers == []
        assert torch.equal(alter(picture(size, row), wanted, (0, 0, 0), row, 3, 1), expected)


@pytest.mark.parametrize("size", [20, 42, 97])
def test_a_picture_is_what_torchvisions_trivialaugment_makes_of_our_draws(monkeypatch, size):
    for row in range(60):
        drawn = uniforms_of(row, 4, 2, POLICY, 3)
        script = scripted(
            monkeypatch, _auto_augment, answers_of("trivialaugment", size, drawn, int(31 * float(drawn[1])))
        )
        expected = v2.TrivialAugmentWide()(picture(size, row))
        assert script.answers == []
        assert torch.equal(
            alter(picture(size, row), law(policy="trivialaugment"), (0, 0, 0), row, 4, 2),
            expected,
        )


@pytest.mark.parametrize("size", [16, 42, 97])
def test_a_picture_is_what_torchvisions_augmix_makes_of_our_draws(monkeypatch, size):
    for row in range(20):
        drawn = uniforms_of(row, 5, 0, POLICY, AUGMIX_DRAWS)
        among = -np.log1p(-drawn[1:4])
        answers = [("dirichlet", [1 - drawn[0], drawn[0]]), ("dirichlet", (among / among.sum()).tolist())]
        for length, chain in zip(drawn[4:7], drawn[7:].reshape(3, 3, 3), strict=True):
            depth = 1 + int(length * 3)
            answers.append(("randint", depth))
            answers += [step for each in chain[:depth] for step in answers_of("augmix", size, each, int(3 * each[1]))]
        script = scripted(monkeypatch, _auto_augment, answers)
        monkeypatch.setattr(
            v2.AugMix, "_sample_dirichlet", lambda _, alphas, script=script: script._sample_dirichlet(alphas)
        )
        expected = v2.AugMix()(picture(size, row))
        assert script.answers == []
        assert torch.equal(alter(picture(size, row), law(policy="augmix"), (0, 0, 0), row, 5, 0), expected)


@pytest.mark.parametrize("strength", [0.1, 0.4, 1.0])
def test_colours_are_what_torchvisions_color_jitter_makes_of_our_draws(monkeypatch, strength):
    for row in range(20):
        drawn = uniforms_of(row, 6, 0, JITTER, 6)
        answers = [("randperm", torch.tensor([*np.argsort(drawn[3:]), 3])), *(("uniform", u) for u in drawn[:3])]
        scripted(monkeypatch, _color, answers)
        expected = v2.ColorJitter(strength, strength, strength)(picture(31, row)).int()
        off = (jitter(picture(31, row), strength, drawn).int() - expected).abs()
        assert off.max() <= 1  # a factor in float32 and one in float64
        assert off.float().mean() < 0.01


@pytest.mark.parametrize("size", [8, 42, 224])
def test_rectangles_are_what_torchvisions_random_erasing_makes_of_our_draws(monkeypatch, size):
    erased, image = 0, picture(size)
    for row in range(200):
        drawn = uniforms_of(row, 7, 0, ERASING, DRAWS)
        box = erased_box(drawn, 0.5, size)
        assert (box is not None) <= (drawn[0] < 0.5)
        if box is None:
            continue
        tries = drawn[1:].reshape(-1, 4)
        left, top, right, bottom = box
        used = next(n for n in range(10) if _fits(tries[n], size))
        answers = [("uniform", u) for each in tries[: used + 1] for u in each[:2]]
        scripted(monkeypatch, _augment, [*answers, ("randint", [top]), ("randint", [left])])
        theirs = v2.RandomErasing(value=9).make_params([image])
        assert (theirs["i"], theirs["j"], theirs["h"], theirs["w"]) == (top, left, bottom - top, right - left)
        found = alter(image, law(erasing_p=0.5), (7, 8, 9), row, 7, 0)
        assert found[:, top:bottom, left:right].float().std(dim=(1, 2), correction=0).tolist() == [0, 0, 0]
        assert found[:, top, left].tolist() == [7, 8, 9]
        assert int((found != image).any(0).sum()) <= (right - left) * (bottom - top)
        erased += 1
    assert 70 < erased < 130


def _fits(drawn, size):
    area, stretch = size**2 * (0.02 + 0.31 * drawn[0]), np.exp(np.log(0.3) + np.log(11) * drawn[1])
    return max(round((area * stretch) ** 0.5), round((area / stretch) ** 0.5)) < size


# Laws of the draws, by statistics


def test_operations_come_equally_often_and_signs_half_and_half():
    for policy in ("randaugment", "trivialaugment"):
        drawn = [operation(law(policy=policy), 224, uniforms_of(row, 0, 0, POLICY, 3)) for row in range(7000)]
        names = [name for name, _ in drawn]
        counts = {name: names.count(name) for name in magnitudes(policy, 224)}
        assert sum(counts.values()) == 7000
        assert chisquare(list(counts.values())).pvalue > 1e-3
        shears = [magnitude for name, magnitude in drawn if name.startswith("Shear")]
        assert abs(np.mean(np.array(shears) < 0) - 0.5) < 0.06
    assert len({magnitude for name, magnitude in drawn if name == "Rotate"}) > 50  # of trivialaugment, both ways


def test_rectangles_have_torchvisions_law():
    torch.manual_seed(0)
    theirs = [v2.RandomErasing().make_params([torch.empty(3, 97, 97)]) for _ in range(3000)]
    theirs = np.array([[each["j"], each["i"], each["w"], each["h"]] for each in theirs if each["v"] is not None])
    boxes = [erased_box(uniforms_of(row, 1, 0, ERASING, DRAWS), 1.0, 97) for row in range(3000)]
    left, top, right, bottom = np.array([box for box in boxes if box]).T
    ours = np.stack([left, top, right - left, bottom - top], axis=1)
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column], method="asymp").pvalue > 1e-3
    assert ks_2samp(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3], method="asymp").pvalue > 1e-3


def test_augmix_blends_by_torchvisions_shares():
    """The share of the picture itself, and the largest of the chains', against its Dirichlet draws."""
    torch.manual_seed(0)
    drawn = np.array([uniforms_of(row, 2, 0, POLICY, AUGMIX_DRAWS) for row in range(4000)])
    among = -np.log1p(-drawn[:, 1:4])
    ours = (among / among.sum(axis=1, keepdims=True)).max(axis=1)
    pairs, triples = (torch._sample_dirichlet(torch.ones(4000, count)) for count in (2, 3))
    assert ks_2samp(1 - drawn[:, 0], pairs[:, 0], method="asymp").pvalue > 1e-3
    assert ks_2samp(ours, triples.max(dim=1).values, method="asymp").pvalue > 1e-3


# A pure function of seed, epoch and picture


def test_draws_are_others_for_every_row_seed_epoch_and_stream():
    keys = [
        (row, seed, epoch, stream)
        for row in (0, 1, 2**31)
        for seed in (0, 1, 2**32 - 1)
        for epoch in (0, 1, 2)
        for stream in (2, 3, 4)
    ]
    assert len({tuple(uniforms_of(*key, 4)) for key in keys}) == len(keys)
    assert np.array_equal(uniforms_of(5, 0, 0, POLICY, 3), uniforms_of(5, 0, 0, POLICY, 40)[:3])


@pytest.mark.parametrize("changes", [ALL, {"policy": "trivialaugment"}, {"policy": "augmix", "erasing_p": 1.0}])
def test_pictures_do_not_depend_on_workers_batch_size_or_where_one_begins(tmp_path, changes):
    images = packed(tmp_path / "train", 70, size=16, law=law(**changes))

    def epochs(workers, batch_size, first=0):
        loader = TrainLoader(images, 3, batch_size, 2, workers, pinned=False)
        loader.skipped, found = first, []
        for epoch in range(2):
            loader.set_epoch(epoch)
            found += [part.clone() for batch in loader for part in batch]
        loader.close()
        return torch.cat(found)

    expected = epochs(0, 70)
    for workers, batch_size in ((0, 7), (1, 70), (4, 70), (3, 33)):
        assert torch.equal(epochs(workers, batch_size), expected)
    assert torch.equal(epochs(2, 10, first=3), expected[30:])
    assert not torch.equal(expected[:70].sort(dim=0).values, expected[70:].sort(dim=0).values)


def test_nothing_outside_is_drawn_from_or_changed():
    torch.manual_seed(0)
    image, before = picture(24), torch.get_rng_state()
    kept, state = image.clone(), np.random.get_state()[1].copy()
    for policy in CLASSES:
        first = [alter(image, law(**{**ALL, "policy": policy}), (1, 2, 3), row, 0, 0) for row in range(20)]
        torch.manual_seed(1)
        again = [alter(image, law(**{**ALL, "policy": policy}), (1, 2, 3), row, 0, 0) for row in range(20)]
        torch.manual_seed(0)
        assert all(map(torch.equal, first, again))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)
    assert torch.equal(image, kept)


def test_with_all_off_a_picture_stays_itself():
    image = picture(24)
    assert alter(image, law(), (0, 0, 0), 0, 0, 0) is image


def test_augmix_of_no_share_is_the_picture():
    draws = np.full(AUGMIX_DRAWS, 0.4)
    draws[0] = 0.0
    assert torch.equal(augmix(picture(24), draws), picture(24))
