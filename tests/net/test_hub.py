"""The real `huggingface_hub` client and the real stage against a small Hub on this machine, in good and bad health."""

import hashlib
import io
import itertools
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hub_server import Hub, environment, listed, serving
from PIL import Image
from safetensors.numpy import save
from tiny import DIGITS, set_params

from vitlora.core.files import read_json
from vitlora.storage.manifest import MANIFEST
from vitlora.storage.packed import Packed

pytestmark = pytest.mark.slow
OLD, NEW = "1" * 40, "2" * 40
PROCESSOR = json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}).encode()
WEIGHTS = save({"w": np.arange(20_000, dtype=np.float32)})
MODEL = {"config.json": b'{"model_type": "vit"}', "preprocessor_config.json": PROCESSOR, "model.safetensors": WEIGHTS}
# Fetches what each line of its input asks for, and answers in a line; impatient.
WORKER = """
import json, sys
from vitlora.net import hub
from vitlora.core.errors import VitloraError
hub.PAUSE_S, hub.TIMEOUT_S, hub.XET_RETRIES = 0.1, 0.3, "100ms"
for line in sys.stdin:
    try:
        print(json.dumps(["", str(hub.fetch(*json.loads(line)))]), flush=True)
    except VitloraError as error:
        print(json.dumps([str(error), ""]), flush=True)
"""
# The client waits 23 s in all between its own tries.
HASTY = """
import time
time.sleep = lambda seconds: None
"""
UNKNOWN = b'{\n  "interpolation": null,\n  "size_px": null\n}\n'  # the base doesn't say
NOTE = f'{{\n  "id": "owner/vit",\n  "revision": "{OLD}",\n  "source": "hub"\n}}\n'.encode()


@pytest.fixture(scope="module")
def server():
    with serving(Hub()) as server:
        yield server


@pytest.fixture
def hub(server):
    server.reset()
    return server


