"""Signals, limits and keys: what ends ends cleanly, and what is too much, too slow or unknown costs nobody else."""

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from corpus import JPEG, PNG, noisy, saved
from served import FORM, Server, form, serving

from vitlora.serve.guard import OPEN

IMAGE = {"Content-Type": "image/png"}
DUE_S = 30


def until(is_so):
    """Wait until something is so."""
    end = time.monotonic() + DUE_S
    while not is_so():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def is_gone(process):
    try:
        return "\nState:\tZ" in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return True


def at_work(server):
    text = server.ask("GET", "/metrics", key="open")[2]
    return float(re.search(r"^vitlora_requests_at_work (\S+)$", text, re.MULTILINE)[1])


@pytest.fixture
def fresh(folders):
    """A server of its own with two decoders, which a test may harm."""
    with serving(folders[0], "--decoders", "2") as server:
        yield server


def test_sigterm_finishes_what_is_under_way_and_leaves_no_process(fresh):
    children = fresh.children()
    assert len(children) == 2
    for child in children:
        os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor() as clients:
        under_way = [clients.submit(fresh.send, ("a.png", PNG)) for _ in range(3)]
        until(lambda: at_work(fresh) == 3)
        os.killpg(fresh.process.pid, signal.SIGTERM)  # to all of them, as service managers do
        until(lambda: is_closed(fresh))
        for child in children:
            os.kill(child, signal.SIGCONT)
        assert [each.result()[0] for each in under_way] == [200] * 3
    assert fresh.process.wait(DUE_S) == 0
    until(lambda: all(is_gone(child) for child in children))
    until(lambda: not members(fresh.process.pid))


def is_closed(server):
    with suppress(OSError), socket.create_connection(("127.0.0.1", server.port), 5):
        return False
    return True


def members(group):
    """Return the processes of a group that are alive."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = status.read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(status.parent.name)
    return found


@pytest.mark.faults
def test_a_server_that_is_killed_leaves_no_process(fresh):
    children = fresh.children()
    assert fresh.end(signal.SIGKILL) == -signal.SIGKILL
    until(lambda: all(is_gone(child) for child in children))


@pytest.mark.faults
def test_ctrl_c_ends_with_130(fresh):
    assert fresh.end(signal.SIGINT) == 130
    assert "Traceback" not in fresh.log.read_text()


def test_a_decoder_killed_at_work_loses_its_request_and_no_other(server):
    children = server.children()
    for child in children:
        os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor() as clients:
        under_way = [clients.submit(server.send, ("a.png", PNG)) for _ in range(6)]
        until(lambda: at_work(server) == 6)
        os.kill(children[0], signal.SIGKILL)
        os.kill(children[1], signal.SIGCONT)
        got = [each.result() for each in under_way]
    assert sorted(status for status, _, _ in got) in ([200] * 5 + [422], [200] * 6)  # the latter if it had none yet
    assert all("killed its decoder" in told["error"] for status, _, told in got if status == 422)
    assert server.send(("a.png", PNG), ("b.jpg", JPEG))[0] == 200
    assert len(server.children()) == 2
    assert "Traceback" not in server.log.read_text()


def test_decoders_killed_while_they_have_no_work_lose_nothing(server):
    for _ in range(3):
        for child in server.children():
            os.kill(child, signal.SIGKILL)
            until(lambda child=child: is_gone(child))
        assert [server.send((f"{number}.png", PNG))[0] for number in range(4)] == [200] * 4


@pytest.fixture(scope="module")
def strict(folders, tmp_path_factory):
    """A server with a key and narrow limits."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("open\n\n  old-key-9 \n")
    limits = "--max-mb .05 --max-pictures 2 --max-pixels 5000 --max-read-seconds 1 --max-seconds 1.5 --max-requests 1"
    with serving(folders[0], "--decoders", "1", "--api-key-file", keys, *limits.split()) as server:
        yield server


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "shut"},
        {"X-API-Key": ""},
        {"X-API-Key": "ope"},
        {"X-API-Key": "\xe9\xff"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer openopen"},
        {"Authorization": "Basic open"},
    ],
    ids=str,
)
def test_without_a_known_key_nothing_is_told(strict, headers):
    for method, path in (("POST", "/predict"), ("GET", "/models"), ("GET", "/metrics"), ("GET", "/v2"), ("GET", "/x")):
        status, got, told = strict.ask(method, path, PNG if method == "POST" else None, {**IMAGE, **headers})
        assert (status, got["WWW-Authenticate"]) == (401, "Bearer")
        assert "header `Authorization: Bearer KEY` or `X-API-Key: KEY`" in told["cure"]


@pytest.mark.parametrize(
    "headers",
    [
        {"X-API-Key": "open"},
        {"X-API-Key": "old-key-9"},
        {"Authorization": "Bearer open"},
        {"Authorization": "bearer open"},
    ],
    ids=str,
)
def test_with_one_of_the_keys_it_is(strict, headers):
    assert strict.ask("POST", "/predict", PNG_SMALL, {**IMAGE, **headers})[0] == 200
    assert strict.ask("GET", "/metrics", headers=headers)[0] == 200


