"""Every mistake in a parameter file is refused at once, by name, value and rule; every sensible file is taken."""

import re
import subprocess
from pathlib import Path

import pytest
from param_files import (
    BAD_VALUES,
    COMMIT,
    GOOD_FILES,
    GOOD_VALUES,
    NOT_TOGETHER,
    ODD_FILES,
    TEXT,
    changed,
    changed_all,
    replaced,
    run_stage,
)
from pydantic import ValidationError
from ruamel.yaml import YAML
from tiny import ROOT

from vitlora.core.errors import VitloraError
from vitlora.core.files import write_json
from vitlora.core.params import load_params, read_document, shown
from vitlora.model.params import Lora
from vitlora.safety.check import STAGES, check_document, sections
from vitlora.storage.manifest import write_manifest
from vitlora.train.params import TrainStage

PYDANTIC = re.compile(r"pydantic|Input should|after validation|valid array|List should|String should|Tuple should")
PRESETS = sorted(path.name for path in (ROOT / "presets").glob("*.yaml"))


def check(tmp_path, text, base=None):
    """Write and check a file; return its document, or the refusal, in our words, with the path taken off every line."""
    path = tmp_path / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        document = read_document(path)
        check_document(document, path, base)
    except VitloraError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(f"{path}: ") for line in lines), lines
        assert not PYDANTIC.search("\n".join(lines))
        return [line.removeprefix(f"{path}: ") for line in lines]
    return document


@pytest.mark.parametrize(
    ("key", "value", "got", "rule"), BAD_VALUES, ids=[f"{key} {value}" for key, value, *_ in BAD_VALUES]
)
def test_a_bad_value_is_refused_by_name_value_and_rule(tmp_path, key, value, got, rule):
    (line,) = check(tmp_path, changed(key, value))
    assert line.startswith(f"{key}: got {got}; the rule: ")
    assert rule in line


@pytest.mark.parametrize(
    ("values", "keys", "got", "rule"),
    NOT_TOGETHER,
    ids=[" ".join(f"{k} {v}" for k, v in c[0].items()) for c in NOT_TOGETHER],
)
def test_values_that_do_not_go_together_are_shown_alone(tmp_path, values, keys, got, rule):
    (line,) = check(tmp_path, changed_all(values))
    assert line.startswith(f"{keys}: got {got}; the rule: ")
    assert rule in line


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "thousands of brackets" else n for n in ODD_FILES]
)
def test_an_odd_file_is_refused_with_one_line(tmp_path, name):
    text, said = ODD_FILES[name]
    (line,) = check(tmp_path, text)
    assert re.match(said, line), line


def test_all_mistakes_are_listed_each_on_its_line(tmp_path):
    text = changed("export.batch_size", "0", changed("lora.r", "0", changed("lora.bias", "some")))
    assert [line.split(":")[0] for line in check(tmp_path, text)] == ["lora.r", "lora.bias", "export.batch_size"]


def test_both_numbers_of_a_bad_pair_are_named(tmp_path):
    assert check(tmp_path, changed("augment.scale", "[a, b]")) == [
        'augment.scale[0]: got "a"; the rule: a number, without quotes',
        'augment.scale[1]: got "b"; the rule: a number, without quotes',
    ]


def test_a_name_unlike_any_key_is_reported_besides_the_key_that_is_missing(tmp_path):
    lines = check(tmp_path, replaced("  learning_rate:", "  lr:"))
    assert lines[0].startswith("train.lr: got 0.002; the rule: one of learning_rate, per_device_train_batch_size,")
    assert lines[1].startswith("train.learning_rate: missing; ")
    assert len(lines) == 2


def test_a_missing_file_names_what_writes_one(tmp_path):
    with pytest.raises(VitloraError, match=r"none\.yaml: cannot be read \(No such file.*vitlora preset digits"):
        read_document(tmp_path / "none.yaml")


def test_a_long_value_is_cut_in_the_message():
    assert shown("x" * 1000) == '"' + "x" * 76 + "..."


def loaded(document, key):
    """Return the value that the stage which reads a key gets to see."""
    section, name = key.split(".")
    for stage in STAGES.values():
        field = stage.model_fields.get(section)
        if field is not None and name in field.annotation.model_fields:
            return getattr(getattr(load_params(stage, document, Path("p.yaml")), section), name)
    raise KeyError(key)