class Client:
    """A process that fetches from a Hub into a cache: `vitlora.net.hub` alone, many times."""

    def __init__(self, endpoint, cache, hasty=False, **env):
        self.cache = cache
        self.process = subprocess.Popen(
            [sys.executable, "-c", HASTY * hasty + WORKER],
            env=environment(endpoint, cache, **env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        _, noise = self.process.communicate(timeout=60)
        assert kind is not None or noise == ""

    def ask(self, repo, revision=OLD, kind="model"):
        section, copied = {"model": ("model", "folder"), "dataset": ("data", "hub_folder")}[kind]
        print(json.dumps([repo, revision, kind, section, copied]), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return json.loads(line)

    def fetch(self, *what):
        """Return the files of the snapshot by path."""
        error, folder = self.ask(*what)
        assert not error
        return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}

    def refuse(self, *what):
        """Return the one line that says why not."""
        error, _ = self.ask(*what)
        assert error
        assert "\n" not in error
        return error


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    with Client(server.host, tmp_path_factory.mktemp("hf")) as client:
        yield client


NUMBERS = itertools.count()


@pytest.fixture
def repo():
    """An id that no other test has put into the cache."""
    return f"owner/r{next(NUMBERS)}"


class Project:
    """A folder with params.yaml where the stage runs, and a Hub cache of its own."""

    def __init__(self, root, endpoint):
        self.root, self.endpoint = root, endpoint
        self.cache = root / ".cache/huggingface"
        shutil.copy(DIGITS, root / "params.yaml")
        for name, data in {"pictures/cat/1.png": b"cat", "pictures/dog/1.png": b"dog"}.items():
            (root / name).parent.mkdir(parents=True)
            (root / name).write_bytes(data)
        (root / "tiny").mkdir()
        for name, data in MODEL.items():
            (root / "tiny" / name).write_bytes(data)
        self.set(**{"data.source": "folder", "data.path": "pictures", "model.source": "folder", "model.path": "tiny"})

    def set(self, **values):
        set_params(self.root / "params.yaml", values)

    def use_model(self):
        self.set(**{"model.source": "hub", "model.path": "owner/vit", "model.revision": OLD})

    def use_data(self):
        self.set(**{"data.source": "hub", "data.path": "owner/pets", "data.revision": OLD})
        self.set(**{"data.test_split": "validation"})

    def run(self, *command, **env):
        command = command or ("-m", "stages.download")
        return subprocess.run(
            [sys.executable, *command, "--raw", "data/raw", "--base", "models/base"],
            cwd=self.root,
            env=environment(self.endpoint, self.cache, **env),
            capture_output=True,
            text=True,
            timeout=100,
        )

    def succeed(self, **env):
        done = self.run(**env)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""

    def refuse(self, *command, **env):
        """Run, and return the one line that says why not."""
        done = self.run(*command, **env)
        assert done.returncode == 1, done.stdout + done.stderr
        assert re.fullmatch(r"error: .+\n", done.stderr), done.stderr
        return done.stderr

    def files(self, folder):
        found = {path.name: path.read_bytes() for path in (self.root / folder).iterdir()}
        assert found.pop(MANIFEST), "the stage's own, beside what came from the Hub"
        return found


@pytest.fixture
def project(tmp_path, hub):
    return Project(tmp_path, hub.host)


def png(value):
    buffer = io.BytesIO()
    Image.fromarray(np.full((3, 3, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


PICTURES = {"train": [(png(n), n % 2) for n in range(5)], "validation": [(png(n + 100), n % 2) for n in range(3)]}


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """The files of a data set repository, as `datasets` itself pushes them."""
    from datasets import ClassLabel, Dataset, Features
    from datasets import Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    lines, files = ["---", "configs:", "- config_name: default", "  data_files:"], {}
    for split, rows in PICTURES.items():
        columns = {"image": [{"bytes": data, "path": None} for data, _ in rows], "label": [label for _, label in rows]}
        path = tmp_path_factory.mktemp("pets") / "x.parquet"
        Dataset.from_dict(columns, features).to_parquet(path)
        files[f"data/{split}-00000-of-00001.parquet"] = path.read_bytes()
        lines += [f"  - split: {split}", f"    path: data/{split}-*"]
    return {"README.md": "\n".join([*lines, "---", ""]).encode(), ".gitattributes": b"*.parquet lfs\n", **files}


def pictures(project):
    """Split, class name and bytes of every picture that the stage stored."""
    packed, names = Packed(project.root / "data/raw"), read_json(project.root / "data/raw/classes.json")
    return [(row["split"], names[int(row["label"])], packed[n]) for n, row in enumerate(packed.rows)]


EXPECTED = [
    (ours, ["cat", "dog"][label], data)
    for ours, theirs in (("train", "train"), ("test", "validation"))
    for data, label in PICTURES[theirs]
]


# The stage as it runs


def test_a_model_comes_by_its_commit_untouched_and_only_the_files_we_load(hub, project):
    more = {"pytorch_model.bin": b"pickle", "README.md": b"card", "modeling.py": b"raise SystemExit", "vocab.txt": b"v"}
    newer = {**MODEL, "model.safetensors": save({"w": np.zeros(3, np.float32)})}
    hub.repos["models/owner/vit"] = {NEW: newer, OLD: {**MODEL, **more}}
    project.use_model()
    project.succeed()
    assert project.files("models/base") == {**MODEL, "source.json": NOTE, "image.json": UNKNOWN}
    fetched = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert fetched == {*MODEL, "README.md"}  # which names the licence


def test_a_model_of_timm_comes_by_its_commit_with_its_licence_and_one_file_of_weights(hub, project):
    own = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 64, 64], "interpolation": "bicubic"}
    config = json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "pretrained_cfg": own}).encode()
    card = b"---\nlicense: other\nlicense_name: dinov3-license\n---\n"
    files = {"config.json": config, "README.md": card, "model.safetensors": WEIGHTS}
    more = {"open_clip_model.safetensors": WEIGHTS, "pytorch_model.bin": b"pickle"}
    hub.repos["models/owner/vit"] = {NEW: {}, OLD: {**files, **more}}
    project.set(**{"model.source": "timm", "model.path": "owner/vit", "model.revision": OLD})
    assert way_out("model", "timm") in project.refuse(HF_HUB_OFFLINE="1")
    project.succeed()
    found = {name: json.loads(data) for name, data in project.files("models/base").items() if name.endswith(".json")}
    assert project.files("models/base").keys() == {*found, "model.safetensors"}
    assert found["source.json"] == {
        "id": "owner/vit",
        "revision": OLD,
        "source": "timm",
        "licence": {"license": "other", "license_name": "dinov3-license"},
    }
    assert found["config.json"]["model_type"] == "timm_wrapper"
    assert found["image.json"] == {"size_px": 64, "interpolation": "bicubic"}
    fetched = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert fetched == set(files)

    # As it is refused before its weights come, and mended as the message says.
    hub.repos["models/owner/vit"] = {NEW: {**files, "config.json": config.replace(b"[3, 64, 64]", b"[1, 64, 64]")}}
    project.set(**{"model.revision": NEW})
    line = project.refuse()
    assert "pretrained_cfg.input_size: got [1, 64, 64]; the rule: [3, side, side]" in line
    words = re.search(r"; to change a file of it: hf (download .+ --local-dir) FOLDER, then model\.source: timm", line)[
        1
    ]
    command = [str(Path(sys.executable).with_name("hf")), *words.split(), "copy"]
    env = environment(hub.host, project.cache)
    subprocess.run(command, cwd=project.root, env=env, check=True, capture_output=True, timeout=100)
    (project.root / "copy/config.json").write_bytes(config)
    project.set(**{"model.path": "copy", "model.revision": None})
    project.succeed()


@pytest.mark.slow
def test_a_data_set_comes_by_its_commit_untouched_and_a_full_cache_needs_no_request(hub, project, pets):
    hub.repos["datasets/owner/pets"] = {NEW: {}, OLD: pets}
    project.use_data()
    for env in ({}, {"HF_HUB_OFFLINE": "1"}):
        project.succeed(**env)
        assert pictures(project) == EXPECTED
        shutil.rmtree(project.root / "data/raw")
        hub.fault = always(500)
        assert bool(hub.requests) == (env == {})
        hub.requests.clear()


# The stage with blocks of two pictures or three and a client that hardly waits.
SMALL_BLOCKS = """
import runpy, time
from vitlora.storage import blocks
blocks.SHARD_BYTES, sleep = 150, time.sleep
time.sleep = lambda seconds: sleep(min(seconds, 0.02))
runpy.run_module("stages.download", run_name="__main__", alter_sys=True)
"""


def test_a_stream_from_the_hub_keeps_no_file_and_goes_on_after_a_lost_connection(hub, project, pets):
    hub.repos["datasets/owner/pets"] = {NEW: {}, OLD: pets}
    project.use_data()
    project.set(**{"data.streaming": True})
    (project.root / "owner/pets").mkdir(parents=True)  # not to be taken for the data set

    def fault(request, before):
        name = next((split for split in PICTURES if f"/data/{split}-" in request and "GET" in request), None)
        if name == "train" and before == 2:
            return 206, {"Content-Length": "9999", "Connection": "close"}, b"then silence"
        return (500, {}, b"") if name == "validation" and hub.down and before else None

    hub.fault, hub.down = fault, True
    done = project.run("-c", SMALL_BLOCKS)
    assert done.returncode == 1
    *tries, error = done.stderr.splitlines()
    assert re.fullmatch(r"error: .* cannot read owner/pets: .*; what has come is kept: if .*", error)
    assert all("Retrying" in line or "thrown while requesting" in line for line in tries)
    assert len(list(project.root.glob(".work/download/kept/*/0*"))) == 2
    assert not (project.root / "data/raw").exists()
    hub.down = False
    done = project.run("-c", SMALL_BLOCKS)
    assert "5 images, 0.0 MB from the run before" in done.stdout
    assert pictures(project) == EXPECTED
    assert not list(project.cache.rglob("*.parquet"))
    streamed = project.files("data/raw")
    project.set(**{"data.streaming": False})
    project.succeed()
    assert pictures(project) == EXPECTED
    for name in ("classes.json", "left_out.json", "texts.bin"):
        assert project.files("data/raw")[name] == streamed[name]


def test_a_model_that_cannot_be_taken_is_refused_before_its_weights_come(hub, project):
    hub.repos["models/owner/vit"] = {OLD: {**MODEL, "config.json": b'{"model_type": "vit", "num_channels": 1}'}}
    project.use_model()
    line = project.refuse()
    assert "config.json: num_channels: got 1; the rule: 3" in line
    assert not [request for request in hub.requests if "/resolve/" in request and "safetensors" in request]
    assert not (project.root / "models/base").exists()

    # The way that the message names.
    words = re.search(
        r"; to change a file of it: hf (download .+ --local-dir) FOLDER, then model\.source: folder", line
    )[1]
    command = [str(Path(sys.executable).with_name("hf")), *words.split(), "copy"]
    env = environment(hub.host, project.cache)
    subprocess.run(command, cwd=project.root, env=env, check=True, capture_output=True, timeout=100)
    (project.root / "copy/config.json").write_bytes(MODEL["config.json"])
    project.set(**{"model.source": "folder", "model.path": "copy", "model.revision": None})
    project.succeed()
    assert project.files("models/base") == {**MODEL, "image.json": UNKNOWN}


NESTED = json.dumps({"image_processor": json.loads(PROCESSOR), "processor_class": "CLIPProcessor"}).encode()
FORMS = {
    "one file of weights": MODEL,
    "transformers 5": {
        **{name: data for name, data in MODEL.items() if name != "preprocessor_config.json"},
        "processor_config.json": NESTED,
    },
    "parts, and files in sub-folders": {
        "config.json": MODEL["config.json"],
        "preprocessor_config.json": PROCESSOR,
        "model-00001-of-00001.safetensors": WEIGHTS,
        "model.safetensors.index.json": b'{"weight_map": {"w": "model-00001-of-00001.safetensors"}}',
        "onnx/model.safetensors": save({"w": np.zeros(3, np.float32)}),
        "old/config.json": b"{}",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_a_model_fetched_once_serves_other_pictures_with_the_network_gone(hub, project, form):
    hub.repos["models/owner/vit"] = {OLD: FORMS[form]}
    project.use_model()
    project.succeed()
    first = project.files("models/base")
    assert not [request for request in hub.requests if "/resolve/" in request and request.count("/") > 5]
    (project.root / "more/cow").mkdir(parents=True)
    shutil.copytree(project.root / "pictures/dog", project.root / "more/dog")
    (project.root / "more/cow/1.png").write_bytes(b"cow")
    project.set(**{"data.path": "more"})
    hub.requests.clear()
    with closed_port() as endpoint:
        shutil.rmtree(project.root / "models/base")  # as DVC does before a stage
        hub.fault = always(500)
        project.succeed()
        assert project.files("models/base") == first
        project.endpoint = endpoint  # nobody listens
        shutil.rmtree(project.root / "models/base")
        project.succeed()
    assert project.files("models/base") == first
    assert hub.requests == []


@pytest.mark.slow
def test_a_large_file_with_a_wrong_sha256_is_refused_removed_and_both_hashes_named(hub, project):
    hub.repos["models/owner/vit"] = {OLD: MODEL}
    hub.spoiled = {"model.safetensors"}
    project.use_model()
    line = project.refuse()
    announced = hashlib.sha256(WEIGHTS).hexdigest()
    got = hashlib.sha256(WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1])).hexdigest()
    assert line == (
        f"error: model.safetensors from {hub.host}: SHA-256 {got}, announced {announced}; removed it, run again\n"
    )
    assert not (project.root / "models/base").exists()
    assert not list(project.cache.rglob(announced))
    hub.spoiled = set()
    project.succeed()
    assert project.files("models/base") == {**MODEL, "source.json": NOTE, "image.json": UNKNOWN}


@pytest.mark.slow
def test_an_unreachable_host_fails_within_a_minute_with_the_way_out(project):
    with closed_port() as endpoint:
        project.endpoint = endpoint
        project.use_data()
        start = time.perf_counter()
        line = project.refuse()
    assert 6 < time.perf_counter() - start < 30  # pauses of 2 and 4 s
    assert f"data: cannot fetch dataset owner/pets at 111111111111 from {endpoint} (" in line
    assert "Connection refused" in line
    assert way_out("data", "hub_folder") in line
    assert not (project.root / "data/raw").exists()


def test_offline_with_an_empty_cache_is_one_line_and_no_request(hub, project, pets):
    hub.repos["datasets/owner/pets"] = {OLD: pets}
    project.use_data()
    line = project.refuse(HF_HUB_OFFLINE="1")
    assert "(HF_HUB_OFFLINE is set and the cache lacks it)" in line
    assert way_out("data", "hub_folder") in line
    assert hub.requests == []


# What comes


def test_a_model_in_several_weight_files_comes_whole(hub, client, repo):
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = {**MODEL, **{name: save({f"w{n}": np.full(9, n, np.float32)}) for n, name in enumerate(names)}}
    del files["model.safetensors"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"w0": names[0], "w1": names[1]}}).encode()
    hub.repos[f"models/{repo}"] = {OLD: files}
    assert client.fetch(repo) == files


