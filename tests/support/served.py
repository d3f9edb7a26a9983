"""A real `vitlora serve` on a free port, in a process of its own."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from tiny import ROOT

FORM = "multipart/form-data; boundary=xyz"


class Server:
    """One server; ``ask`` opens a connection each time."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def ask(self, method, path, body=None, headers=None, key=None):
        """Return status, headers and JSON (or text) of an answer."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            line.request(method, path, body, {**(headers or {}), **({"X-API-Key": key} if key else {})})
            answer = line.getresponse()
            data = answer.read()
            is_json = answer.headers.get("content-type", "").startswith("application/json")
            return answer.status, answer.headers, json.loads(data) if is_json else data.decode()
        finally:
            line.close()

    def send(self, *files, path="/predict", urls=()):
        """Send a form of files, each a name and bytes, and addresses."""
        return self.ask("POST", path, form(files, urls), {"Content-Type": FORM})

    def children(self):
        """Return the decoders, by process id."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                parent = re.search(r"^PPid:\t(\d+)", status.read_text(), re.MULTILINE)
                command = (status.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if int(parent[1]) == self.process.pid and b"spawn_main" in command:
                found.append(int(status.parent.name))
        return found

    def end(self, number=signal.SIGTERM):
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout=60)


def form(files=(), urls=()):
    """Return a body for ``FORM``."""
    parts = [(f'name="file"; filename="{name}"', data) for name, data in files]
    parts += [('name="url"', url.encode()) for url in urls]
    body = b"".join(
        f"--xyz\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + data + b"\r\n" for head, data in parts
    )
    return body + b"--xyz--\r\n"


@contextmanager
def serving(*words, cwd=ROOT, program=(sys.executable, "-m", "vitlora"), **env):
    """Start a server and end it; what it wrote to standard error is in ``log``."""
    log = Path(
        os.environ.get("PYTEST_SERVE_LOG", f"{os.environ.get('TMPDIR', '/tmp')}/serve-{os.getpid()}-{time.time_ns()}")
    )
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*program, "serve", "--port", "0", *map(str, words)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **env},
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,
        )
    try:
        first = process.stdout.readline().decode()
        port = re.search(r"http://\S+:(\d+) \(Ctrl-C ends it\)$", first.strip())
        assert port, first + log.read_text()
        yield Server(process, int(port[1]), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
        log.unlink()
