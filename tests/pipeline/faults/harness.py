"""Starts the pipeline as a person would, and does to it what the world does: kills, fills, flips and cuts."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from ruamel.yaml import YAML

STAGES = ("download", "preprocess", "train", "evaluate", "export")
REPRO = (tiny.DVC, "repro")
VERB = (sys.executable, "-m", "vitlora")
NO_ORPHAN_S = 2.0
RUNNING = re.compile(r"Running stage '(\w+)'")


class Running:
    """A command in a session of its own, whose output lands in a file.

    Args:
        root: The project.
        command: Its words.
        env: Added to the environment.
    """

    def __init__(self, root, *command, env=None):
        self.root, self.log = root, root.parent / f"{time.monotonic_ns()}.log"
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=root,
                env=tiny.environment(root) | {"PYTHONUNBUFFERED": "1"} | (env or {}),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self):
        return self.log.read_text(errors="replace")

    def wait_for(self, condition, limit=60.0):
        """Wait until the condition holds or the command has ended; return whether it held."""
        deadline = time.monotonic() + limit
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return condition()
            time.sleep(0.01)
        return True

    def wait_for_text(self, text, limit=60.0):
        return self.wait_for(lambda: text in self.text(), limit)

    def ended(self, limit=120.0):
        """Wait for the end and return the exit code."""
        return self.process.wait(limit)

    def send(self, number):
        os.kill(self.process.pid, number)

    def send_group(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill_group(self):
        """End everything at once, as a crash of the machine would; return whether it was still running."""
        alive = self.process.poll() is None
        self.send_group(signal.SIGKILL)
        self.process.wait()
        assert not wait_until_none(self.root), "a process left the group"
        return alive


def processes(root):
    """Return the ids and command lines of processes whose working folder lies in the project."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            here = (folder / "cwd").readlink()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            if here.is_relative_to(root) and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    return found