def test_a_data_set_comes_whole_whatever_the_names_of_its_files(hub, client, repo):
    names = ["cat/1.png", "cat/2.PNG", "cat/3.webp", "dog/1.JPG", "dog/2.bmp", "train.tar.gz", "labels.json"]
    files = {name: f"bytes of {name}".encode() for name in names}
    hub.repos[f"datasets/{repo}"] = {OLD: files}
    assert client.fetch(repo, OLD, "dataset") == files


def test_a_token_is_sent(hub, tmp_path, repo):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    with Client(hub.host, tmp_path, HF_TOKEN="hf_abc") as client:
        client.fetch(repo)
    assert hub.tokens == {"Bearer hf_abc"}


# The cache


def test_a_cache_that_keeps_its_files_in_a_shared_store_is_read(hub, client, repo):
    """Where a file came by Xet, the client replaces it by a link to a store whose names are no SHA-256."""
    from huggingface_hub.utils._shared_blobs import publish_blob_to_shared_store

    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    client.fetch(repo)
    cache = client.cache / "hub"
    blob = cache / f"models--{repo.replace('/', '--')}/blobs" / hashlib.sha256(WEIGHTS).hexdigest()
    assert publish_blob_to_shared_store(
        blob_path=str(blob), xet_hash="ab" * 32, cache_dir=str(cache), expected_size=len(WEIGHTS)
    )
    assert blob.is_symlink()
    assert client.fetch(repo) == MODEL

    store = blob.resolve()
    store.chmod(0o600)
    store.write_bytes(bytes(len(WEIGHTS)))
    assert f"SHA-256 {hashlib.sha256(bytes(len(WEIGHTS))).hexdigest()}, announced {blob.name}" in client.refuse(repo)
    assert not store.exists()
    assert client.fetch(repo) == MODEL