PNG_SMALL = saved(noisy(20, 20), "PNG")


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/v2/health/live", "/v2/health/ready"])
def test_what_tells_of_no_model_is_open(strict, path):
    assert strict.ask("GET", path)[0] == 200
    assert "dog" not in str(strict.ask("GET", path)[2])


def test_the_key_is_part_of_the_description(strict, server):
    described = strict.ask("GET", "/openapi.json")[2]
    assert set(described["components"]["securitySchemes"]) == {"X-API-Key", "bearer"}
    assert "401" in described["paths"]["/predict"]["post"]["responses"]
    assert "security" not in described["paths"]["/health"]["get"]
    parts = strict.ask("GET", "/docs")[2].split("<h2>")[1:]
    locked = {re.search(r"</b> (.*?)</h2>", part)[1] for part in parts if "<code>401</code><dd>No known key" in part}
    assert locked == {path for path in described["paths"] if path not in OPEN}
    assert all(("Authorization: Bearer KEY" in part) == ("401" in part) for part in parts)
    assert "401" not in server.ask("GET", "/openapi.json")[2]["paths"]["/predict"]["post"]["responses"]


def ask(server, *files):
    return server.ask("POST", "/predict", form(files), {"Content-Type": FORM}, key="open")


def test_sizes_at_the_limit_are_taken_and_beyond_it_refused(strict):
    assert ask(strict, ("a", saved(noisy(50, 100), "PNG")))[0] == 200
    status, _, told = ask(strict, ("a", saved(noisy(73, 69), "PNG")))
    assert (status, told["answers"][0]["error"]) == (422, "too many pixels: 73 x 69; the rule: at most 5,000")
    assert ask(strict, ("a", PNG_SMALL), ("b", PNG_SMALL))[0] == 200
    assert ask(strict, *[("a", PNG_SMALL)] * 3)[0] == 413
    padded = PNG_SMALL + bytes(50_000 - len(PNG_SMALL))
    assert strict.ask("POST", "/predict", padded, IMAGE, key="open")[0] != 413
    assert strict.ask("POST", "/predict", padded + b"\0", IMAGE, key="open")[0] == 413


HEAD = b"POST /predict HTTP/1.1\r\nHost: a\r\nX-API-Key: open\r\nContent-Type: image/png\r\n"


def first_line(server: Server, *pieces):
    """Send pieces and return the first line of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), DUE_S) as line:
        for piece in pieces:
            line.sendall(piece)
        return line.recv(200).split(b"\r\n")[0].decode()


SLOW_OR_ODD = [
    (413, [HEAD + b"Content-Length: 60000\r\n\r\n"]),
    (413, [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + bytes(0xFFFF) + b"\r\n"]),
    (408, [HEAD + b"Content-Length: 100\r\n\r\n" + bytes(50)]),
    (408, [HEAD + b"Content-Length: 100\r\n\r\n"]),
    (408, [HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"]),
    (408, [HEAD]),
    (408, [b"GET /hea"]),
    (408, [b""]),
    (400, [HEAD + b"Content-Length: nine\r\n\r\n"]),
    (400, [HEAD + b"Content-Length: -9\r\n\r\n"]),
    (400, [HEAD + b"Content-Length: 9\r\nContent-Length: 8\r\n\r\n"]),
    (400, [HEAD + b"X: " + b"x" * 900_000 + b"\r\n\r\n"]),
]


def test_slow_long_and_odd_requests_are_answered_and_let_go(strict):
    with ThreadPoolExecutor(len(SLOW_OR_ODD)) as clients:
        got = list(clients.map(lambda case: first_line(strict, *case[1]).split(" ")[1], SLOW_OR_ODD))
    assert got == [str(due) for due, _ in SLOW_OR_ODD]


def test_a_body_without_end_is_cut_off_after_its_answer(strict):
    with socket.create_connection(("127.0.0.1", strict.port), DUE_S) as line:
        line.sendall(HEAD + b"Content-Length: 60000\r\n\r\n")
        assert line.recv(200).startswith(b"HTTP/1.1 413")
        end = time.monotonic() + DUE_S
        with suppress(OSError):
            while line.recv(65536) and time.monotonic() < end:
                line.sendall(b"x")
        assert time.monotonic() < end


def test_a_second_slow_head_on_a_line_is_let_go_too(strict):
    with socket.create_connection(("127.0.0.1", strict.port), DUE_S) as line:
        line.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += line.recv(2000)
        line.sendall(b"GET /hea")
        assert line.recv(2000).startswith(b"HTTP/1.1 408")
        assert line.recv(2000) == b""


def test_more_requests_than_places_are_sent_away_and_late_ones_given_up(strict):
    (child,) = strict.children()
    os.kill(child, signal.SIGSTOP)
    with ThreadPoolExecutor() as clients:
        first = clients.submit(ask, strict, ("a", PNG_SMALL))
        until(lambda: at_work(strict) == 1)
        status, got, told = ask(strict, ("b", PNG_SMALL))
        assert (status, got["Retry-After"]) == (503, "1")
        assert told["cure"] == "send it again in a second"
        status, _, told = first.result()
        assert (status, told["got"]) == (503, "a request not done within 1.5 s")
    os.kill(child, signal.SIGCONT)
    until(lambda: ask(strict, ("a", PNG_SMALL))[0] == 200)  # the alarm has ended that decoder; another takes its place
    assert strict.process.poll() is None
