"""Learning rates by layer: which weight has which, and that schedule, log and resuming know them."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
import training
from torch import nn

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json
from vitlora.core.params import load_params
from vitlora.model.base import load_base
from vitlora.safety.check import check_document
from vitlora.train.checkpoints import trainable
from vitlora.train.params import Train, TrainStage
from vitlora.train.rates import factors, regroup
from vitlora.train.stage import _tell_kept
from vitlora.train.step import blocks
from vitlora.train.trainer import ImageTrainer

PLAIN = Train.model_validate(training.settings({})["train"])


class Block(nn.Linear):
    pass


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Linear(2, 2)
        self.layers = nn.ModuleList(Block(2, 2) for _ in range(3))
        self.norm = nn.LayerNorm(2)
        self.classifier = nn.Linear(2, 2)


def test_rates_fall_from_the_last_block_down_and_the_head_has_its_own():
    model = Backbone()
    train = PLAIN.model_copy(update={"layer_decay": 0.5, "head_learning_rate": 3 * PLAIN.learning_rate})
    found = factors(model, list(model.layers), ["classifier.weight", "classifier.bias"], train)
    by_name = {name: found[id(weight)] for name, weight in model.named_parameters() if name.endswith("weight")}
    assert by_name == pytest.approx(
        {
            "embeddings.weight": 0.125,
            "layers.0.weight": 0.25,
            "layers.1.weight": 0.5,
            "layers.2.weight": 1,
            "norm.weight": 1,
            "classifier.weight": 3,
        }
    )


def test_groups_keep_their_weight_decay_and_the_sections_own_rate_comes_first():
    model = Backbone()
    weights = [weight for name, weight in model.named_parameters() if name.endswith("weight")]
    biases = [weight for name, weight in model.named_parameters() if name.endswith("bias")]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    factor = {id(weight): 0.5 for weight in (*weights, *biases)} | {id(weights[-1]): 1.0, id(biases[-1]): 1.0}
    regroup(optimizer, factor)
    assert [(g["lr"], g["weight_decay"], len(g["params"])) for g in optimizer.param_groups] == [
        (0.01, 0.1, 1),
        (0.01, 0.0, 1),
        (0.005, 0.1, len(weights) - 1),
        (0.005, 0.0, len(biases) - 1),
    ]


def test_a_run_has_them_and_resumes_to_the_same_bytes(prepared, tmp_path, monkeypatch):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    groups = []
    original = ImageTrainer.create_optimizer

    def noted(self, model=None):
        optimizer = original(self, model)
        groups.append([(group["lr"], len(group["params"])) for group in optimizer.param_groups])
        return optimizer

    monkeypatch.setattr(ImageTrainer, "create_optimizer", noted)
    training.fit()
    rate, plain = groups[-1][0][0], training.hashes()
    rows = read_csv(Path("plots/steps.csv"))
    settings = {"train__layer_decay": 0.5, "train__head_learning_rate": rate / 10}
    training.fit(**settings)
    assert sorted({lr / rate for lr, _ in groups[-1]}) == pytest.approx([0.1, 0.5, 1.0])  # two blocks and the head
    assert [row["learning_rate"] for row in read_csv(Path("plots/steps.csv"))] == [row["learning_rate"] for row in rows]
    golden = training.hashes()
    assert golden != plain
    with training.stopped_after(3):
        training.fit(**settings)
    training.fit(**settings)
    assert training.hashes() == golden


class Stages(nn.Module):
    """As ConvNeXt and Swin are built: each stage has blocks of its own width."""

    def __init__(self):
        super().__init__()
        sizes = (2, 2), (4, 9), (8, 2)
        stages = (nn.Sequential(*(Block(n, n) for _ in range(count))) for n, count in sizes)
        self.stages = nn.ModuleList(stages)
        self.classifier = nn.Linear(8, 2)


def test_blocks_are_found_in_a_list_and_in_a_sequence_of_one_kind():
    row = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Sequential(nn.GELU(), nn.Linear(3, 3), nn.GELU(), nn.GELU(), nn.GELU()), row
    )
    assert blocks(model) == list(row)
    backbone = Backbone()
    assert blocks(backbone) == list(backbone.layers)


def test_a_base_of_several_stages_is_refused():
    model = Stages()
    train = PLAIN.model_copy(update={"layer_decay": 0.75})
    with pytest.raises(VitloraError, match=r"train.layer_decay: got 0.75; the rule: 1.0 with this base model"):
        factors(model, blocks(model), ["classifier.weight"], train)  # the longest stage holds most weights
    with pytest.raises(VitloraError, match=r"train\.layer_decay"):
        factors(nn.Linear(2, 2), [], [], train)
    assert set(factors(model, [], [], PLAIN).values()) == {1.0}


HEAD_FIRST = {"train__num_train_epochs": 3, "train__weight_decay": 0.1}


@pytest.mark.parametrize(
    ("method", "epochs"),
    [
        ("lora", 1),
        pytest.param("lora", 2, marks=pytest.mark.faults),
        pytest.param("full", 1, marks=pytest.mark.faults),
        pytest.param("pissa", 1, marks=pytest.mark.faults),
    ],
)
def test_the_head_is_trained_alone_at_first_and_a_run_resumes_to_the_same_bytes(
    prepared, tmp_path, monkeypatch, capsys, method, epochs
):
    monkeypatch.chdir(training.link(prepared, tmp_path))
    settings = {**HEAD_FIRST, "lora__method": method, "train__head_only_epochs": epochs}
    seen = []
    original = ImageTrainer.evaluate

    def noted(self, *args, **kwargs):
        seen.append({name: weight.detach().clone() for name, weight in trainable(self.model).items()})
        return original(self, *args, **kwargs)

    def begun(self, *args, **kwargs):
        seen.append({name: weight.detach().clone() for name, weight in trainable(self.model).items()})
        return fit(self, *args, **kwargs)

    fit = ImageTrainer.fit
    with monkeypatch.context() as patch:
        patch.setattr(ImageTrainer, "evaluate", noted)
        patch.setattr(ImageTrainer, "fit", begun)
        training.fit(**settings)
    golden = training.hashes()
    assert f"the head alone in epoch{'s 1 to' * (epochs > 1)} {epochs}, then all" in capsys.readouterr().out
    for epoch, (before, after) in enumerate(pairwise(seen)):
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        heads = {name for name in before if "classifier" in name}
        assert moved == (heads if epoch < epochs else set(before)), epoch
    for at in (epochs * training.PER_EPOCH + difference for difference in (-1, 0, 1)):
        with training.stopped_after(at):
            training.fit(**settings)
        training.fit(**settings)
        assert training.hashes() == golden, at


def test_patience_begins_when_all_is_trained_and_averaged(prepared, tmp_path, monkeypatch, capsys):
    """Else it may end a run that has trained nothing but the head, or averaged nothing."""
    monkeypatch.chdir(training.link(prepared, tmp_path))
    settings = {"train__num_train_epochs": 6, "train__early_stopping_patience": 1, "train__learning_rate": 1e-9}
    for begins in ({"train__head_only_epochs": 3}, {"train__swa_epoch_start": 3}, {"train__head_only_epochs": 0}):
        training.fit(**settings, **begins)
        record = read_json(Path("metrics.json"))
        assert (record["epochs"], record["best_epoch"]) == ((4, 1) if any(begins.values()) else (2, 1)), begins
        said = capsys.readouterr().out
        assert ("only the head was trained: epoch 1" in said) == bool(begins.get("train__head_only_epochs"))
        assert ("epoch 1, the best on val, is no mean of epochs" in said) == ("train__swa_epoch_start" in begins)


def test_a_soup_is_no_head_alone_if_an_epoch_of_it_trained_all(capsys):
    train = load_params(TrainStage, training.settings({"train.head_only_epochs": 1}), Path("p")).train
    _tell_kept([1, 2], train)
    assert not capsys.readouterr().out
    _tell_kept([1], train)
    assert "only the head was trained: epoch 1" in capsys.readouterr().out


def test_a_head_that_is_not_new_is_not_trained_alone(prepared, tmp_path, monkeypatch):
    """A base that was trained on these classes already."""
    monkeypatch.chdir(training.link(prepared, tmp_path))
    model, _ = load_base(Path("base"), ["blue", "green", "red"], 32)
    Path("base").unlink()
    model.save_pretrained("base")
    (tmp_path / "base/preprocessor_config.json").write_bytes((prepared / "base/preprocessor_config.json").read_bytes())
    rule = r"train\.head_only_epochs: got 1; the rule: 0 with this base model, whose head has these classes already"
    with pytest.raises(VitloraError, match=rule):
        training.fit(train__head_only_epochs=1)
    training.fit(train__head_only_epochs=0)


@pytest.mark.parametrize(("method", "why"), [("head", "trains nothing but the head"), ("adalora", "judges ranks")])
def test_methods_that_have_no_two_phases(method, why):
    document = training.settings({"lora.method": method, "train.head_only_epochs": 1})
    with pytest.raises(VitloraError, match=rf"got 1; the rule: 0 with lora.method {method}, which {why}"):
        check_document(document, Path("p"))
    document["train"]["head_only_epochs"] = 0
    check_document(document, Path("p"))