def test_a_file_damaged_in_the_cache_is_found_before_it_is_used(hub, client, repo):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    client.fetch(repo)
    folder = client.cache / f"hub/models--{repo.replace('/', '--')}"
    (folder / "blobs" / hashlib.sha256(WEIGHTS).hexdigest()).write_bytes(bytes(9))
    assert "removed it, run again" in client.refuse(repo)
    assert client.fetch(repo) == MODEL


@pytest.mark.slow
def test_a_part_of_a_repository_that_another_program_cached_does_not_pass_for_the_whole(hub, tmp_path, repo):
    from huggingface_hub import hf_hub_download

    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    endpoint, cache = f"http://{hub.host}", tmp_path / "hub"
    hf_hub_download(repo, "model.safetensors", revision=OLD, endpoint=endpoint, cache_dir=cache)
    with Client(hub.host, tmp_path, HF_HUB_OFFLINE="1") as client:
        assert "HF_HUB_OFFLINE is set and the cache lacks it" in client.refuse(repo)
    with Client(hub.host, tmp_path) as client:
        assert client.fetch(repo) == MODEL


# Faults that may pass


def way_out(section, source):
    return f"put a copy of its files in a folder and set {section}.source: {source}, {section}.path: that folder"


def always(status, headers=None, body=b""):
    return lambda request, before: (status, headers or {}, body)


