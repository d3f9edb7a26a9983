"""Many malformed requests, and schemathesis: nothing is answered by a 5xx, and nothing takes the service down."""

import os
import shutil
import socket
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from corpus import JPEG, PNG, make_corpus
from fuzz import damaged
from served import FORM, form, serving

pytestmark = pytest.mark.faults
EACH = 100  # of five kinds
HEAD = "POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"


def in_form(data):
    return HEAD.format(FORM, len(form([("a", data)]))).encode() + form([("a", data)])


def cut_and_damaged():
    """Pictures that are broken, each in a whole form."""
    bad = [case.data for case in make_corpus() if case.reason and len(case.data) < 2_000_000]
    yield from (in_form(data) for data in bad[: EACH // 2])
    yield from (in_form(damaged(seed)[1][: 40 + seed]) for seed in range(EACH - min(len(bad), EACH // 2)))


def bombs():
    made = [case.data for case in make_corpus() if case.reason in ("bomb", "too_large", "unsupported", "too_small")]
    assert made
    yield from (in_form(made[number % len(made)]) for number in range(EACH))


def wrong_types():
    kinds = ["text/plain", "", "application/xml", "multipart/mixed; boundary=xyz", "multipart/form-data", "image"]
    bodies = [b"hello", b"{}", b"[1,2]", b"\xff" * 99, form(), b'{"urls": 3}', b"--xyz--"]
    for number in range(EACH):
        kind, body = kinds[number % len(kinds)], bodies[number // len(kinds) % len(bodies)]
        yield HEAD.format(kind, len(body)).encode() + body


def broken_forms():
    """A form with bytes flipped, cut out, doubled or lost outside of the picture."""
    whole = form([("a", PNG[:60]), ("b", JPEG[:60])], ["http://127.0.0.1/a"])
    random = np.random.default_rng(0)
    for _ in range(EACH):
        body = bytearray(whole)
        for _ in range(random.integers(1, 6)):
            at = int(random.integers(len(body)))
            way = random.integers(3)
            if way == 0:
                body[at] ^= int(random.integers(1, 256))
            elif way == 1:
                del body[at : at + int(random.integers(1, 30))]
            else:
                body[at:at] = body[at : at + 30]
        yield HEAD.format(FORM, len(body)).encode() + bytes(body)


def slow_or_odd():
    """Requests that stop somewhere, say a wrong length, or are no HTTP."""
    whole = in_form(PNG)
    random = np.random.default_rng(1)
    for number in range(EACH):
        if number % 4:
            yield whole[: int(random.integers(1, len(whole)))]
        else:
            yield bytes(random.integers(0, 256, 200, np.uint8)) + b"\r\n\r\n"


def answer(port, data):
    """Return the status of what comes back for these bytes; the line stays open, as that of a slow client."""
    with socket.create_connection(("127.0.0.1", port), 60) as line:
        line.sendall(data)
        return int(line.recv(100).split(b" ")[1])


def test_five_hundred_malformed_requests_get_4xx_and_the_service_lives_on(folders):
    sent = [data for kind in (cut_and_damaged, bombs, wrong_types, broken_forms, slow_or_odd) for data in kind()]
    assert len(sent) == 500
    with serving(folders[0], "--decoders", "2", "--max-read-seconds", "3") as server:
        with ThreadPoolExecutor(40) as clients:
            found = Counter(clients.map(lambda data: answer(server.port, data), sent))
        print(dict(found))
        assert sum(found.values()) == 500
        assert {status // 100 for status in found} == {4}
        assert server.send(("a.png", PNG), ("b.jpg", JPEG))[0] == 200
        assert server.process.poll() is None
        assert "Traceback" not in server.log.read_text()


# No schema can say which bytes are a picture, so where pictures are sent a refusal is right too.
CONFIG = """
[[operations]]
include-name = ["POST /predict", "POST /explain", "POST /v2/models/{name}/infer"]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "404", "413", "415", "422"]
"""


@pytest.mark.parametrize("key", [None, "open"])
def test_schemathesis_finds_nothing(folders, tmp_path, key):
    program = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
    if program is None:
        pytest.skip("no schemathesis here: `uv tool install schemathesis`, or SCHEMATHESIS=its path")
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    env = {"VITLORA_API_KEY": key} if key else {}
    with serving(f"first={folders[0]}", f"second={folders[1]}", "--quiet", **env) as server:
        address = f"http://127.0.0.1:{server.port}/openapi.json"
        words = [program, "--config-file", str(tmp_path / "schemathesis.toml"), "run", address, "--no-color"]
        words += ["--max-examples", "100", "--seed", "1", *(["-H", f"X-API-Key: {key}"] if key else [])]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=900)
        Path(os.environ.get("SCHEMATHESIS_LOG", os.devnull)).write_text(done.stdout)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert "Traceback" not in server.log.read_text()
