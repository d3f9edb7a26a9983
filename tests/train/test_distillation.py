"""Distillation: its law, that the teacher sees what the student sees, and that no other teacher slips in."""

import copy
import shutil
from contextlib import chdir, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import torch
import training
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json, write_json
from vitlora.model.adapters import load_adapter
from vitlora.model.base import Normalisation
from vitlora.model.seen import SEEN, pictures_met
from vitlora.safety import preflight
from vitlora.storage.manifest import digest
from vitlora.train.distillation import Distillation, _scale
from vitlora.train.trainer import ImageTrainer

GREY = Normalisation([0.5, 0.4, 0.3], [0.2, 0.3, 0.5])


class Linear(nn.Module):
    """A teacher of two layers' worth."""

    def __init__(self, classes, side=4):
        super().__init__()
        torch.manual_seed(classes)
        self.layer = nn.Linear(3 * side * side, classes)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=3 * self.layer(pixel_values.flatten(1)))


def batch(images, classes, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, 4, 4), generator=drawn, dtype=torch.uint8)
    return pixels, torch.randn(images, classes, generator=drawn, requires_grad=True), torch.arange(images) % classes


def distil(teacher, alpha, temperature):
    return Distillation(Path(), teacher, GREY, None, alpha, temperature)


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 1.0), (0.9, 4.0), (1.0, 2.0), (0.1, 0.5)])
def test_the_loss_is_that_of_the_paper(classes, alpha, temperature):
    teacher = Linear(classes)
    images, logits, labels = batch(5, classes)
    hard = functional.cross_entropy(logits, labels)
    found = distil(teacher, alpha, temperature).blend(hard, logits, images, nullcontext())
    wanted = (teacher(GREY(images)).logits / temperature).softmax(1)
    own = (logits / temperature).softmax(1)
    divergence = (wanted * (wanted / own).log()).sum(1).mean()
    torch.testing.assert_close(found, (1 - alpha) * hard + alpha * temperature**2 * divergence)
    found.backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    # The soft part's gradient is T (softmax of the student - softmax of the teacher), over the images.
    expected = (1 - alpha) * (logits.softmax(1) - functional.one_hot(labels, classes)) + alpha * temperature * (
        own - wanted
    )
    torch.testing.assert_close(logits.grad, expected.detach() / 5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(6,), (4, 2), (1, 2, 3)])
def test_micro_batches_of_any_size_give_the_loss_of_their_images_together(sizes):
    images, logits, labels = batch(6, 3)
    student = distil(Linear(3), 0.7, 3.0)
    whole = student.blend(functional.cross_entropy(logits, labels), logits, images, nullcontext())
    parts = zip(*(each.split(sizes) for each in (images, logits, labels)), strict=True)
    losses = [
        len(some) / 6 * student.blend(functional.cross_entropy(own, right), own, some, nullcontext())
        for some, own, right in parts
    ]
    torch.testing.assert_close(sum(losses), whole)


def test_nothing_is_left_to_learn_from_a_teacher_that_one_equals():
    teacher = Linear(4)
    images, _, _ = batch(5, 4)
    logits = teacher(GREY(images)).logits.detach()
    assert float(distil(teacher, 1.0, 2.0).blend(torch.tensor(9.0), logits, images, nullcontext())) == pytest.approx(
        0, abs=1e-6
    )


def test_a_teacher_whose_weights_hold_a_temperature_is_taken_at_its_own_scores():
    images, logits, labels = batch(5, 4)
    hard, teacher = functional.cross_entropy(logits, labels), Linear(4)
    cooler = copy.deepcopy(teacher)
    with torch.no_grad():
        for weight in cooler.parameters():
            weight /= 4
    found = distil(teacher, 0.5, 2.0).blend(hard, logits, images, nullcontext())
    scaled = distil(cooler, 0.5, 2.0)
    scaled.scale = _scale({"temperature": 4.0, "in_weights": True})
    torch.testing.assert_close(scaled.blend(hard, logits, images, nullcontext()), found)
    assert _scale({"temperature": 4.0, "in_weights": False}) == _scale({}) == 1


