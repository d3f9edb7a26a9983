"""The caching table of the README: change something, and exactly the expected stages run.

Which stages read what was changed is asked of DVC, in one copy of the project; what follows is shown by running.
"""

import json
import shutil
import time
from contextlib import chdir

import pytest
import tiny
from dvc.repo import Repo
from ruamel.yaml import YAML

EACH = ["download", "preprocess", "train", "evaluate", "export"]


def append(path, text):
    path.write_text(path.read_text() + text)


def to_run(root):
    """Return the stages that DVC would run as things stand, not those that would follow from what they write."""
    with chdir(root), Repo() as repo:
        changed = repo.status()
    return [stage for stage in EACH if stage in changed]


@pytest.fixture(scope="module")
def shared(finished_run, tmp_path_factory):
    """A copy of the finished project whose files are put back after each test."""
    root = shutil.copytree(finished_run, tmp_path_factory.mktemp("shared") / "project", symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_SITE_CACHE_DIR", str(root / ".dvc/tmp/site"))
        patch.setenv("DVC_NO_ANALYTICS", "1")
        assert to_run(root) == []
        yield root


@pytest.fixture
def still(shared):
    yield shared
    tiny.git(shared, "checkout", "-q", "--", ".")
    tiny.git(shared, "clean", "-qfdx", "src", "stages")
    assert to_run(shared) == []


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.sha256", "ab" * 32, ["download"]),
        ("model.revision", "ab" * 20, ["download"]),
        ("ingest.on_bad", "skip", ["preprocess"]),
        ("ingest.on_duplicate", "skip", ["preprocess"]),
        ("image.size_px", 24, ["preprocess"]),
        ("image.interpolation", "bicubic", ["preprocess"]),
        ("split.seed", 1, ["preprocess"]),
        ("augment.scale", [0.5, 1.0], ["train"]),
        ("augment.horizontal_flip_p", 0.5, ["train"]),
        ("lora.r", 4, ["train"]),
        ("train.save_steps", 2, ["train"]),
        ("train.learning_rate", 0.02, ["train"]),
        ("evaluate.top_k", 3, ["evaluate"]),
        ("evaluate.batch_size", 2, ["evaluate"]),
        ("evaluate.precision", "fp32", ["evaluate"]),
        ("evaluate.coverage", 0.6, ["evaluate"]),
        ("export.max_logit_diff", 0.01, ["export"]),
        ("export.batch_size", 2, ["export"]),
    ],
)
def test_a_parameter_reruns_the_stages_that_read_it(still, key, value, expected):
    tiny.set_params(still / "params.yaml", {key: value})
    assert to_run(still) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.safetensors", ["download", "train", "evaluate", "export"]),
        ("preprocessor_config.json", ["download", "train", "evaluate", "export"]),
        ("image.json", EACH),
    ],
)
def test_of_a_base_model_preprocess_depends_on_its_size_and_filter_alone(still, name, expected):
    path = still / "models/base" / name
    before = path.read_bytes()
    path.unlink()  # it may be a link into DVC's cache
    path.write_bytes(before + b"\n")
    assert to_run(still) == expected
    path.write_bytes(before)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("src/vitlora/core/text.py", EACH),
        ("src/vitlora/storage/packed.py", EACH),
        ("src/vitlora/images/pixels.py", ["download", "preprocess", "train"]),
        ("src/vitlora/net/fetch.py", ["download"]),
        ("src/vitlora/download/sources.py", ["download"]),
        ("src/vitlora/preprocess/splits.py", ["preprocess"]),
        ("src/vitlora/model/adapters.py", ["train", "evaluate", "export"]),
        ("src/vitlora/model/fused/kernels.py", ["train", "evaluate", "export"]),
        ("src/vitlora/train/trainer.py", ["train"]),
        ("src/vitlora/evaluate/scores.py", ["evaluate"]),
        ("src/vitlora/export/onnx_model.py", ["export"]),
        ("src/vitlora/safety/guard.py", []),
        ("src/vitlora/cli/predict.py", []),
        *((f"stages/{stage}.py", [stage]) for stage in EACH),
        ("presets/digits.yaml", []),
    ],
)
def test_an_edit_reruns_the_stages_that_list_its_folder(still, file, expected):
    append(still / file, "\n# a comment\n")
    assert to_run(still) == expected


@pytest.mark.parametrize(
    "name",
    ["core/__pycache__/new.cpython-311.pyc", "core/.DS_Store", "core/text.py~", "core/.text.py.swp", "core/#text.py#"],
)
def test_what_is_no_code_is_no_key(still, name):
    path = still / "src/vitlora" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"\0")
    assert to_run(still) == []


@pytest.mark.parametrize("file", ["src/vitlora/core/text.py", "stages/train.py"])
def test_an_executable_bit_is_no_key(still, file):
    (still / file).chmod(0o755)
    assert to_run(still) == []


