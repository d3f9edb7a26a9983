"""README and docs: every link leads somewhere, every command parses, every table is what the code and readings say."""

import re
import shlex
import sys
from pathlib import Path
from typing import get_args

import pytest
from dvc.cli import parse_args
from tiny import ROOT

from vitlora.cli import command_line
from vitlora.core.params import read_document
from vitlora.images.formats import Reason
from vitlora.safety.check import sections

sys.path.insert(0, str(ROOT / "docs"))
import generate

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
PARAMS = read_document(ROOT / "presets/digits.yaml")
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def commands():
    """Yield every command of every console block, with the page it stands in."""
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
            for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
                words = shlex.split(line, comments=True)
                while "&&" in words:
                    cut = words.index("&&")
                    yield page.name, words[:cut]
                    words = words[cut + 1 :]
                yield page.name, words


def anchors(page):
    """Names that a heading can be linked by, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_two_minutes():
    text = (ROOT / "README.md").read_bytes()
    assert len(text) <= 9_000
    assert text.count(b"\n") <= 170


@each_page
def test_every_link_leads_to_a_file_or_a_heading(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name) if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


@each_page
def test_the_readme_leads_to_every_page(page):
    linked = re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text())
    assert page.name == "README.md" or str(page.relative_to(ROOT)) in linked


@pytest.mark.parametrize(("page", "words"), list(commands()), ids=lambda each: " ".join(each)[:60])
def test_every_command_parses(page, words):
    program, *rest = words
    if program == "vitlora":
        command_line().parse_args(rest)
    elif program == "dvc":
        parse_args(rest)
        for setting in (rest[at + 1] for at, word in enumerate(rest) if word == "-S"):
            name = setting.split("=")[0]
            section, _, key = name.lstrip("+").partition(".")
            assert key.startswith("options.") if name.startswith("+") else key in PARAMS[section], setting
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= set(TARGETS)
    else:
        assert program in ("git", "source", "hf", ".venv/bin/uv"), program


@each_page
def test_every_table_is_what_the_code_and_the_readings_say(page):
    text = page.read_text()
    assert generate.renewed(text) == text, "`make docs` renews it"


def test_the_schema_of_params_yaml_is_what_the_code_says():
    for path, content in generate.pages().items():
        assert path.read_text() == content, f"`make docs` renews {path.name}"


def test_every_table_that_can_be_made_stands_on_a_page():
    made = [name for page in PAGES for _, name, _ in generate.BLOCK.findall(page.read_text())]
    assert sorted(made) == sorted(generate.BLOCKS)


def test_every_key_says_what_it_does():
    for name, classes in sections().items():
        for section in classes:
            for key, field in section.model_fields.items():
                assert field.description, f"{name}.{key}"


def test_the_reasons_of_the_page_are_those_of_the_code():
    table = re.findall(
        r"^\| `([a-z_]+)` \|", (ROOT / "docs/images.md").read_text().split("| reason |")[1], re.MULTILINE
    )
    assert sorted(table) == sorted(get_args(Reason))


def test_every_path_in_a_page_exists():
    """Code and benchmarks that a page names in backticks; results of a run are made by it."""
    for page in PAGES:
        for path in re.findall(r"`((?:src|docs|benchmarks|tests|presets)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


assert Path(generate.__file__).parent == ROOT / "docs"
