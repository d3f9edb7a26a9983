"""`vitlora predict` says when the model is not the one that the parameters or dvc.lock mean."""

import shutil

import tiny
from faults.harness import vitlora
from ruamel.yaml import YAML

from vitlora.storage.manifest import write_manifest

PICTURE = "pictures/red/00.jpg"


def noted(root, *more, picture=PICTURE):
    done = vitlora(root, "predict", *more, picture)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{picture}: red ")
    return done.stderr


def other_record(root):
    """As `git checkout` of another branch without `dvc checkout`."""
    lock = root / "dvc.lock"
    record = YAML(typ="safe").load(lock)["stages"]["export"]["outs"]
    (model,) = (out["md5"] for out in record if out["path"] == "models/export")
    lock.write_text(lock.read_text().replace(model, f"{'0' * 32}.dir"))


def other_model(root):
    """As a folder that was copied over it."""
    card = root / "models/export/README.md"
    text = card.read_text()
    card.unlink()  # it may be a link into DVC's cache
    card.write_text(text + "mine\n")
    write_manifest(root / "models/export")


CHANGES = {
    "lora.r: 2 -> 4": {"lora.r": 4},
    "evaluate.precision": {"evaluate.precision": "fp32"},
    "data.path": {"data.path": "elsewhere"},
    " and 1 more": {"lora.r": 4, "train.seed": 1, "split.seed": 1, "image.size_px": 24},
}


def test_a_model_of_other_parameters_is_noted_in_one_line_until_repro(project):
    assert noted(project) == noted(project) == ""
    for said, values in CHANGES.items():
        tiny.set_params(project / "params.yaml", values)
        (line,) = noted(project).splitlines()
        assert line.startswith("note: models/export: it was made before these changes of params.yaml: ")
        assert said in line
        assert line.endswith("; `dvc repro` makes it anew")
        tiny.git(project, "checkout", "-q", "params.yaml")
    assert noted(project) == ""


def test_a_model_of_other_pictures_is_noted(project):
    (project / PICTURE).unlink()
    assert noted(project, picture="pictures/red/01.png") == ""  # nobody has looked
    assert "source.yaml" in tiny.run(project, tiny.DVC, "status").stdout  # which looks, as repro does
    said = noted(project, picture="pictures/red/01.png")
    assert said == "note: models/export: it was made before what lies at data.path changed; `dvc repro` makes it anew\n"


def test_a_model_and_scores_of_pictures_that_were_split_anew_since_are_told(project):
    tiny.set_params(project / "params.yaml", {"split.seed": 1})
    assert tiny.dvc(project, "repro", "preprocess") == ["preprocess"]  # as where what follows was interrupted
    assert noted(project) == (
        "note: models/export: it was made before data/prepared/train was made anew; `dvc repro` makes it anew\n"
    )
    done = vitlora(project, "gate", "--against", "HEAD")
    assert (done.returncode, "is of an earlier data/prepared/" in done.stderr) == (1, True), done


def test_a_gate_takes_no_results_of_other_code(project):
    code = project / "src/vitlora/evaluate/stage.py"
    code.write_text(code.read_text() + "# other\n")
    done = vitlora(project, "gate", "--against", "HEAD")
    assert (done.returncode, done.stderr) == (
        1,
        "error: workspace: these results were made before src/vitlora/evaluate changed; `dvc repro` makes them anew\n",
    )


def test_a_model_that_dvc_lock_does_not_record_is_noted_and_repro_helps(project):
    other = "note: models/export: it is not the one that dvc.lock records; `dvc repro` makes it anew\n"
    other_record(project)
    assert noted(project) == other
    tiny.git(project, "checkout", "-q", "dvc.lock")
    assert noted(project) == ""
    other_model(project)
    assert noted(project) == other
    assert tiny.dvc(project, "repro") == [], "it comes from the cache"
    assert noted(project) == ""


def test_a_model_elsewhere_or_without_a_project_is_nobodys_business(project, tmp_path):
    copy = shutil.copytree(project / "models/export", tmp_path / "copy")
    tiny.set_params(project / "params.yaml", {"lora.r": 4})
    assert noted(project, "--model", str(copy)) == ""
    (project / "params.yaml").unlink()
    assert noted(project) == ""