@pytest.fixture(scope="module")
def exported(prepared, tmp_path_factory):
    """A trained model's folder with what is read of it; a real one is in the last test."""
    with chdir(training.link(prepared, tmp_path_factory.mktemp("teacher"))):
        training.fit(train__num_train_epochs=4, lora__r=4)
        merged, _, _ = load_adapter(Path("base"), Path("adapter"))
        merged.save_pretrained("export")
        bundle = {**read_json(Path("adapter/vitlora.json")), "pictures": pictures_met(Path("adapter"))}
        write_json(Path("export/vitlora.json"), bundle)
        return Path("export").resolve()


@pytest.fixture
def teacher(exported, prepared, tmp_path, monkeypatch):
    """In a folder of inputs, the teacher beside them."""
    monkeypatch.chdir(training.link(prepared, tmp_path))
    return Path(shutil.copytree(exported, "teacher"))


def pinned(folder=Path("teacher")):
    return f"{folder}@sha256:{digest(folder)[:16]}"


SHORT = {"train__num_train_epochs": 1}


def test_a_student_sees_what_its_teacher_sees_and_resumes_to_the_same_bytes(teacher, monkeypatch):
    settings = {"train__teacher": pinned(), "augment__mixup_alpha": 0.4, "augment__color_jitter": 0.2}
    pairs, blend = [], Distillation.blend

    def noted(self, hard, logits, images, autocast):
        pairs.append((images.clone(), logits.detach().clone()))
        return blend(self, hard, logits, images, autocast)

    inputs = []
    compute = ImageTrainer.compute_loss

    def computed(self, model, batch, **kwargs):
        if kwargs.get("return_outputs") and model.training:
            inputs.append(batch["pixel_values"].clone())
        return compute(self, model, batch, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "blend", noted)
        patch.setattr(ImageTrainer, "compute_loss", computed)
        training.fit(**settings)
    golden = training.hashes()
    assert len(pairs) == len(inputs) > training.STEPS
    half = Normalisation([0.5] * 3, [0.5] * 3)
    assert all(torch.equal(half(images), given) for (images, _), given in zip(pairs, inputs, strict=True))
    for at in (training.PER_EPOCH, training.STEPS - 1):
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at


def test_a_student_of_the_teacher_alone_needs_no_labels(teacher, monkeypatch):
    """With alpha 1 what the labels say changes nothing."""
    training.fit(**SHORT, train__teacher=pinned(), train__distillation_alpha=1.0)
    saved = load_file("adapter/adapter_model.safetensors")
    training.fit(**SHORT, train__teacher=pinned(), train__distillation_alpha=1.0, train__label_smoothing_factor=0.9)
    again = load_file("adapter/adapter_model.safetensors")
    for name, weight in saved.items():
        torch.testing.assert_close(again[name], weight)
    training.fit(**SHORT, train__teacher=pinned(), train__distillation_alpha=0.5, train__label_smoothing_factor=0.9)
    other = load_file("adapter/adapter_model.safetensors")
    assert any(not torch.allclose(other[name], weight) for name, weight in saved.items())


def test_a_teacher_that_is_pinned_to_no_content_or_to_another_is_refused_with_the_name_to_write(teacher):
    for wrong in ("teacher", "teacher@sha256:" + "0" * 16, "teacher@0000000"):
        with pytest.raises(VitloraError, match=r"^train\.teacher: got " + wrong) as refused:
            training.fit(**SHORT, train__teacher=wrong)
        if not wrong.endswith("@0000000"):
            assert str(refused.value).endswith(f"write {pinned()}")
    name = pinned()
    training.fit(**SHORT, train__teacher=name)
    weights = load_file(teacher / "model.safetensors")
    save_file({key: weight + 1e-3 for key, weight in weights.items()}, teacher / "model.safetensors", {"format": "pt"})
    with pytest.raises(VitloraError, match="the folder's own hash; if it is the one you mean, write teacher@sha256:"):
        training.fit(**SHORT, train__teacher=name)