def wait_until_none(root, limit=NO_ORPHAN_S):
    """Return the processes that still work in the project after a while."""
    deadline = time.monotonic() + limit
    while (left := processes(root)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def repro(root, *targets, env=None):
    """Run one plain `dvc repro`, which must succeed; return the stages that ran."""
    done = tiny.run(root, *REPRO, *targets, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return RUNNING.findall(done.stdout)


def vitlora(root, *words, env=None):
    return tiny.run(root, *VERB, *words, env={"PYTHONPATH": "src"} | (env or {}))


def stage_command(stage):
    """Return a stage's command line as dvc.yaml has it, run by this interpreter."""
    return (sys.executable, *tiny.stage_arguments(stage))


def start_stage(root, stage, env=None):
    return Running(root, *stage_command(stage), env={"PYTHONPATH": "src"} | (env or {}))


# --- the undisturbed run, and copies of it that have lost something ---


def once(factory, name, make):
    """Make a folder in the first worker that asks; the others wait for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            make(folder / "project")
            (folder / "made").touch()
    return folder / "project"


def build(root, params):
    """Make a project, run it all, commit it, and note beside it what was said and how long each stage took."""
    tiny.make_project(root, params)
    running, begun, ended = Running(root, *REPRO), {}, {}
    while running.process.poll() is None:
        for stage in RUNNING.findall(running.text()):
            begun.setdefault(stage, time.monotonic())
        time.sleep(0.02)
    assert running.ended() == 0, running.text()
    ended = dict(zip(begun, [*list(begun.values())[1:], time.monotonic()], strict=True))
    tiny.commit(root)
    (root.parent / "said.txt").write_text(running.text())
    (root.parent / "seconds.json").write_text(json.dumps({stage: ended[stage] - begun[stage] for stage in begun}))


def make_digits(root, params):
    """Make a project of handwritten digits whose data is ready and committed."""
    root.mkdir(parents=True)
    for name in tiny.CODE:
        source, target = tiny.ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, target)
    shutil.copy2(tiny.DIGITS, root / "params.yaml")
    tiny.set_params(root / "params.yaml", params)
    tiny.git(root, "init", "-q", "-b", "main")
    tiny.commit(root)
    tiny.dvc(root, "repro", "preprocess")
    tiny.commit(root)
    return root


def seconds(golden, stage):
    """Return how long a stage takes under dvc, recording included."""
    return json.loads((golden.parent / "seconds.json").read_text())[stage]


def lock(root):
    return YAML(typ="safe").load(root / "dvc.lock")["stages"]


def from_stage(stage):
    return STAGES[STAGES.index(stage) :]


def up_to_stage(stage):
    return STAGES[: STAGES.index(stage) + 1]


def copy_without(golden, root, stage):
    """Copy the finished project less all that a stage and its followers left: outputs, cache, lock, run cache."""
    shutil.copytree(golden, root, symlinks=True)
    lose(root, stage)
    return root


def lose(root, stage):
    entries, lost = lock(root), from_stage(stage)
    gone, kept = (
        {name for entry in entries if (entry in lost) is asked for name in objects(root, entries[entry]["outs"])}
        for asked in (True, False)
    )
    for path in gone - kept:
        path.unlink(missing_ok=True)
    for name in lost:
        for out in entries[name]["outs"]:
            remove(root / out["path"])
    shutil.rmtree(root / ".dvc/cache/runs")
    shutil.rmtree(root / ".work")
    keep_entries(root / "dvc.lock", STAGES[: STAGES.index(stage)])


def objects(root, outs):
    """Yield the cached objects of a stage's outputs; some are shared, as a small file of the adapter and the export."""
    for out in outs:
        path = object_path(root, out["md5"])
        yield path
        if out["md5"].endswith(".dir"):
            yield from (object_path(root, entry["md5"]) for entry in json.loads(path.read_text()))


def keep_entries(path, stages):
    """Cut a dvc.lock after the last of the stages: its entries stand in the pipeline's order."""
    heads = {name: f"\n  {name}:" for name in STAGES}
    first = next(name for name in STAGES if name not in stages)
    kept = path.read_text().partition(heads[first])[0] + "\n"
    path.unlink()
    if stages:
        path.write_text(kept)


def object_path(root, md5):
    return root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hashes(root, stages=STAGES, entries=None):
    """Return the SHA-256 of every output of the stages, and what dvc.lock says of them."""
    entries = entries or lock(root)
    found = {}
    for stage in stages:
        found[stage] = json.dumps(entries.get(stage), sort_keys=True)
        for out in entries[stage]["outs"]:
            top = root / out["path"]
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file():
                    found[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def same(root, golden, stage="export"):
    """Assert that everything up to a stage has the bytes of the undisturbed run."""
    stages = up_to_stage(stage)
    assert hashes(root, stages) == hashes(golden, stages)
    if stage == STAGES[-1]:
        assert (root / "dvc.lock").read_bytes() == (golden / "dvc.lock").read_bytes()


def tries(count, quick=1):
    """Number the tries; all but the first few are left to `make faults`."""
    return [number if number < quick else pytest.param(number, marks=pytest.mark.faults) for number in range(count)]


def quick_only(names, *quick):
    """Leave all names but the given ones to `make faults`."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.faults) for name in names]


def whole(number):
    """Say whether a try runs the pipeline to its end: every eighth does."""
    return number % 8 == 7


def heal_and_compare(root, golden, stage, to_the_end):
    """Run one plain `dvc repro`, of the stage or of everything, and compare."""
    repro(root, *(() if to_the_end else (stage,)))
    same(root, golden, STAGES[-1] if to_the_end else stage)


def progress(root, stage):
    """Say how far a stage has come, for the table."""
    if (root / ".work" / stage / "out").exists():
        return "at work"
    if (root / ".work" / f"{stage}.lock").exists():  # dvc's recording, too
        return "before or after its work"
    return "starting"