@contextmanager
def closed_port():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


@pytest.mark.parametrize("what", ["GET /api/models/{}/revision/", f"GET /{{}}/resolve/{OLD}/config.json"])
def test_a_server_that_is_busy_twice_is_asked_a_third_time(hub, client, repo, what):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    start = what.format(repo)
    hub.fault = lambda request, before: (503, {}, b"") if request.startswith(start) and before < 2 else None
    assert client.fetch(repo) == MODEL
    assert max(hub.requests.count(request) for request in hub.requests) == 3


def test_a_server_that_is_always_busy_fails_after_three_requests_with_the_way_out(hub, client, repo):
    hub.fault = always(503)
    line = client.refuse(repo)
    assert f"model: cannot fetch model {repo} at 111111111111 from {hub.host} (HTTP 503)" in line
    assert way_out("model", "folder") in line
    assert len(hub.requests) == 3


def test_a_server_that_fails_for_one_file_only_fails_after_three_tries(hub, client, repo):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    bad = f"GET /{repo}/resolve/{OLD}/config.json"
    hub.fault = lambda request, before: (500, {}, b"") if request == bad else None
    assert "(HTTP 500)" in client.refuse(repo)
    assert hub.requests.count(bad) == 3


def test_a_body_shorter_than_announced_is_fetched_again(hub, client, repo):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    short = f"GET /{repo}/resolve/{OLD}/config.json"
    hub.fault = lambda request, before: (200, {}, b"{") if request == short and not before else None
    assert client.fetch(repo) == MODEL
    assert hub.requests.count(short) == 2


