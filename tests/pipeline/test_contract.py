"""dvc.yaml must tell the truth: deps, params and paths are what the code really uses."""

import ast
import importlib
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from vitlora.check import STAGES as CLASSES
from vitlora.check import sections

ROOT = Path(__file__).parents[2]
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
each_stage = pytest.mark.parametrize("name", STAGES)


def imported(path):
    """Names of the modules that a file imports anywhere in it, dotted, with the packages around them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in found:
            parts = name.split(".")
            yield from (".".join(parts[:end]) for end in range(1, len(parts) + 1))


def closure(script):
    """Every file of ours that the script reaches by imports, and the package files on the way."""
    seen, todo = {script, script.with_name("__init__.py")}, [script]
    while todo:
        for module in imported(todo.pop()):
            base = ROOT.joinpath("src", *module.split("."))
            for path in (base.with_suffix(".py"), base / "__init__.py"):
                if path.exists() and path not in seen:
                    seen.add(path)
                    todo.append(path)
    return {str(path.relative_to(ROOT)) for path in seen}


def paths(entries):
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or []}


def outputs(stage):
    return paths(stage.get("outs")) | paths(stage.get("metrics")) | paths(stage.get("plots"))


def test_the_five_stages_are_there():
    assert list(STAGES) == ["download", "preprocess", "train", "evaluate", "export"]


@each_stage
def test_code_deps_are_the_import_closure(name):
    listed = [dep for dep in STAGES[name]["deps"] if dep.endswith(".py")]
    assert listed == sorted(closure(ROOT / "stages" / f"{name}.py"))


# dvc.stage.cache hashes a stage without them wherever they stand, meaning sizes of files (dvc 3.67.1).
NOT_IN_THE_RUN_CACHE = {"size", "nfiles"}


@each_stage
def test_params_are_the_keys_that_the_stage_reads(name):
    """A section with one reader is listed whole; a shared one key by key, so that each stage answers for its own.

    So is one with a key that DVC's run cache is blind to inside a section: it would restore another value's outputs.
    """
    expected = set()
    for section, field in CLASSES[name].model_fields.items():
        keys = set(field.annotation.model_fields)
        apart = len(sections()[section]) > 1 or keys & NOT_IN_THE_RUN_CACHE
        expected |= {f"{section}.{key}" for key in keys} if apart else {section}
    assert set(STAGES[name]["params"]) == expected


@each_stage
def test_paths_in_the_command_are_deps_or_outputs_and_the_other_way_round(name):
    stage = STAGES[name]
    given = set(re.findall(r"(?:data|models|metrics)/[\w./-]+", stage["cmd"]))
    tracked = {dep for dep in stage["deps"] if not dep.endswith(".py")} | outputs(stage)
    assert all(any(t == g or t.startswith(g + "/") for t in tracked) for g in given)
    assert all(any(t == g or t.startswith(g + "/") for g in given) for t in tracked)


@each_stage
def test_plain_outs_are_cached(name):
    """A plain out with cache: false, or any with persist: true, switches the run cache off for the stage."""
    for out in STAGES[name].get("outs", []):
        assert isinstance(out, str), out
    for kind in ("metrics", "plots"):
        for entry in STAGES[name].get(kind, []):
            assert entry[next(iter(entry))]["cache"] is False, entry


@each_stage
def test_command_runs_the_tree_it_stands_in_and_leaves_no_shell_that_a_signal_could_end_first(name):
    assert STAGES[name]["cmd"].startswith(f"exec env PYTHONPATH=src python -m stages.{name} ")


@each_stage
def test_the_two_light_stages_never_import_torch(name):
    heavy = {"torch", "transformers", "peft"}
    found = {
        module.split(".")[0] for file in closure(ROOT / "stages" / f"{name}.py") for module in imported(ROOT / file)
    }
    assert bool(found & heavy) == (name not in ("download", "preprocess"))


def test_parameter_sections_import_nothing_heavy():
    for path in sorted((ROOT / "src/vitlora/sections").glob("*.py")):
        assert {module.split(".")[0] for module in imported(path)} <= {"re", "typing", "pydantic", "vitlora"}


def test_stage_logic_never_imports_other_stage_logic():
    logic = {f"vitlora.{name}" for name in STAGES}
    for name in STAGES:
        assert not logic & set(imported(ROOT / "src/vitlora" / f"{name}.py")) - {f"vitlora.{name}"}


def test_package_files_hold_no_code_that_all_stages_would_depend_on():
    for package in ("src/vitlora/__init__.py", "src/vitlora/sections/__init__.py"):
        assert len(ast.parse((ROOT / package).read_text()).body) == 1
    assert set(imported(ROOT / "stages/__init__.py")) == {"signal"}  # how Ctrl-C ends a stage that still imports
    assert len(ast.parse((ROOT / "stages/__init__.py").read_text()).body) == 3


def test_frozen_is_never_committed():
    assert not any("frozen" in stage for stage in STAGES.values())


def test_stage_functions_take_the_paths_that_the_scripts_name():
    for name in STAGES:
        script = (ROOT / "stages" / f"{name}.py").read_text()
        named = re.findall(r'"([a-z-]+)"', script.split("__doc__,")[1].split("guarded")[0])
        function = getattr(importlib.import_module(f"vitlora.{name}"), name)
        parameters = list(function.__annotations__)[:-1]
        assert parameters[-len(named) :] == [word.replace("-", "_") for word in named]
