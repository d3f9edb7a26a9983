"""dvc.yaml must tell the truth: deps, params and paths are what the code really uses.

Which folder may import which is import-linter's to check (pyproject.toml).
"""

import ast
import re
import shutil
from pathlib import Path

import pytest
import tiny
from ruamel.yaml import YAML

from vitlora.safety.check import STAGES as CLASSES
from vitlora.safety.check import sections

ROOT = Path(__file__).parents[2]
CODE = Path("src/vitlora")
STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
each_stage = pytest.mark.parametrize("name", STAGES)

# Files in the folders of a stage that it never imports: an edit there reruns it for nothing. Each row has its reason.
LOOSE = {
    "core/durable.py": {"evaluate", "export"},  # faultpoint: of a download, a block and a checkpoint
    "storage/blocks.py": {"train", "evaluate", "export"},  # original files are packed before train
    "storage/labels.py": {"download", "preprocess"},  # preprocess writes the file that the others read
    "storage/manifest.py": {"evaluate"},  # safety writes it into every output
    "storage/packed.py": {"evaluate", "export"},  # original files end at train
    "storage/squares.py": {"download"},  # preprocess makes them
    "images/sandbox.py": {"train"},  # train's images have passed preprocess
    "model/inference.py": {"train"},  # scoring a split
}


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
    """Every module of ours that the script reaches by imports. What is in safety can refuse a run, never change it."""
    seen, todo = set(), [script]
    while todo:
        for module in imported(todo.pop()):
            path = ROOT.joinpath("src", *module.split(".")).with_suffix(".py")
            if path.exists() and path not in seen and path.parent.name != "safety":
                seen.add(path)
                todo.append(path)
    return {path.relative_to(ROOT / CODE) for path in seen}


def code_folders(name):
    return {Path(dep).relative_to(CODE) for dep in STAGES[name]["deps"] if dep.startswith(f"{CODE}/")}


def paths(entries):
    return {next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or []}


def outputs(stage):
    return paths(stage.get("outs")) | paths(stage.get("metrics")) | paths(stage.get("plots"))


def test_the_five_stages_are_there_and_none_is_frozen():
    assert list(STAGES) == ["download", "preprocess", "train", "evaluate", "export"]
    assert not any("frozen" in stage for stage in STAGES.values())


@each_stage
def test_folders_in_the_deps_are_those_that_the_imports_reach(name):
    reached = {path.parts[0] for path in closure(ROOT / "stages" / f"{name}.py")}
    assert {str(folder) for folder in code_folders(name)} == reached - {"__init__.py"}
    assert f"stages/{name}.py" in STAGES[name]["deps"]


def test_a_stage_lists_few_files_that_it_does_not_import():
    loose: dict[str, set[str]] = {}
    for name in STAGES:
        reached = closure(ROOT / "stages" / f"{name}.py")
        for folder in code_folders(name):
            for path in (ROOT / CODE / folder).rglob("*.py"):
                relative = path.relative_to(ROOT / CODE)
                if path.name != "__init__.py" and relative not in reached:
                    loose.setdefault(str(relative), set()).add(name)
    assert loose == LOOSE


# dvc.stage.cache hashes a stage without them wherever they stand, meaning sizes of files (dvc 3.67.1).
NOT_IN_THE_RUN_CACHE = {"size", "nfiles"}


@each_stage
def test_params_are_the_sections_that_the_stage_reads(name):
    """Whole sections of its own; of another stage's, key by key."""
    read = {
        entry
        for section, field in CLASSES[name].model_fields.items()
        for entry in (
            [section]
            if field.annotation is sections()[section][0]
            else [f"{section}.{key}" for key in field.annotation.model_fields]
        )
    }
    elsewhere = [entry for entry in STAGES[name]["params"] if isinstance(entry, dict)]
    assert elsewhere == ([{"source.yaml": ["data", "model"]}] if name == "download" else [])
    assert {entry for entry in STAGES[name]["params"] if isinstance(entry, str)} == read


@each_stage
def test_no_parameter_has_a_name_that_the_run_cache_is_blind_to(name):
    for section in CLASSES[name].model_fields.values():
        assert not NOT_IN_THE_RUN_CACHE & set(section.annotation.model_fields)


@each_stage
def test_paths_in_the_command_are_deps_or_outputs_and_the_other_way_round(name):
    stage = STAGES[name]
    given = set(re.findall(r"(?:data|models|metrics)/[\w./-]+", stage["cmd"]))
    code = {dep for dep in stage["deps"] if dep.startswith(("src/", "stages/"))}
    tracked = set(stage["deps"]) - code | outputs(stage)
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


def test_package_files_hold_no_code():
    for package in (ROOT / "src").rglob("__init__.py"):
        if package.parent.name not in ("cli", "vitlora"):  # whose code is in no key: dvc.yaml lists folders below
            assert len(ast.parse(package.read_text()).body) == 1, package
    # What every stage runs without having it in its key: names for `from vitlora import ...`, loaded when asked for.
    assert set(imported(ROOT / CODE / "__init__.py")) - {"typing", "typing.TYPE_CHECKING"} == {
        *("importlib", "importlib.import_module", "vitlora", "vitlora.predict"),
        *("vitlora.predict.classifier", "vitlora.predict.pictures"),
        *(f"vitlora.predict.classifier.{name}" for name in ("Classifier", "PictureError", "Prediction")),
        "vitlora.predict.pictures.Unreadable",
    }
    assert set(imported(ROOT / "stages/__init__.py")) == {"signal"}  # how Ctrl-C ends a stage that still imports
    assert len(ast.parse((ROOT / "stages/__init__.py").read_text()).body) == 3


def test_git_leaves_line_ends_alone(tmp_path):
    """In others all code has changed for DVC, and a colleague with core.autocrlf runs everything anew."""
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    tiny.git(tmp_path, "init", "-q", "-b", "main")
    tiny.git(tmp_path, "config", "core.autocrlf", "true")
    (tmp_path / "code.py").write_bytes(b"one\n")
    tiny.commit(tmp_path)
    (tmp_path / "code.py").unlink()
    tiny.git(tmp_path, "checkout", "-q", ".")
    assert (tmp_path / "code.py").read_bytes() == b"one\n"


def test_git_makes_no_run_of_two(tmp_path):
    """Lines far apart would merge without a word: the parameters of both, and the results of one."""
    for name in (".gitattributes", "dvc.lock"):
        shutil.copy(ROOT / name, tmp_path)
    tiny.git(tmp_path, "init", "-q", "-b", "main")
    tiny.commit(tmp_path)
    whole = (tmp_path / "dvc.lock").read_text()
    for branch, line in (("one", "batch_size"), ("other", "top_k")):
        tiny.git(tmp_path, "checkout", "-q", "-b", branch, "main")
        (tmp_path / "dvc.lock").write_text(re.sub(rf"( {line}): \d+", r"\1: 99", whole))
        tiny.commit(tmp_path)
    merged = tiny.run(tmp_path, "git", "merge", "one")
    assert (merged.returncode, "CONFLICT (content): Merge conflict in dvc.lock" in merged.stdout) == (1, True)
    assert "<<<<" not in (tmp_path / "dvc.lock").read_text()