@pytest.mark.slow
def test_a_host_that_never_answers_does_not_hang_the_stage(tmp_path, repo):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.perf_counter()
        with Client(endpoint, tmp_path) as client:
            assert f"from {endpoint} (ReadTimeout: timed out)" in client.refuse(repo)
    assert time.perf_counter() - start < 20  # three times 0.3 s


@pytest.mark.slow
def test_a_hub_that_falls_silent_before_its_list_of_files_does_not_hang_the_stage(hub, tmp_path, repo):
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    over = threading.Event()
    hub.fault = lambda request, before: over.wait(30) and None if "/tree/" in request else None
    start = time.perf_counter()
    with Client(hub.host, tmp_path, hasty=True, HF_HUB_VERBOSITY="error") as client:
        line = client.refuse(repo)
    over.set()
    assert f"cannot fetch model {repo} at 111111111111 from {hub.host} (ReadTimeout: " in line
    assert way_out("model", "folder") in line
    assert time.perf_counter() - start < 15


def test_a_blocked_xet_storage_is_one_line_and_does_not_hang_the_stage(hub, tmp_path, repo):
    """The Hub answers, the storage behind it doesn't: so it is where only known hosts may be reached."""
    pytest.importorskip("hf_xet")
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    tree = [{**listed(name, data), "xetHash": "ab" * 32} for name, data in MODEL.items()]
    with closed_port() as storage:
        token = {"casUrl": f"http://{storage}", "accessToken": "t", "exp": int(time.time()) + 3600}
        names = {"casUrl": "Cas-Url", "accessToken": "Access-Token", "exp": "Token-Expiration"}
        headers = {f"X-Xet-{names[key]}": str(value) for key, value in token.items()}
        answers = {"tree": (200, {}, json.dumps(tree).encode()), "xet-read-token": (200, headers, b"{}")}
        hub.fault = lambda request, before: next((answers[part] for part in answers if f"/{part}/" in request), None)
        start = time.perf_counter()
        with Client(hub.host, tmp_path, HF_HUB_DISABLE_XET="0") as client:
            assert f"from {hub.host} (RuntimeError: " in client.refuse(repo)
    assert time.perf_counter() - start < 20
    assert hub.requests.count(f"GET /api/models/{repo}/revision/{OLD}") == 1