@pytest.mark.parametrize(("key", "value", "seen"), GOOD_VALUES, ids=[f"{key} {value}" for key, value, _ in GOOD_VALUES])
def test_a_good_value_reaches_its_stage_with_its_type(tmp_path, key, value, seen):
    document = check(tmp_path, changed(key, value))
    found = loaded(document, key)
    assert found == seen
    assert type(found) is type(seen)


@pytest.mark.parametrize("name", GOOD_FILES)
def test_values_that_go_together_are_taken(tmp_path, name):
    document = check(tmp_path, changed_all(GOOD_FILES[name]))
    for key, value in GOOD_FILES[name].items():
        assert str(loaded(document, key)).lower() == value.strip("'")


@pytest.mark.parametrize("method", ["lora", "merge", "full", "head"])
def test_only_a_method_with_an_adapter_exports_one(tmp_path, method):
    document = read_document(ROOT / "params.yaml")
    document["lora"]["method"], document["export"]["formats"] = method, ["onnx", "adapter"]
    if method == "merge":
        document["lora"]["options"] = {"adapters": ["a@sha256:00", "b@sha256:00"]}
    if method in ("lora", "merge"):
        check_document(document, Path("params.yaml"))
        return
    said = f"not adapter with lora.method {method}, which has none"
    with pytest.raises(VitloraError, match=said):
        check_document(document, Path("params.yaml"))


def test_the_committed_parameters_have_the_keys_of_the_digits_preset():
    """Their values are the user's own, and so is the file in the working tree."""
    committed = [
        subprocess.run(["git", "show", f"HEAD:{name}"], cwd=ROOT, capture_output=True, check=False)
        for name in ("params.yaml", "presets/digits.yaml")
    ]
    if any(done.returncode for done in committed):
        pytest.skip("no Git repository with these two files")
    ours, preset = (YAML(typ="safe").load(done.stdout) for done in committed)
    assert {name: list(section) for name, section in ours.items()} == {
        name: list(section) for name, section in preset.items()
    }


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_taken_by_every_stage(name):
    path = ROOT / "presets" / name
    document = read_document(path)
    check_document(document, path)
    for stage in STAGES.values():
        assert load_params(stage, document, path)
    assert set(document) == set(sections())


def test_windows_line_ends_and_a_byte_order_mark_change_nothing(tmp_path):
    assert check(tmp_path, b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()) == check(tmp_path, TEXT)


def test_numbers_read_as_dvc_reads_them(tmp_path):
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "p.yaml"
    path.write_text("a: [5e-5, 1e3, 010, 0o10, 0x1F, no, on, ~, .5, 1_000, '8', 2026-01-31, +1]\n")
    assert read_document(path) == load_yaml(str(path))


def test_parameters_cannot_be_changed_once_read(tmp_path):
    lora = load_params(TrainStage, check(tmp_path, TEXT), Path("p.yaml")).lora
    with pytest.raises(ValidationError, match="frozen"):
        lora.r = 8
    assert isinstance(lora, Lora)
    assert lora.r == 16


def test_a_stage_alone_refuses_a_section_that_is_no_mapping(tmp_path):
    document = {**check(tmp_path, TEXT), "lora": 3}
    with pytest.raises(VitloraError, match=r"p\.yaml: lora: got 3; the rule: "):
        load_params(TrainStage, document, Path("p.yaml"))


HUB_MODEL = {"model.source": "hub", "model.path": "google/vit-large", "model.revision": COMMIT}


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        ({"hidden_size": 768, "patch_size": 16}, {"image.size_px": "224", "lora.r": "768"}, None),
        ({"hidden_size": 768, "patch_size": 16}, {"image.size_px": "56"}, "image.size_px: got 56; .*patch, 16 px"),
        ({"hidden_size": 768, "patch_size": 16}, {"image.size_px": "224", "lora.r": "769"}, "lora.r: got 769; .*, 768"),
        (
            {"vision_config": {"hidden_size": 768, "patch_size": 32}},
            {"image.size_px": "56"},
            "image.size_px: .*patch, 32 px",
        ),
        ({"model_type": "resnet", "hidden_sizes": [64, 128]}, {"image.size_px": "55", "lora.r": "512"}, None),
    ],
    ids=["fits", "patch", "rank", "CLIP", "no patches"],
)
def test_image_size_and_rank_are_held_against_the_base_model_that_is_there(tmp_path, config, values, said):
    write_json(tmp_path / "base/config.json", config)
    found = check(tmp_path, changed_all({**HUB_MODEL, **values}), tmp_path / "base")
    assert isinstance(found, dict) if said is None else re.match(said, found[0])


