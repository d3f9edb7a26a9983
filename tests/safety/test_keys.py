"""What editors are told of params.yaml is what the code takes."""

import json

import pytest
from jsonschema import Draft202012Validator
from param_files import changed
from ruamel.yaml import YAML
from tiny import ROOT

from vitlora.safety.keys import SCHEMA, keys, schema

FILES = ["params.yaml", *sorted(f"presets/{path.name}" for path in (ROOT / "presets").glob("*.yaml"))]
CHECK = Draft202012Validator(schema())


def parsed(text):
    return YAML(typ="safe").load(text)


@pytest.mark.parametrize("name", FILES)
def test_the_files_that_we_write_are_sound_and_name_the_schema(name):
    text = (ROOT / name).read_text()
    assert list(CHECK.iter_errors(parsed(text))) == []
    line = next(line for line in text.splitlines() if line.startswith("# yaml-language-server: $schema="))
    assert ((ROOT / name).parent / line.partition("=")[2]).resolve() == ROOT / SCHEMA


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("lora.r", 0, "less than the minimum"),
        ("lora.r", "'16'", "not of type 'integer'"),
        ("lora.method", "lorra", "is not one of"),
        ("train.fp16", "yes", "not of type 'boolean'"),
        ("train.learning_rate", 0, "less than or equal to the minimum"),
        ("augment.scale", "[0.1]", "is too short"),
        ("image.interpolation", "null", "is not one of"),
    ],
)
def test_a_bad_value_is_marked(key, value, rule):
    problems = [each.message for each in CHECK.iter_errors(parsed(changed(key, value)))]
    assert any(rule in problem for problem in problems), problems


def test_an_unknown_key_and_a_missing_one_are_marked():
    document = parsed(changed("lora.r", 4))
    document["lora"]["rank"] = document["lora"].pop("r")
    problems = " ".join(each.message for each in CHECK.iter_errors(document))
    assert "'rank' was unexpected" in problems
    assert "'r' is a required property" in problems


def test_editors_show_what_each_key_does():
    made = json.loads((ROOT / SCHEMA).read_text())
    for key, field in keys().items():
        section, _, name = key.partition(".")
        kind = made["properties"][section]["$ref"].rpartition("/")[2]
        assert made["$defs"][kind]["properties"][name]["description"] == field.description