def test_a_login_page_in_place_of_the_hub_is_one_line(hub, client, repo):
    hub.fault = always(200, {"Content-Type": "text/html"}, b"<html>Please log in to the airport</html>")
    assert f"from {hub.host} (JSONDecodeError" in client.refuse(repo)
    assert len(hub.requests) == 1


def test_a_password_in_the_endpoint_is_not_shown(hub, tmp_path, repo):
    hub.fault = always(503)
    with Client(f"me:secret@{hub.host}", tmp_path) as client:
        line = client.refuse(repo)
    assert f"from {hub.host} (" in line
    assert "secret" not in line


# A clear no


def test_an_unknown_repository_is_named_after_one_request(hub, client, repo):
    assert (
        client.refuse(repo)
        == f"model.path: {hub.host} has no model {repo} (or it is private: `hf auth login`, or set HF_TOKEN)"
    )
    assert len(hub.requests) == 1


def test_an_unknown_commit_is_named_after_one_request(hub, client, repo, pets):
    hub.repos[f"datasets/{repo}"] = {OLD: pets}
    assert client.refuse(repo, NEW, "dataset") == f"data.revision: {hub.host} has {repo} but no commit {NEW}"
    assert len(hub.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", ["/api/", "/resolve/"])
def test_a_repository_behind_a_login_says_so(hub, client, repo, status, where):
    """The real Hub lists a gated repository's files to everyone and refuses the files."""
    hub.repos[f"models/{repo}"] = {OLD: MODEL}
    hub.fault = lambda request, before: (status, {"X-Error-Code": "GatedRepo"}, b"") if where in request else None
    assert client.refuse(repo) == (
        f"model: {hub.host} asks for a login for model {repo} at 111111111111, which is gated; ask for access on its "
        f"page, {hub.host}/{repo}, then `hf auth login` (or set HF_TOKEN), and run again"
    )


def test_a_private_repository_looks_like_an_unknown_one_and_the_token_is_named(hub, client, repo):
    hub.fault = always(401)
    assert f"has no model {repo} (or it is private: `hf auth login`, or set HF_TOKEN)" in client.refuse(repo)
    assert len(hub.requests) == 1


def test_another_refusal_is_not_repeated(hub, client, repo):
    hub.fault = always(403)
    assert "(HTTP 403)" in client.refuse(repo)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("path", ["owner/vit/more", "../../etc", "owner/a b"])
def test_a_path_that_is_no_hub_id_is_refused_without_a_request(hub, client, path):
    assert client.refuse(path) == f"model.path: got {path}; the rule: a Hub id such as owner/name"
    assert hub.requests == []