def change(**values):
    write_json(Path("teacher/vitlora.json"), {**read_json(Path("teacher/vitlora.json")), **values})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"class_names": ["blue", "green", "yellow"]}, "it lacks red and has yellow; the rule: the data's classes"),
        ({"class_names": ["blue", "green"]}, "it lacks red; the rule"),
        ({"class_names": ["blue", "green", "red", "x", "y"]}, "it has x and others; the rule"),
        ({"class_names": ["green", "blue", "red"]}, "it has green at place 1, where the data have blue; the rule"),
        (
            {"image_size": 64},
            r"takes squares of 64 px, and these have 32; .* set image\.size_px to 64, or train the tea",
        ),
    ],
)
def test_a_teacher_of_other_classes_or_another_size_is_refused(teacher, changes, said):
    right = read_json(teacher / "vitlora.json")
    change(**changes)
    with pytest.raises(VitloraError, match=rf"^train\.teacher: {pinned()} .*{said}"):
        training.fit(**SHORT, train__teacher=pinned())
    change(**{key: right[key] for key in changes})
    training.fit(**SHORT, train__teacher=pinned())


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vitlora.json"])
def test_a_folder_that_export_has_not_written_so_is_refused(teacher, name):
    (teacher / name).rename("aside")
    rule = rf"lacks {name}; the rule: a folder as export writes it, with transformers among export.formats"
    with pytest.raises(VitloraError, match=rule):
        training.fit(**SHORT, train__teacher=pinned())


def test_pictures_that_the_teacher_alone_has_met_are_not_passed_over(teacher):
    training.fit(**SHORT, train__teacher=pinned())
    assert Path("adapter", SEEN).is_file(), "both have met the same"
    for other in ("0" * 64, None):
        change(pictures=other)
        training.fit(**SHORT, train__teacher=pinned())
        assert not Path("adapter", SEEN).exists()


def test_before_dvc_starts_a_teacher_that_is_not_pinned_is_refused(teacher, monkeypatch):
    monkeypatch.setattr(preflight, "read_lock", lambda: {"export": {"outs": [{"path": "models/export"}]}})
    monkeypatch.setattr(preflight, "committed_output", lambda place: "1234567890abcdef" * 2)
    shutil.copytree(teacher, "models/export")
    cures = {"teacher": pinned(), "models/export": "models/export@1234567890abcdef"}
    cures["models/export@sha256:" + "0" * 16] = cures["models/export"]
    for wrong, right in cures.items():
        document = training.settings({"train.teacher": wrong})
        with pytest.raises(VitloraError, match=rf"train\.teacher: got {wrong}, which .*write {right}(, or copy|$)"):
            preflight._refuse_unpinned(document)
        document["train"]["teacher"] = right
        preflight._refuse_unpinned(document)


@pytest.mark.faults
def test_an_exported_model_of_a_commit_teaches_a_smaller_one(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    training.fit(train__num_train_epochs=4)
    training.evaluate_here()
    training.export_here(to="models/export")
    for place in (*training.INPUTS, "adapter", "evaluated", "scores"):
        Path(place).unlink() if Path(place).is_symlink() else shutil.rmtree(place)
    tiny.git(tmp_path, "init", "-q", "-b", "main")
    tiny.dvc(tmp_path, "init", "-q")
    tiny.dvc(tmp_path, "add", "-q", "models/export")
    tiny.commit(tmp_path)
    commit = tiny.git(tmp_path, "rev-parse", "HEAD").strip()[:16]
    shutil.rmtree("models/export")
    training.link(prepared, tmp_path)
    training.fit(train__teacher=f"models/export@{commit}", lora__r=1, train__num_train_epochs=4)
    assert Path("adapter", SEEN).is_file()
    assert read_json(Path("metrics.json"))["val_accuracy"] > 0.6
    training.evaluate_here()