@pytest.mark.parametrize(("model", "side"), [({}, 518), (HUB_MODEL, 224)], ids=["wheel", "Hub"])
def test_smaller_pictures_are_held_against_the_base_models_own_size_too(tmp_path, model, side):
    write_json(tmp_path / "base/image.json", {"size_px": 224, "interpolation": "bilinear"})
    values = {**model, "image.size_px": "auto"}
    said = check(tmp_path, changed_all({**values, "data.max_short_side_px": str(side - 1)}), tmp_path / "base")
    assert said == [f"data.max_short_side_px: got {side - 1}; the rule: no less than image.size_px, {side}"]
    fits = check(tmp_path, changed_all({**values, "data.max_short_side_px": str(side)}), tmp_path / "base")
    assert isinstance(fits, dict)


@pytest.mark.parametrize("config", [b"", b'{"patch_size": 14', b"\xb6", b"[14]", b'{"patch_size": 15}'])
def test_a_damaged_base_model_is_left_to_the_stage_that_reads_it(tmp_path, config):
    write_json(tmp_path / "base/config.json", {"hidden_size": 384, "patch_size": 14})
    write_manifest(tmp_path / "base")
    (tmp_path / "base/config.json").write_bytes(config)
    assert isinstance(check(tmp_path, changed_all({**HUB_MODEL, "image.size_px": "56"}), tmp_path / "base"), dict)


def test_a_base_model_that_is_not_there_yet_is_not_held_against_the_file(tmp_path):
    text = changed_all({**HUB_MODEL, "image.size_px": "57", "lora.r": "1024"})
    assert check(tmp_path, text, tmp_path / "none") == check(tmp_path, text)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("train", changed("lora.r", "0"), ["lora.r: got 0; the rule: at least 1"]),
        ("train", changed("image.size_px", "57"), ["image.size_px: got 57; the rule: a multiple"]),
        (
            "train",
            changed("export.onnx_opset", "5", changed("lora.bias", "x")),
            ["lora.bias: got", "export.onnx_opset"],
        ),
        ("train", "", ["holds nothing; the rule: sections"]),
        ("download", changed("data.source", "hub"), ['data.source, data.path: got "hub", null; the rule: ']),
        ("download", TEXT + "\nlorra: 1\n", ["lorra: got 1; the rule: a known name; did you mean lora?"]),
        ("download", changed("data.path", "é").encode("latin-1"), ["not UTF-8 (line 7)"]),
    ],
    ids=["rank", "patch", "another stage's section", "empty", "hub without a path", "unknown section", "Latin-1"],
)
def test_a_stage_refuses_a_bad_file_before_it_loads_anything(tmp_path, name, text, said):
    done = run_stage(name, text, tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(f"error: {tmp_path}/p.yaml: {start}") for line, start in zip(lines, said, strict=True))
    assert done.stdout == ""
    assert not any((tmp_path / path).exists() for path in ("raw", "base", "adapter", "metrics"))


def test_a_good_file_is_let_through_to_the_slow_imports(tmp_path):
    """The traps do catch, or the test before this one would show nothing."""
    for name in ("base", "train-images", "val", "labels"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"")
        write_manifest(tmp_path / name)
    done = run_stage("train", TEXT, tmp_path)
    assert done.returncode == 1
    assert "imported torch" in done.stderr


def test_only_stages_after_download_hold_the_base_model_on_disk_against_the_file(tmp_path):
    """Until download has run, models/base may be that of an earlier choice: the wheel's, say, whose patch is 14."""
    write_json(tmp_path / "models/base/config.json", {"hidden_size": 384, "patch_size": 14})
    text = changed_all({**HUB_MODEL, "image.size_px": "256"})
    assert "imported onnx" in run_stage("download", text, tmp_path).stderr
    assert "p.yaml: image.size_px: got 256; the rule: a multiple" in run_stage("train", text, tmp_path).stderr
