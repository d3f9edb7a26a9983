"""A colleague, or CI, gets a run from where it was pushed to, and makes nothing anew: a folder, a shared cache, S3."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import tiny

RESULT = "models/adapter/adapter_model.safetensors"
S3 = "dvc-s3==3.3.0"  # as docs/teams.md has it
KEYS = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1"}


def clone(project, name):
    target = project.parent / name
    tiny.git(project, "clone", "-q", str(project), str(target))
    for data in ("pictures", "tiny"):  # its own data and model, which the colleague has too
        shutil.copytree(project / data, target / data, dirs_exist_ok=True)
    return target


def plain_dvc(root, *words, env):
    """Run DVC's own command: the one of `make setup` sees what is installed beside it alone."""
    done = tiny.run(root, sys.executable, "-m", "dvc", *words, env=env)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_the_same_run(project, other):
    assert (other / RESULT).read_bytes() == (project / RESULT).read_bytes()
    assert tiny.dvc(other, "repro") == []
    assert tiny.git(other, "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_second_clone_pulls_from_a_folder_and_runs_nothing(project, tmp_path):
    tiny.dvc(project, "remote", "add", "-d", "store", str(tmp_path / "store"))
    tiny.commit(project)
    tiny.dvc(project, "push")
    other = clone(project, "other")
    tiny.dvc(other, "pull")
    assert_the_same_run(project, other)
    # An experiment goes the same way, and nothing of it is run again.
    assert tiny.dvc(other, "exp", "run", "-n", "one", "-S", "evaluate.top_k=1") == ["evaluate"]
    scores = (other / "metrics/evaluate/scores.json").read_bytes()
    assert scores != (project / "metrics/evaluate/scores.json").read_bytes()
    tiny.dvc(other, "exp", "push", "origin", "one")
    tiny.dvc(project, "exp", "apply", "one")
    tiny.dvc(project, "pull")
    assert (project / "metrics/evaluate/scores.json").read_bytes() == scores
    assert tiny.dvc(project, "repro") == []


def test_clones_that_share_a_cache_run_nothing_twice(project, tmp_path):
    shared = tmp_path / "cache"
    shutil.move(project / ".dvc/cache", shared)
    other = clone(project, "other")
    for place in (project, other):
        tiny.dvc(place, "cache", "dir", "--local", str(shared))
    tiny.dvc(other, "checkout")
    assert_the_same_run(project, other)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """An S3 server on this machine that keeps all in memory, DVC's extra for it, and what both need to be found."""
    site = tmp_path_factory.mktemp("s3") / "site"
    install = ["-m", "uv", "pip", "install", "-q", "--target", str(site), "-c", str(tiny.ROOT / "requirements.lock")]
    done = subprocess.run([sys.executable, *install, S3, "moto[server]==5.2.5"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"dvc-s3 and moto could not be installed: {done.stderr.strip()[-200:]}")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"PYTHONPATH": str(site), **KEYS}
    log = (site.parent / "moto.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], env=env, stdout=log, stderr=log
    )
    try:
        address = f"http://127.0.0.1:{port}"
        create(f"{address}/pets", server)
        yield address, env
    finally:
        server.terminate()
        server.wait()
        log.close()


def create(address, server):
    """Make a bucket as soon as the server answers."""
    for _ in range(600):
        assert server.poll() is None, "the server has ended"
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="PUT")).close()
        except urllib.error.URLError:
            time.sleep(0.1)
        else:
            return
    pytest.fail("the server does not answer")


@pytest.mark.faults
def test_a_second_clone_pulls_from_s3_and_runs_nothing(project, bucket):
    address, env = bucket
    tiny.dvc(project, "remote", "add", "-d", "store", "s3://pets/dvc")
    tiny.dvc(project, "remote", "modify", "store", "endpointurl", address)
    tiny.commit(project)
    plain_dvc(project, "push", env=env)
    other = clone(project, "other")
    plain_dvc(other, "pull", env=env)
    assert_the_same_run(project, other)
    shutil.rmtree(other / ".dvc/cache")
    shutil.rmtree(other / "models")
    plain_dvc(other, "pull", "models/export", env=env)
    assert sorted(path.name for path in (other / "models").iterdir() if path.is_dir()) == ["export"]
