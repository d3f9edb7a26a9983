"""Little shared memory, few open files, little address space: the work is done, or a line says what is short."""

import pytest
from faults.harness import Running, copy_without, repro, same, stage_command

SHELL = ("bash", "-c")

LIMITS = [("preprocess", 300_000), ("preprocess", 1_000_000), ("train", 1_000_000), ("export", 1_500_000)]


def limited(root, limit, *command):
    """Run a command under a shell's limit; return exit code and text."""
    running = Running(root, *SHELL, f'{limit} && exec "$0" "$@"', *command, env={"PYTHONPATH": "src"})
    return running.ended(), running.text()


def finishes_or_says(golden, root, stage, code, text, words):
    if code:
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        assert "Traceback" not in text, text
        assert any(word in line for line in errors for word in words), text
        repro(root, stage)
    same_outputs(root, golden, stage)


def same_outputs(root, golden, stage):
    repro(root, stage)
    same(root, golden, stage)


@pytest.mark.survives("F20", "1 MB and 64 kB of shared memory with 2 loader workers: finishes, or one line")
@pytest.mark.faults
@pytest.mark.parametrize("size", ["1m", "64k"])
def test_little_shared_memory(workers_run, scratch, note, size):
    root = copy_without(workers_run, scratch / "project", "train")
    inside = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$0" "$@"'
    running = Running(root, "unshare", "-m", *SHELL, inside, *stage_command("train"), env={"PYTHONPATH": "src"})
    code, text = running.ended(), running.text()
    if "unshare" in text or "mount:" in text:
        pytest.skip("a mount namespace is not permitted here")
    note(f"{size}: exit {code}")
    finishes_or_says(workers_run, root, "train", code, text, ["shared memory", "/dev/shm"])


@pytest.mark.survives("F21", "ulimit -n 64: finishes, or one line")
@pytest.mark.faults
@pytest.mark.parametrize("stage", ["preprocess", "train"])
def test_few_open_files(workers_run, scratch, note, stage):
    root = copy_without(workers_run, scratch / "project", stage)
    code, text = limited(root, "ulimit -n 64", *stage_command(stage))
    note(f"{stage}: exit {code}")
    finishes_or_says(workers_run, root, stage, code, text, ["open files"])


@pytest.mark.survives("F21", "ulimit -v: finishes, or one line")
@pytest.mark.faults
@pytest.mark.parametrize(("stage", "kilobytes"), LIMITS)
def test_little_address_space(workers_run, scratch, note, stage, kilobytes):
    root = copy_without(workers_run, scratch / "project", stage)
    code, text = limited(root, f"ulimit -v {kilobytes}", *stage_command(stage))
    note(f"{stage}: exit {code}")
    finishes_or_says(workers_run, root, stage, code, text, ["memory"])