@pytest.mark.parametrize("name", ["new.py", "new.html"])
def test_a_file_of_code_or_of_a_page_is_a_key_even_if_nothing_reads_it(still, name):
    (still / "src/vitlora/preprocess" / name).write_text("")
    assert to_run(still) == ["preprocess"]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        pytest.param("evaluate.top_k=3", ["evaluate"], marks=pytest.mark.faults),
        ("ingest.on_bad=skip", ["preprocess"]),  # whose outputs are equal
        pytest.param("split.seed=1", EACH[1:], marks=pytest.mark.faults),
    ],
)
def test_what_a_stage_writes_anew_reruns_what_follows(project, setting, expected):
    assert tiny.dvc(project, "exp", "run", "-S", setting) == expected
    tiny.git(project, "checkout", "-q", "--", "params.yaml", "dvc.lock", "metrics")
    assert tiny.dvc(project, "repro") == [], "undone, everything comes back from the run cache"


def test_the_run_cache_takes_one_size_for_another_but_not_one_size_px(tmp_path):
    """Why no key of ours is named size: DVC leaves it out of what it looks a result up by."""
    command = "python -c \"import yaml; print(*yaml.safe_load(open('params.yaml'))['{0}'].values())\" > {0}.txt"
    keys = {"blind": "size", "seeing": "size_px"}
    stages = {name: {"cmd": command.format(name), "params": [name], "outs": [f"{name}.txt"]} for name in keys}
    YAML().dump({"stages": stages}, tmp_path / "dvc.yaml")
    done = tiny.run(tmp_path, tiny.DVC, "init", "--no-scm", "-q")
    assert done.returncode == 0, done.stderr
    for size, expected in ((1, {"blind": "1\n", "seeing": "1\n"}), (2, {"blind": "1\n", "seeing": "2\n"})):
        YAML().dump({name: {key: size} for name, key in keys.items()}, tmp_path / "params.yaml")
        tiny.dvc(tmp_path, "repro")
        assert {name: (tmp_path / f"{name}.txt").read_text() for name in keys} == expected


def test_another_image_size_is_never_taken_for_the_one_in_the_run_cache(project):

    def prepared_at(size):
        tiny.set_params(project / "params.yaml", {"image.size_px": size})
        ran = tiny.dvc(project, "repro", "preprocess")
        return ran, json.loads((project / "data/prepared/labels.json").read_text())["image_size"]

    assert prepared_at(24) == (["preprocess"], 24)
    assert prepared_at(32) == ([], 32)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("src/vitlora/download/sources.py", ["download"]),
        pytest.param("src/vitlora/preprocess/splits.py", ["preprocess"], marks=pytest.mark.faults),
        pytest.param("src/vitlora/evaluate/stage.py", ["evaluate"], marks=pytest.mark.faults),
    ],
)
def test_nothing_follows_an_edit_that_changes_no_output(project, file, expected):
    append(project / file, "\n# a comment\n")
    assert tiny.dvc(project, "repro") == expected
    assert tiny.dvc(project, "repro") == []


def test_nothing_runs_twice_and_a_lost_output_comes_back_from_the_cache(project):
    assert tiny.dvc(project, "repro") == []
    done = tiny.run(project, "rm", "-rf", "models/adapter", "data/prepared/val")
    assert done.returncode == 0
    assert tiny.dvc(project, "repro") == []
    assert (project / "models/adapter/adapter_model.safetensors").is_file()


@pytest.mark.faults
def test_a_queued_experiment_runs_its_own_tree(project):
    """The workspace's code and parameters change after queueing; the experiment must not see that."""
    append(project / "src/vitlora/evaluate/scores.py", '\n\nprint("queued tree")\n')
    queued = tiny.run(project, tiny.DVC, "exp", "run", "--queue", "-n", "queued", "-S", "lora.r=4")
    assert queued.returncode == 0, queued.stderr
    append(project / "src/vitlora/evaluate/scores.py", '\nraise SystemExit("workspace code ran")\n')
    tiny.set_params(project / "params.yaml", {"lora.r": 1})
    started = tiny.run(project, tiny.DVC, "queue", "start")
    assert started.returncode == 0, started.stderr
    deadline = time.monotonic() + 240
    while "Running" in (status := tiny.run(project, tiny.DVC, "queue", "status").stdout) or ("Queued" in status):
        assert time.monotonic() < deadline, status
        time.sleep(2)
    assert "Success" in status, status + tiny.run(project, tiny.DVC, "queue", "logs", "queued").stdout
    logs = tiny.run(project, tiny.DVC, "queue", "logs", "queued").stdout
    assert "queued tree" in logs
    refs = tiny.git(project, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (experiment,) = [ref for ref in refs if ref.endswith("/queued")]
    params = YAML(typ="safe").load(tiny.git(project, "show", f"{experiment}:params.yaml"))
    assert params["lora"]["r"] == 4
    lock = YAML(typ="safe").load(tiny.git(project, "show", f"{experiment}:dvc.lock"))
    assert lock["stages"]["train"]["params"]["params.yaml"]["lora"]["r"] == 4
