"""What --space and -S may say, and what is refused before the first trial, with a cure that helps."""

import re

import pytest
import tiny

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document
from vitlora.trials.values import with_values
from vitlora.tune.space import Choices, Range, current, members, read_fixed, read_space, refuse_idle, size


@pytest.fixture
def document(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no base model lies
    return read_document(tiny.DIGITS)


@pytest.mark.parametrize(
    ("word", "within"),
    [
        ("lora.r=4,8,16", Choices(("4", "8", "16"))),
        ("lora.r=8, 4 ,8", Choices(("8", "4"))),
        ("train.learning_rate=1e-4:1e-2:log", Range(1e-4, 1e-2, True, False)),
        ("train.learning_rate=1:2", Range(1.0, 2.0, False, False)),
        ("train.num_train_epochs=2:5", Range(2, 5, False, True)),
        ("train.head_learning_rate=null,1e-3,.01", Choices(("null", "0.001", "0.01"))),
        ("train.lr_scheduler_type=linear,cosine", Choices(('"linear"', '"cosine"'))),
        ("lora.use_rslora=true,false", Choices(("true", "false"))),
        ("lora.target_modules=[query, value],attention,null", Choices(('["query", "value"]', '"attention"', "null"))),
        ("augment.scale=[0.5, 1.0],[0.8, 1.0]", Choices(("[0.5, 1.0]", "[0.8, 1.0]"))),
    ],
)
def test_values_lists_and_ranges_are_read_as_the_key_has_them(document, word, within):
    assert read_space([word], document) == {word.partition("=")[0]: within}


@pytest.mark.parametrize(
    ("word", "said", "cure"),
    [
        ("lora.rank=4,8", "got lora.rank; the rule: a key of params.yaml; did you mean lora.r?", "lora.r=4,8"),
        ("train.lerning_rate=1:2", "did you mean train.learning_rate?", "train.learning_rate=1:2"),
        ("zzz=1,2", "`vitlora params` lists them", "lora.r=1,2"),
        ("lora.r", "has no value; the rule: KEY=VALUES", "lora.r=4,8"),
        ("lora.r=", "has no value", "lora.r=4,8"),
        ("lora.r=4", "one value; the rule: two or more", "lora.r=4,6"),
        ("lora.r=4,4", "one value", "lora.r=4,6"),
        ("lora.r=4,0", "lora.r: got 0; the rule: at least 1", "lora.r=4,1"),
        ("lora.r=4,8.5", "lora.r: got 8.5; the rule: a whole number", "lora.r=4,8"),
        ("lora.r=4,big", 'lora.r: got "big"; the rule: a whole number', "lora.r=4,5"),
        ("lora.r=4,1000", "no larger than the base model's layers, 384", "lora.r=4,384"),
        ("lora.r=1:1000", "no larger than the base model's layers, 384", "lora.r=1:384"),
        ("lora.r=1.5:4", "ends are not whole", "lora.r=1:4"),
        ("lora.r=8:4", "8 is not below 4", "lora.r=4:8"),
        ("lora.r=4:4", "4 is not below 4", "lora.r=4:5"),
        ("train.learning_rate=0:1:log", "a logarithm needs numbers above 0", "train.learning_rate=1e-9:1:log"),
        ("train.learning_rate=0:1", "got 0.0; the rule: above 0", "train.learning_rate=1e-9:1"),
        ("train.learning_rate=1e-4:20", "got 20.0; the rule: at most 10", "train.learning_rate=1e-4:10"),
        ("train.learning_rate=1-4:1e-2", "not two numbers", "train.learning_rate=1e-4:1e-2"),
        ("train.lr_scheduler_type=1:2", "not a number", "train.lr_scheduler_type=linear,cosine"),
        (
            "train.lr_scheduler_type=linear,cosin",
            'got "cosin"; the rule: linear',
            "train.lr_scheduler_type=linear,cosine",
        ),
        ("image.size_px=28:56", "got 29; the rule: a multiple of the base model's patch, 14", "image.size_px=28,42,56"),
        ("train.warmup_steps=0:5", "got 1.67; the rule: a whole number of steps", "train.warmup_steps=0:0.5"),
        ("lora.target_modules=[query,value", "can't be read", "lora.target_modules=[query],[value]"),
        ("train.class_weights=none,{a: 2}", "got a mapping", "train.class_weights=none,balanced"),
        ("split.seed=1,2", "it changes which pictures are val", "train.weight_decay=0:0.1"),
        ("data.path=a,b", "it changes which pictures are val", "train.weight_decay=0:0.1"),
        ("evaluate.tta=none,flip", "it changes no val score", "augment.horizontal_flip_p=0,0.5"),
        ("train.seed=1,2,3", "the luckiest, not the best", "train.weight_decay=0:0.1"),
        ("train.metric_for_best_model=loss,accuracy", "what the trials are compared by", "train.weight_decay=0:0.1"),
    ],
)
def test_a_mistake_is_named_and_its_cure_helps(document, word, said, cure):
    with pytest.raises(VitloraError, match=re.escape(said)) as caught:
        read_space([word], document)
    assert str(caught.value).startswith(f"--space {word.partition('=')[0]}")
    assert read_space([cure], document)


def test_a_key_that_is_there_twice_is_refused(document):
    with pytest.raises(VitloraError, match=r"lora.r is there twice; the rule: once"):
        read_space(["lora.r=1,2", "lora.r=4,8"], document)


def test_every_mistaken_choice_is_found_not_only_the_first(document):
    with pytest.raises(VitloraError, match=r"got -1"):
        read_space(["train.weight_decay=0.0,0.5,-1"], document)


@pytest.mark.parametrize(
    "word", ["train.num_train_epochs=0", "train.num_train_epochs=soon", "train.epochs=1", "lora.r"]
)
def test_what_is_fixed_is_checked_likewise(document, word):
    with pytest.raises(VitloraError, match=r"^-S "):
        read_fixed([word], document)


def test_what_is_fixed_is_checked_beside_the_others(document):
    words = ["train.num_train_epochs=10", "train.swa_epoch_start=5"]
    assert read_fixed(words, document) == {"train.num_train_epochs": 10, "train.swa_epoch_start": 5}
    with pytest.raises(VitloraError, match=r"-S train\.swa_epoch_start=5: .*below num_train_epochs"):
        read_fixed(words[1:], document)


def test_what_is_fixed_may_be_of_any_section_and_is_set_in_a_copy(document):
    fixed = read_fixed(
        ["train.num_train_epochs=1", "split.max_per_class=40", "train.head_learning_rate=null"], document
    )
    assert fixed == {"train.num_train_epochs": 1, "split.max_per_class": 40, "train.head_learning_rate": None}
    changed = with_values(document, fixed)
    assert (changed["train"]["num_train_epochs"], changed["split"]["max_per_class"]) == (1, 40)
    assert document["train"]["num_train_epochs"] == 3


@pytest.mark.parametrize(
    ("words", "fixed", "said"),
    [
        (["lora.r=4,8"], {}, "--space lora.r: no effect; the rule: a key that lora.method full reads"),
        (["lora.r=4:8"], {}, "--space lora.r: no effect"),
        (["lora.r=4,8", "lora.method=full,head"], {}, "a key that lora.method full or head reads"),
        (["train.learning_rate=1e-5:1e-3"], {"lora.lora_alpha": 8}, "-S lora.lora_alpha: no effect"),
        (["lora.r=4,8", "lora.method=full,lora"], {}, None),
        (["lora.r=4,8"], {"lora.method": "lora"}, None),
        (["train.learning_rate=1e-5:1e-3"], {"lora.r": 16}, None),  # what stands there already
    ],
)
def test_what_no_trial_reads_is_refused(document, words, fixed, said):
    full = with_values(document, {"lora.method": "full"})
    space = read_space(words, with_values(full, fixed))
    if said is None:
        refuse_idle(space, fixed, full)
        return
    with pytest.raises(VitloraError, match=re.escape(said)):
        refuse_idle(space, fixed, full)


def test_drawn_numbers_have_three_digits_and_stay_within(document):
    within = Range(0.0012345, 0.0067891, False, False)
    assert [within.value(drawn) for drawn in (0.0012345, 0.00234567, 0.0067891)] == [0.0012345, 0.00235, 0.0067891]
    assert Range(1, 9, False, True).value(4) == 4


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (["lora.r=4,16"], {"lora.r": "16"}),
        (["lora.r=4,8"], None),
        (["lora.r=4:16", "train.learning_rate=1e-4:1e-2:log"], {"lora.r": 16, "train.learning_rate": 0.002}),
        (["train.learning_rate=1e-4:1e-3:log"], None),
        (["train.lr_scheduler_type=cosine,linear"], {"train.lr_scheduler_type": '"linear"'}),
        (["train.head_learning_rate=0.1:0.2"], None),
        (["train.weight_decay=0,0.1"], {"train.weight_decay": "0.0"}),  # as the document has it
        (["train.layer_decay=1,0.75"], {"train.layer_decay": "1.0"}),
        (["train.label_smoothing_factor=0.1,0.2"], None),
    ],
)
def test_the_documents_own_values_are_known_where_the_space_holds_them(document, words, own):
    assert current(document, read_space(words, document)) == own


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["lora.r=4,16"], 2),
        (["lora.r=4:7", "lora.use_rslora=true,false"], 8),
        (["lora.r=4,8,16", "train.lr_scheduler_type=linear,cosine", "train.num_train_epochs=2:3"], 12),
    ],
)
def test_a_finite_space_is_known_with_all_its_members(document, words, count):
    space = read_space(words, document)
    every = list(members(space))
    assert (size(space), len(every), len({str(each) for each in every})) == (count, count, count)
    assert size(read_space([*words, "train.learning_rate=1:2"], document)) == float("inf")
