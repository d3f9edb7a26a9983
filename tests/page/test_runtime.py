"""What runs in the page is what is pinned, wherever it comes from; everything else ends in one line with a cure."""

import base64
import hashlib
import io
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vitlora.core.errors import VitloraError
from vitlora.net.fetch import Rules, download
from vitlora.page import runtime
from vitlora.page.runtime import Package, kept_in, runtime_files

CODE, WASM = "package/dist/run.mjs", "package/dist/run.wasm"
FILES = {CODE: b"export const one = 1;", WASM: bytes(range(256)) * 40}
HERE = "127.0.0.1"
RULES = Rules(max_bytes=1_000_000, total_s=10, connect_s=1, read_s=1, allowed=lambda address: True)


def pack(members):
    """Return a packed npm package. A member is a name and its bytes, or a ready entry of a tar file without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, data in members:
            entry = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def pinned(data, files=FILES):
    """Return what is pinned of a packed package and of the files that are wanted of it."""
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    wanted = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return Package("runner", "1.2.3", integrity, hashlib.sha256(data).hexdigest(), wanted)


GOOD = pack([("package/package.json", b"{}"), *FILES.items(), ("package/dist/other.wasm", b"x" * 1000)])
PACKAGE = pinned(GOOD)


class Registry(ThreadingHTTPServer):
    """A registry of npm with one package; ``body`` and ``length`` are what it sends and what it says it sends."""

    daemon_threads = True

    def __init__(self):
        super().__init__((HERE, 0), Handler)
        self.body, self.length, self.asked = GOOD, len(GOOD), []

    @property
    def address(self):
        return f"http://{HERE}:{self.server_address[1]}/npm/"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.asked.append(self.path)
        is_there = self.path == "/npm/runner/-/runner-1.2.3.tgz" and self.server.body is not None
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Length", str(self.server.length if is_there else 0))
        self.end_headers()
        if is_there:
            self.wfile.write(self.server.body)


@pytest.fixture
def registry(monkeypatch):
    server = Registry()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    monkeypatch.setenv("npm_config_registry", server.address)
    monkeypatch.setattr(runtime, "download", partial(download, pauses_s=()))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def left(store):
    return sorted(path.name for path in store.rglob("*") if path.is_file())


def get(store, given=None, package=PACKAGE):
    return runtime_files(given, store, package, RULES)


def refused(store, given=None, package=PACKAGE):
    with pytest.raises(VitloraError) as caught:
        get(store, given, package)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_fetched_once_and_then_needs_no_network(registry, tmp_path):
    assert get(tmp_path) == FILES
    assert left(tmp_path) == ["run.mjs", "run.wasm"]
    assert get(tmp_path) == FILES
    assert registry.asked == ["/npm/runner/-/runner-1.2.3.tgz"]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "lose"])
def test_what_is_kept_is_checked_at_each_use_and_fetched_anew_where_it_is_damaged(registry, tmp_path, damage):
    get(tmp_path)
    file = tmp_path / "runner-1.2.3" / "run.wasm"
    data = file.read_bytes()
    changed = {"flip": data[:70] + b"!" + data[71:], "cut": data[:-1], "empty": b""}
    file.write_bytes(changed[damage]) if damage in changed else file.unlink()
    assert get(tmp_path) == FILES
    assert len(registry.asked) == 2
    assert file.read_bytes() == FILES[WASM]


def test_another_package_of_the_same_name_is_not_taken(registry, tmp_path):
    registry.body = pack([(CODE, b"evil()"), (WASM, FILES[WASM])])
    registry.length = len(registry.body)
    text = refused(tmp_path)
    assert "SHA-256" in text
    assert "`npm pack runner@1.2.3`" in text
    assert left(tmp_path) == []


def test_a_cut_answer_is_not_taken(registry, tmp_path):
    registry.body = GOOD[:-20]
    assert f"sent {len(GOOD) - 20} of {len(GOOD)} bytes" in refused(tmp_path).replace(",", "")


def test_a_registry_without_it_is_named_with_a_cure_that_works(registry, tmp_path):
    registry.body = None
    text = refused(tmp_path / "store")
    assert f"from {HERE}:{registry.server_address[1]} ({HERE} answered 404 Not Found)" in text
    assert "name that file with --runtime" in text
    (tmp_path / "runner-1.2.3.tgz").write_bytes(GOOD)  # as `npm pack` writes it
    assert get(tmp_path / "store", tmp_path / "runner-1.2.3.tgz") == FILES
    assert get(tmp_path / "store") == FILES
    assert (tmp_path / "runner-1.2.3.tgz").read_bytes() == GOOD


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("http://127.0.0.1:1/", "cannot connect to 127.0.0.1"),
        ("http://me:secret@mirror.test/npm/", "an address with a user name"),
        ("ftp://mirror.test/", "only http and https addresses are read"),
        ("mirror.test", "only http and https addresses are read"),
        ("http://mirror.test:99999/", "no address"),
        ("http://127.1/", "no host name"),
    ],
)
def test_a_registry_that_is_none_is_one_line_without_its_password(monkeypatch, tmp_path, address, reason):
    monkeypatch.setenv("npm_config_registry", address)
    monkeypatch.setattr(runtime, "download", partial(download, pauses_s=()))
    text = refused(tmp_path)
    assert reason in text
    assert "--runtime" in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD[:-9], "integrity sha512-"),
        (b"", "integrity sha512-"),
        (b"<!doctype html>", "integrity sha512-"),
        (pack([*FILES.items()]), "integrity sha512-"),
    ],
)
def test_a_file_that_is_another_is_not_taken(tmp_path, data, reason):
    file = tmp_path / "runner-1.2.3.tgz"
    file.write_bytes(data)
    text = refused(tmp_path / "store", file)
    assert reason in text
    assert "runner-1.2.3.tgz" in text
    assert left(tmp_path / "store") == []


def test_a_name_of_no_file_is_one_line(tmp_path):
    assert "--runtime: cannot read" in refused(tmp_path / "store", tmp_path / "none.tgz")
    assert "Is a directory" in refused(tmp_path / "store", tmp_path)


def entry(name, kind, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, b""


@pytest.mark.parametrize(
    "members",
    [
        [(CODE, FILES[CODE])],
        [],
        [(f"../{CODE}", FILES[CODE]), (WASM, FILES[WASM])],
        [(f"/{CODE}", FILES[CODE]), (WASM, FILES[WASM])],
        [(f"./{CODE}", FILES[CODE]), (WASM, FILES[WASM])],
        [("package/dist/../dist/run.mjs", FILES[CODE]), (WASM, FILES[WASM])],
        [("elsewhere", FILES[CODE]), entry(CODE, tarfile.SYMTYPE, "../../elsewhere"), (WASM, FILES[WASM])],
        [("package/elsewhere", FILES[CODE]), entry(CODE, tarfile.LNKTYPE, "package/elsewhere"), (WASM, FILES[WASM])],
        [entry(CODE, tarfile.DIRTYPE), (WASM, FILES[WASM])],
        [entry(CODE, tarfile.FIFOTYPE), (WASM, FILES[WASM])],
        [entry(CODE, tarfile.CHRTYPE), (WASM, FILES[WASM])],
    ],
    ids=["missing", "none", "up", "root", "dot", "round", "link", "hard link", "folder", "pipe", "device"],
)
def test_only_plain_files_of_these_very_names_are_taken_even_where_the_package_is_the_pinned_one(tmp_path, members):
    data = pack(members)
    file = tmp_path / "runner-1.2.3.tgz"
    file.write_bytes(data)
    text = refused(tmp_path / "store", file, pinned(data))
    assert "has SHA-256 none, not " in text
    assert text.endswith("; the rule: runner-1.2.3.tgz, as `npm pack runner@1.2.3` gets it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runner-1.2.3.tgz"]


def test_a_pinned_file_that_is_no_package_is_one_line(tmp_path):
    for number, data in enumerate((b"", b"no archive", GOOD[:200], GOOD[:-30], b"\x1f\x8b\x08" + bytes(50))):
        file = tmp_path / f"{number}.tgz"
        file.write_bytes(data)
        assert "the rule: " in refused(tmp_path / "store", file, pinned(data))


@pytest.mark.parametrize("held", [b"# A page of text", GOOD[:-1], b"\x1f\x8b" + bytes(90), b""])
def test_another_file_is_told_with_the_command_that_gets_the_right_one(tmp_path, held):
    (tmp_path / "README.md").write_bytes(held)
    text = refused(tmp_path / "store", tmp_path / "README.md")
    assert text.endswith("; the rule: runner-1.2.3.tgz, as `npm pack runner@1.2.3` gets it")


def test_a_member_that_is_another_than_pinned_is_not_taken(tmp_path):
    data = pack([(CODE, b"evil()"), (WASM, FILES[WASM])])
    (tmp_path / "a.tgz").write_bytes(data)
    found = hashlib.sha256(b"evil()").hexdigest()
    assert f"{CODE} has SHA-256 {found}" in refused(tmp_path / "store", tmp_path / "a.tgz", pinned(data))


def test_a_member_longer_than_any_should_be_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(runtime, "MOST", 30_000)
    files = {**FILES, WASM: bytes(40_000)}
    data = pack([*files.items()])
    (tmp_path / "a.tgz").write_bytes(data)
    assert f"{WASM} has SHA-256 none" in refused(tmp_path / "store", tmp_path / "a.tgz", pinned(data, files))
    monkeypatch.setattr(runtime, "MOST", 40_000)
    assert get(tmp_path / "store", tmp_path / "a.tgz", pinned(data, files)) == files


def test_a_store_that_cannot_be_written_keeps_nothing_and_is_no_hindrance(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "runner-1.2.3.tgz").write_bytes(GOOD)
    assert get(tmp_path / "file" / "store", tmp_path / "runner-1.2.3.tgz") == FILES


def test_where_it_can_be_fetched_but_not_kept_the_place_is_named(registry, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert "Not a directory" in refused(tmp_path / "file" / "store")


@pytest.mark.parametrize("named", ["", "relative/folder"])
def test_it_is_kept_in_the_users_cache(tmp_path, monkeypatch, named):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept_in({"XDG_CACHE_HOME": named}) == tmp_path / ".cache/vitlora"
    assert kept_in({"XDG_CACHE_HOME": "/somewhere"}).as_posix() == "/somewhere/vitlora"
