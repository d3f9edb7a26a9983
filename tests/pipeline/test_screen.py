"""What a person sees of a run: each stage, what it did, how long it took; nothing wider than the screen."""

import sys

import tiny

WIDTH = 120


def test_a_run_shows_its_stages_and_results_and_ends_with_what_to_commit(project):
    tiny.set_params(project / "params.yaml", {"lora.method": "loha", "export.onnx_opset": 19})
    done = tiny.run(project, sys.executable, "-m", "vitlora", "run", env={"PYTHONPATH": "src"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= WIDTH, max(lines, key=len)
    assert [line.split("'")[1] for line in lines if line.startswith("Running stage")] == ["train", "evaluate", "export"]
    assert [line.split()[0] for line in lines if " took " in line] == ["train", "evaluate", "export"]
    assert done.stdout.count("parameters that differ") == done.stdout.count("have no effect") == 1
    assert not any(word in done.stdout for word in ("PYTHONPATH", "Updating lock", "dvc push", "autostage"))
    assert lines[-1] == "keep this result: git add params.yaml source.yaml dvc.lock metrics && git commit"
    assert lines[-3].startswith("test accuracy ")
    again = tiny.run(project, sys.executable, "-m", "vitlora", "run", env={"PYTHONPATH": "src"})
    assert "\nData and pipelines are up to date.\ntest accuracy " in again.stdout


def test_a_failed_stage_is_named_without_its_paths(project):
    tiny.set_params(project / "params.yaml", {"lora.modules_to_save": ["nothing"]})
    done = tiny.run(project, tiny.DVC, "repro")
    assert done.returncode == 255
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert error == "ERROR: failed to reproduce 'train': its error stands above"
    assert "error: lora.modules_to_save: got nothing, which names no module" in done.stderr


def test_a_dry_run_shows_the_commands(project):
    tiny.set_params(project / "params.yaml", {"lora.r": 4})
    done = tiny.run(project, tiny.DVC, "repro", "--dry")
    assert "> exec env PYTHONPATH=src python -m stages.train --base models/base " in done.stdout
