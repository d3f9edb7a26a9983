"""Several adapters on one base, of other methods and classes: each answers as by itself, and the base is there once."""

import numpy as np
import pytest
import tiny
import torch
from corpus import noisy, saved
from served import serving
from tiny import LORA

from vitlora.core.errors import VitloraError
from vitlora.model.adapters import add_adapter, load_adapter, save_adapter
from vitlora.model.base import Normalisation, load_base
from vitlora.model.params import Lora
from vitlora.predict.pictures import square
from vitlora.serve.adapters import on_one_base
from vitlora.storage.labels import Labels

HALF = Normalisation([0.5] * 3, [0.5] * 3)
MADE = {
    "lora": ("lora", {}, ["blue", "green", "red"]),
    "dora": ("dora", {}, ["ant", "bee"]),
    "ia3": ("ia3", {}, ["one", "two", "three", "four", "five"]),
    "head": ("head", {}, ["x", "y", "z"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny base and its adapters, by name."""
    root = tmp_path_factory.mktemp("adapters")
    tiny.make_base(root / "base")
    for number, (name, (method, options, classes)) in enumerate(MADE.items()):
        torch.manual_seed(number)
        model, fresh = load_base(root / "base", classes, 32)
        adapted = add_adapter(model, fresh, Lora(**{**LORA, "method": method, "options": options}), 10).model
        with torch.no_grad():
            for weight in adapted.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.1)
        told = {"name": method, "modules_to_save": ["classifier"]}
        save_adapter(adapted.eval(), root / name, root / "base", Labels(classes, 32, "bilinear"), HALF, told)
    return root


def own(folders, name, squares):
    """Return an adapter's probabilities with a base of its own, merged."""
    model, _, normalisation = load_adapter(folders / "base", folders / name)
    with torch.inference_mode():
        return model(pixel_values=normalisation(torch.from_numpy(squares))).logits.softmax(1).numpy()


def bytes_of(models):
    """Return the memory of all weights, each piece counted once."""
    weights = [weight for model in models for weight in model.score.args[0].parameters()]
    return sum({weight.data_ptr(): weight.nbytes for weight in weights}.values())


def test_each_answers_as_by_itself_and_the_base_is_in_memory_once(folders):
    squares = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    found = on_one_base(folders / "base", [(name, folders / name) for name in MADE], 10_000)
    assert [(model.name, model.class_names) for model in found] == [(name, made[2]) for name, made in MADE.items()]
    for _ in range(2):
        for model in found:
            np.testing.assert_allclose(model.score(squares), own(folders, model.name, squares), atol=2e-6)
    alone = [bytes_of(on_one_base(folders / "base", [(name, folders / name)], 10_000)) for name in MADE]
    base = sum(weight.nbytes for weight in load_base(folders / "base", ["a", "b"], 32)[0].parameters())
    assert bytes_of(found) < max(alone) + 0.5 * base
    assert sum(alone) > 4 * base


def test_a_base_of_other_weights_and_a_folder_without_an_adapter_are_refused(folders, tmp_path):
    torch.manual_seed(9)
    tiny.make_base(tmp_path / "base")
    other = tmp_path / "base/model.safetensors"
    data = bytearray(other.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    with pytest.raises(VitloraError, match="trained on other weights"):
        on_one_base(tmp_path / "base", [("lora", folders / "lora")], 10_000)
    with pytest.raises(VitloraError, match=r"holds no vitlora\.json; `dvc repro` makes"):
        on_one_base(folders / "base", [("a", tmp_path)], 10_000)
    with pytest.raises(VitloraError, match=r"holds no config\.json; `dvc repro` makes"):
        on_one_base(tmp_path, [("lora", folders / "lora")], 10_000)


@pytest.mark.faults
def test_a_server_answers_by_the_adapter_that_is_named(folders):
    given = [word for name in ("lora", "dora") for word in ("--adapter", folders / name)]
    with serving("--base", folders / "base", *given, "--decoders", "1") as server:
        for name in ("dora", "lora", "dora"):
            for seed in range(3):
                data = saved(noisy(40, 32, seed), "PNG")
                _, _, told = server.send(("a.png", data), path=f"/predict?model={name}")
                due = own(folders, name, square(32, "bilinear", data)[None])[0]
                shares = {each["class"]: each["confidence"] for each in told["answers"][0]["predictions"]}
                assert [shares[each] for each in MADE[name][2]] == pytest.approx(due.tolist(), abs=3e-6)
