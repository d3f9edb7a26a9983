"""A small Hugging Face Hub on this machine: as much of it as downloads of a commit, and pushes, ask for."""

import base64
import hashlib
import json
import os
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tiny import ROOT

LARGE = (".safetensors", ".parquet", ".bin", ".onnx")


class Hub(ThreadingHTTPServer):
    """As much of the Hub as a pinned download asks for.

    Attributes:
        repos: Files by name, by commit, by `models/ID` or `datasets/ID`.
        requests: What was asked, such as `GET /api/models/a/b/revision/1111`.
        fault: Given such a text and how many like it came before; returns None, or status, headers and body to send.
        tokens: Authorizations that were sent.
        spoiled: Names of files whose bytes arrive changed.
    """

    daemon_threads = True

    def __init__(self, handler=None):
        super().__init__(("127.0.0.1", 0), handler or Answer)
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        """Forget everything, as a new server."""
        self.repos = {}
        self.requests = []
        self.tokens = set()
        self.fault = lambda request, before: None
        self.spoiled = set()

    @property
    def host(self):
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that hangs up is no fault of ours."""


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = urlsplit(self.path).path
        request = f"{self.command} {path}"
        with self.server.lock:
            before = self.server.requests.count(request)
            self.server.requests.append(request)
            self.server.tokens.add(self.headers.get("Authorization"))
        self.reply(*(self.server.fault(request, before) or self.answer(path)))

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer(self, path):
        below = ""
        match = re.fullmatch(r"/api/(models|datasets)/(.+?)/(revision|tree)/(\w+)(?:/(.+))?", path)
        if match:
            kind, repo, question, commit, below = match.groups()
        else:
            match = re.fullmatch(r"/(datasets/)?(.+)/resolve/(\w+)/(.+)", path)
            if not match:
                return 404, {}, b""
            kind, repo, commit, question = "datasets" if match[1] else "models", match[2], match[3], match[4]
        commits = self.server.repos.get(f"{kind}/{repo}")
        if commits is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if commit not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        files = commits[commit]
        if question == "revision":
            return self.json({"id": repo, "sha": commit, "siblings": [{"rfilename": name} for name in files]})
        if question == "tree":
            return self.tree(files, f"{below}/" if below else "", "recursive=false" in self.path.lower())
        return self.file(question, files, commit)

    def tree(self, files, folder, flat):
        inside = {name: data for name, data in files.items() if name.startswith(folder)}
        if folder and not inside:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        if not flat:
            return self.json([listed(name, data) for name, data in inside.items()])
        parted = {name: name.removeprefix(folder).partition("/") for name in inside}
        folders = sorted({folder + first for first, slash, _ in parted.values() if slash})
        here = [listed(name, inside[name]) for name, (_, slash, _) in parted.items() if not slash]
        return self.json(
            [*here, *({"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders)]
        )

    def json(self, content):
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()

    def file(self, name, files, commit):
        if name not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        entry, body = listed(name, files[name]), files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{entry["oid"]}"'}
        if "lfs" in entry:
            headers |= {"X-Linked-Etag": f'"{entry["lfs"]["oid"]}"', "X-Linked-Size": str(len(body))}
        if name in self.server.spoiled:
            body = body[:-1] + bytes([body[-1] ^ 1])
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked:
            begin, end = map(int, asked.groups())
            return 206, {**headers, "Content-Range": f"bytes {begin}-{end}/{len(body)}"}, body[begin : end + 1]
        return 200, headers, body


@contextmanager
def serving(server):
    """Let a server answer in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def listed(name, data):
    """A file as the Hub lists it: a small one by Git's SHA-1, a large one by SHA-256 too."""
    entry = {"type": "file", "path": name, "size": len(data)}
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    if name.endswith(LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
    return entry


def environment(endpoint, cache, **more):
    """Settings of the client, which reads them when it is imported: hence a process for each."""
    own = ("HF_", "HUGGING", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return {
        **{name: value for name, value in kept.items() if not name.upper().endswith("_PROXY")},
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "HF_ENDPOINT": f"http://{endpoint}",
        "HF_HOME": str(cache),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **more,
    }


class PushHub(Hub):
    """A Hub that takes pushes too; `main` is the last commit.

    Attributes:
        writers: Tokens that may write.
        private: By repository.
    """

    def __init__(self):
        self.writers = {"Bearer hf_writer"}
        self.stored, self.private, self.last = {}, {}, {}
        super().__init__(Receive)


class Receive(Answer):
    """Create, preupload, LFS and commit, as huggingface_hub 2 asks for them."""

    server: PushHub

    def do_POST(self):
        data = self.body()
        with self.server.lock:
            self.server.requests.append(f"POST {urlsplit(self.path).path}")
            if self.headers.get("Authorization") not in self.server.writers:
                self.reply(401, {}, b"")
            else:
                self.reply(*self.taken(urlsplit(self.path).path, data))

    def do_PUT(self):
        data = self.body()
        oid = self.path.rpartition("/")[2]
        good = hashlib.sha256(data).hexdigest() == oid
        self.server.stored[oid] = data
        self.reply(200 if good else 400, {}, b"")

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def taken(self, path, data):
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            if f"models/{name}" in self.server.repos:
                return 409, {}, json.dumps({"url": f"http://{self.server.host}/{name}"}).encode()
            self.server.repos[f"models/{name}"] = {"0" * 40: {}}
            self.server.last[name], self.server.private[name] = "0" * 40, asked.get("visibility") == "private"
            return self.json({"url": f"http://{self.server.host}/{name}", "name": name})
        if path.endswith("/objects/batch"):
            objects = json.loads(data)["objects"]
            for each in objects:
                each["actions"] = {"upload": {"href": f"http://{self.server.host}/lfs/{each['oid']}", "header": {}}}
            return self.json({"transfer": "basic", "objects": objects})
        if path == "/api/validate-yaml":
            return self.json({"errors": [], "warnings": []})
        repo, question = re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/main", path).groups()
        if question == "preupload":
            files = json.loads(data)["files"]
            modes = ("lfs" if each["path"].endswith(LARGE) else "regular" for each in files)
            told = [
                {"path": each["path"], "uploadMode": mode, "shouldIgnore": False}
                for each, mode in zip(files, modes, strict=True)
            ]
            return self.json({"files": told})
        return self.commit(repo, [json.loads(line) for line in data.splitlines()])

    def commit(self, repo, lines):
        files = dict(self.server.repos[f"models/{repo}"][self.server.last[repo]])
        for line in lines:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
            elif kind == "deletedFile":
                del files[value["path"]]
        named = json.dumps([[name, hashlib.sha256(body).hexdigest()] for name, body in sorted(files.items())])
        oid = hashlib.sha1(named.encode()).hexdigest()
        self.server.repos[f"models/{repo}"][oid], self.server.last[repo] = files, oid
        url = f"http://{self.server.host}/{repo}/commit/{oid}"
        return self.json({"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def answer(self, path):
        bare = re.fullmatch(r"/api/models/([^/]+/[^/]+)", path)
        path = f"{path}/revision/main" if bare else path
        for repo, commit in self.server.last.items():
            path = re.sub(rf"(/{repo}/(?:revision|tree|resolve)/)main\b", rf"\g<1>{commit}", path)
        return super().answer(path)
