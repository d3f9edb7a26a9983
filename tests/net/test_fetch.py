"""Hostile addresses get no byte; every fault of a download ends in the right file or in one line."""

import datetime
import hashlib
import random
import select
import socket
import ssl
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vitlora.net.fetch import FetchError, Rules, download, is_public, read_url

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
HERE = "127.0.0.1"
PUBLIC = "93.184.215.14"
CONNECTS = []
sys.addaudithook(lambda event, args: CONNECTS.append(args[1]) if event == "socket.connect" else None)


class Server(ThreadingHTTPServer):
    """Answers each path as its function says; keeps the requests and the number of connections."""

    daemon_threads = True

    def __init__(self):
        super().__init__((HERE, 0), Handler)
        self.stop = threading.Event()
        self.reset()

    def reset(self):
        self.routes, self.requests, self.connections = {}, [], 0

    def get_request(self):
        self.connections += 1
        return super().get_request()

    def handle_error(self, request, client_address):
        """A client that hangs up is no fault of ours."""

    def url(self, path="/x", host="pictures.test"):
        return f"http://{host}:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.close_connection = True
        with self.server.lock:
            before = sum(path == self.path for path, _ in self.server.requests)
            self.server.requests.append((self.path, dict(self.headers)))
        self.server.routes[self.path](self, before)

    def reply(self, status=200, body=b"", length=True, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length:
            self.send_header("Content-Length", str(len(body) if length is True else length))
        self.end_headers()
        self.wfile.write(body)

    def file(self, body=BODY, tag='"one"', upto=None):
        """Answer as a server of files does, with Range and If-Range; stop after ``upto`` bytes of the file."""
        start, asked = 0, self.headers.get("Range")
        if asked and self.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        part = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        self.reply(206 if start else 200, body[start:upto], len(body) - start, ETag=tag, **part)

    def wait(self, seconds):
        self.server.stop.wait(seconds)


@pytest.fixture(scope="module")
def running():
    server = Server()
    server.lock = threading.Lock()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.stop.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def server(running):
    running.reset()
    return running


def resolver(**names):
    """A name server that gives its answers in turn, the last one for ever, and keeps what it was asked."""
    asked = []

    def resolve(host, port):
        asked.append(host)
        answers = names[host.replace(".", "_")]
        return answers[min(asked.count(host), len(answers)) - 1]

    return resolve, asked


def rules(**more):
    """Rules under which the server of this file is public, and impatient."""
    usual = {"allowed": lambda address: address == HERE, "resolve": lambda host, port: [HERE]}
    return Rules(**{**usual, "connect_s": 1.0, "read_s": 0.3, "total_s": 5.0, "stall_s": 0.3, **more})


def refused(url, how, match="."):
    with pytest.raises(FetchError, match=match) as caught:
        read_url(url, how)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


# Addresses


@pytest.mark.parametrize(
    "address",
    "8.8.8.8 93.184.215.14 2606:2800:21f:cb07::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1".split(),  # noqa: SIM905
)
def test_an_address_of_the_internet_is_public(address):
    assert is_public(address)


PRIVATE = """0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.168.0.1
198.18.0.1 192.0.2.1 203.0.113.7 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 fe80::1 fe80::1%eth0 fc00::1
fd00:ec2::254 fec0::1 ff02::1 2001:db8::1 2001:0:808:808::1 100::1 64:ff9b:1::808:808 ::ffff:127.0.0.1 ::ffff:10.0.0.1
::ffff:169.254.169.254 ::127.0.0.1 ::ffff:0:127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 2002:7f00:1::1
2002:c0a8:1::1 4000::1""".split()  # noqa: SIM905 - one a line would be forty


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_local_reserved_or_multicast_address_is_not_public_however_it_is_wrapped(address):
    assert not is_public(address)


NAMES = {
    "localhost": [[HERE]],
    "localhost_localdomain": [[HERE]],
    "metadata_google_internal": [["169.254.169.254"]],
    "both_test": [[PUBLIC, HERE]],
    "six_test": [["2606:2800:21f:cb07::1", "::1"]],
    "mapped_test": [["::ffff:127.0.0.1"]],
    "127_0_0_1_nip_io": [[HERE]],
    "xn--bcher-kva_test": [["192.168.0.1"]],
    "nowhere_test": [[]],
}
# Every kind of address that must get no byte; PORT is one that listens on 127.0.0.1 and ::1.
HOSTILE = [
    *"""file:///etc/passwd
ftp://127.0.0.1:PORT/x
gopher://127.0.0.1:PORT/x
data://text/plain;base64,aGVsbG8=
jar://127.0.0.1:PORT/x
//127.0.0.1:PORT/x
http://
http:///x
http://127.0.0.1:PORT/
https://127.0.0.1:PORT/
HTTP://127.0.0.1:PORT/
http://localhost:PORT/
http://LOCALHOST:PORT/
http://localhost.:PORT/
http://localhost.localdomain:PORT/
http://127.0.0.1.:PORT/
http://127.1:PORT/
http://127.0.1:PORT/
http://2130706433:PORT/
http://0x7f000001:PORT/
http://0x7f.1:PORT/
http://0x7f.0x0.0x0.0x1:PORT/
http://0177.0.0.1:PORT/
http://017700000001:PORT/
http://127.0.0.01:PORT/
http://0:PORT/
http://0.0.0.0:PORT/
http://%31%32%37.0.0.1:PORT/
http://\uff11\uff12\uff17.\uff10.\uff10.\uff11:PORT/
http://127。0。0。1:PORT/
http://①②⑦.⓪.⓪.①:PORT/
http://[::1]:PORT/
http://[::]:PORT/
http://[0:0:0:0:0:0:0:1]:PORT/
http://[::ffff:127.0.0.1]:PORT/
http://[::ffff:7f00:1]:PORT/
http://[::127.0.0.1]:PORT/
http://[64:ff9b::7f00:1]:PORT/
http://[2002:7f00:1::]:PORT/
http://[fe80::1%25lo]:PORT/
http://[::1%lo]:PORT/
http://[127.0.0.1]:PORT/
http://[::1:PORT/
http://169.254.169.254/latest/meta-data/
http://metadata.google.internal/
http://10.0.0.1/
http://192.168.1.1/
http://both.test:PORT/
http://six.test:PORT/
http://mapped.test:PORT/
http://127.0.0.1.nip.io:PORT/
http://bücher.test:PORT/
http://faß.test:PORT/
http://nowhere.test:PORT/
http://public.test@127.0.0.1:PORT/
http://user:password@127.0.0.1:PORT/
http://public.test\\@127.0.0.1:PORT/
http://127.0.0.1:PORT\\@public.test/
http://127.0.0.1:0/
http://127.0.0.1:99999/
http://127.0.0.1:PORT:80/
http://a..b:PORT/
http://.localhost:PORT/
http://*.localhost:PORT/
http://lo cal:PORT/""".split("\n"),  # noqa: SIM905
    "http://local\thost:PORT/",
    "http://127.0.0.1:PORT/\r\nHost: x",
    f"http://{'a' * 64}.test:PORT/",
    f"http://{'a.' * 130}test:PORT/",
    "http://x/" + "a" * 5000,
]


@pytest.fixture(scope="module")
def listeners():
    """Sockets that listen on one port of both loopbacks, and never answer."""
    with socket.create_server((HERE, 0)) as four:
        port = four.getsockname()[1]
        with socket.socket(socket.AF_INET6) as six:
            try:
                six.bind(("::1", port))
                six.listen()
                yield [four, six], port
            except OSError:  # no IPv6 here
                yield [four], port


def test_there_are_forty_hostile_addresses_at_least():
    assert len(set(HOSTILE)) >= 40


@pytest.mark.parametrize("url", HOSTILE, ids=lambda url: ascii(url)[:60])
def test_a_hostile_address_gets_no_connection_and_one_line(listeners, url):
    sockets, port = listeners
    resolve, _ = resolver(**NAMES)

    def system_or_ours(host, port):
        if host.replace(".", "_") in NAMES:
            return resolve(host, port)
        assert host.replace(".", "").isdigit() or ":" in host, f"{host} would have gone to a name server"
        return [host]

    CONNECTS.clear()
    refused(url.replace("PORT", str(port)), Rules(resolve=system_or_ours, connect_s=0.5, read_s=0.5, total_s=2))
    assert CONNECTS == []
    assert select.select(sockets, [], [], 0)[0] == []


@pytest.mark.parametrize(
    "place",
    """http://10.0.0.1/ http://169.254.169.254/ http://[::1]/ http://2130706433/ http://127.1/ http://inner.test/
    file:///etc/passwd ftp://pictures.test/ //inner.test/x http://user@pictures.test/ http://[/ https://[::1]/
    http://[::ffff:10.0.0.1]/ gopher://pictures.test/ http://inner.test:22/""".split(),  # noqa: SIM905
)
def test_a_redirect_to_such_an_address_is_not_followed(server, place):
    server.routes["/x"] = lambda answer, before: answer.reply(302, Location=place)
    resolve, _ = resolver(pictures_test=[[HERE]], inner_test=[["192.168.0.1"]])
    CONNECTS.clear()
    refused(server.url(), rules(resolve=lambda h, p: [h] if h[0].isdigit() or ":" in h else resolve(h, p)))
    assert [address[0] for address in CONNECTS] == [HERE]


def test_a_name_is_resolved_once_so_a_second_answer_leads_nowhere(server):
    """DNS rebinding: the first answer passes the check, the next one names a private address."""
    server.routes["/x"] = lambda answer, before: answer.reply(body=b"picture")
    resolve, asked = resolver(pictures_test=[[HERE], ["127.0.0.2"]])
    CONNECTS.clear()
    assert read_url(server.url(), rules(resolve=resolve)) == b"picture"
    assert asked == ["pictures.test"]
    assert [address[0] for address in CONNECTS] == [HERE]


def test_a_redirect_to_the_same_name_is_checked_anew(server):
    server.routes["/x"] = lambda answer, before: answer.reply(302, Location="/y")
    resolve, _ = resolver(pictures_test=[[HERE], ["127.0.0.2"]])
    refused(server.url(), rules(resolve=resolve), "pictures.test is 127.0.0.2, not a public address")
    assert server.connections == 1


def test_three_redirects_are_followed_and_a_fourth_is_not(server):
    for step in range(5):
        server.routes[f"/{step}"] = lambda answer, before, step=step: answer.reply(302, Location=f"{step + 1}?q=ü")
        server.routes[f"/{step}?q=%C3%BC"] = server.routes[f"/{step}"]
    server.routes["/4?q=%C3%BC"] = lambda answer, before: answer.reply(body=b"picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "send_header", _send_utf8)
        assert read_url(server.url("/1"), rules()) == b"picture"
        refused(server.url("/0"), rules(), "more than 3 redirects")


def _send_utf8(self, name, value):
    BaseHTTPRequestHandler.send_header(self, name, value.encode().decode("latin-1"))


def test_an_environment_proxy_is_not_used(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.routes["/x"] = lambda answer, before: answer.reply(body=b"picture")
    assert read_url(server.url(), rules()) == b"picture"


def test_the_request_names_the_host_and_asks_for_plain_bytes(server):
    server.routes["/a%20b?c=d%C3%A9&e=%2F"] = lambda answer, before: answer.reply(body=b"picture")
    assert read_url(server.url("/a b?c=dé&e=%2F#part", "Bilder.Test."), rules()) == b"picture"
    ((_, headers),) = server.requests
    assert headers["Host"] == f"bilder.test:{server.server_address[1]}"
    assert headers["Accept-Encoding"] == "identity"


def test_the_next_address_is_tried_where_the_first_does_not_answer(server):
    server.routes["/x"] = lambda answer, before: answer.reply(body=b"picture")
    how = rules(resolve=lambda host, port: ["127.0.0.3", HERE], allowed=lambda address: True)
    assert read_url(server.url(), how) == b"picture"


# Answers


def bad_answer(answer, kind):
    if kind == "too long":
        answer.reply(length=20_000_001)
    elif kind == "endless":
        answer.reply(length=False, Transfer_Encoding="chunked")
        while not answer.server.stop.is_set():
            answer.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    elif kind == "one byte at a time":
        answer.reply(length=1000)
        drip(answer)
    elif kind == "one byte of its head at a time":
        answer.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        drip(answer)
    elif kind == "gzip":
        answer.reply(body=b"\x1f\x8b", Content_Encoding="gzip")
    elif kind == "gzip as transfer":
        answer.reply(body=b"\x1f\x8b", length=False, Transfer_Encoding="gzip, chunked")
    elif kind == "a page":
        answer.reply(body=b"\xef\xbb\xbf \n<!DOCTYPE html><html>log in</html>", Content_Type="image/png")
    elif kind == "cut":
        answer.reply(body=b"pict", length=7)
    elif kind == "cut chunk":
        answer.reply(length=False, Transfer_Encoding="chunked")
        answer.wfile.write(b"7\r\npict")
    elif kind == "no length":
        answer.reply(body=b"picture", length=False)
    elif kind == "silence":
        answer.wait(5)
    elif kind == "nonsense":
        answer.wfile.write(b"SSH-2.0\r\n\r\n")
    elif kind == "thousands of headers":
        answer.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000 + b"\r\n")
    elif kind == "half a picture, unasked":
        answer.reply(206, b"pict", Content_Range="bytes 0-3/7")


def drip(answer, data=bytes(1000)):
    for byte in data:
        if answer.server.stop.wait(0.05):
            break
        answer.wfile.write(bytes([byte]))


ANSWERS = {
    "too long": "20,000,001 bytes; the rule: at most 20,000,000",
    "endless": "longer than 20,000,000 bytes",
    "one byte at a time": "not done within 1 s",
    "one byte of its head at a time": "not done within 1 s",
    "gzip": "sends it as gzip, unasked",
    "gzip as transfer": "sends it as gzip, chunked, unasked",
    "a page": "a web page, not a picture",
    "cut": "sent 4 of 7 bytes",
    "cut chunk": "IncompleteRead",
    "no length": "sends no length, so a cut picture would look whole",
    "silence": "silent for",
    "nonsense": "BadStatusLine",
    "thousands of headers": "got more than 100 headers",
    "half a picture, unasked": "answered 206",
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_bad_answer_is_refused_in_one_line_and_soon(server, kind):
    server.routes["/x"] = lambda answer, before: bad_answer(answer, kind)
    start = time.perf_counter()
    refused(server.url(), rules(total_s=1.0, stall_s=9.0), ANSWERS[kind])
    assert time.perf_counter() - start < 2


def test_the_limits_for_a_picture_are_those_that_are_promised():
    assert (Rules().max_bytes, Rules().connect_s, Rules().read_s, Rules().total_s) == (20_000_000, 5, 15, 30)


def test_a_name_server_that_never_answers_does_not_hang():
    never = threading.Event()
    refused(
        "http://slow.test/", rules(resolve=lambda h, p: never.wait(3) and [], connect_s=0.1), "no name server knows"
    )
    never.set()


def test_an_error_status_is_said_without_its_control_characters(server):
    server.routes["/x"] = lambda answer, before: answer.wfile.write(b"HTTP/1.1 404 No\x1b[2Jt\x9b Found\r\n\r\n")
    assert "answered 404 No\\x1b[2Jt\\x9b Found" in refused(server.url(), rules())


# Downloads

FAULTS = {  # what the server does for its first two requests, then it answers well; and whether that ends well
    "cut at 0 %": (lambda a, n: a.file(upto=0), True),
    "cut at 1 %": (lambda a, n: a.file(upto=3_000 * (n + 1)), True),
    "cut at 50 %": (lambda a, n: a.file(upto=150_000 + n), True),
    "cut at 99 %": (lambda a, n: a.file(upto=297_000 + n), True),
    "wrong hash": (lambda a, n: a.file(BODY[:-1] + b"x"), False),
    "stall": (lambda a, n: (a.file(upto=100_000 * (n + 1)), a.wait(1)), True),
    "too slow": (lambda a, n: (a.file(upto=100_000 * (n + 1)), drip(a, BODY[100_000 * (n + 1) :])), True),
    "other file meanwhile": (lambda a, n: a.file(bytes(300_000), f'"{n}"', upto=100_000), True),
    "busy": (lambda a, n: a.reply(500 + n), True),
    "not there": (lambda a, n: a.reply(404), False),
    "web page": (lambda a, n: a.reply(body=b"<html>log in</html>"), False),
    "gzip": (lambda a, n: a.reply(body=b"\x1f\x8b", Content_Encoding="gzip"), False),
    "endless": (lambda a, n: bad_answer(a, "endless"), False),
    "no length": (lambda a, n: a.reply(body=BODY, length=False), True),
    "cut without a length": (lambda a, n: a.reply(body=BODY[:9], length=False), False),
    "another part": (
        lambda a, n: a.file(upto=9) if n == 0 else a.reply(206, BODY[5:], Content_Range="bytes 5-9/9"),
        True,
    ),
    "part past the end": (lambda a, n: a.file(upto=9) if n == 0 else a.reply(416), True),
    "hung up": (lambda a, n: a.connection.close(), True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_download_ends_in_the_right_file_or_in_none(server, tmp_path, fault):
    act, ends_well = FAULTS[fault]
    server.routes["/x"] = lambda answer, before: act(answer, before) if before < 2 else answer.file()
    target = tmp_path / "archives/a"
    how = rules(max_bytes=1_000_000)
    if ends_well:
        download(server.url(), target, SHA256, how, (0.01, 0.01, 0.01))
        assert [path.name for path in target.parent.iterdir()] == ["a"]
        assert target.read_bytes() == BODY
    else:
        with pytest.raises(FetchError) as caught:
            download(server.url(), target, SHA256, how, (0.01, 0.01, 0.01))
        assert "\n" not in str(caught.value)
        assert not target.exists()
        assert len(server.requests) == 1


def test_a_wrong_hash_shows_both_and_leaves_nothing(server, tmp_path):
    server.routes["/x?token=secret"] = lambda answer, before: answer.reply(body=b"other")
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(FetchError, match=f"SHA-256 {other}; the rule: {SHA256}; removed what came") as caught:
        download(server.url("/x?token=secret"), tmp_path / "a", SHA256, rules())
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_lost_connection_is_taken_up_where_it_broke_also_by_a_later_run(server, tmp_path):
    server.routes["/x"] = lambda answer, before: answer.file(upto=(before + 1) * 100_000)
    with pytest.raises(FetchError, match="sent 100,000 of 300,000 bytes"):
        download(server.url(), tmp_path / "a", SHA256, rules(), ())
    download(server.url(), tmp_path / "a", SHA256, rules(), (0.01,))
    assert (tmp_path / "a").read_bytes() == BODY
    asked = [(headers.get("Range"), headers.get("If-Range")) for _, headers in server.requests]
    assert asked == [(None, None), ("bytes=100000-", '"one"'), ("bytes=200000-", '"one"')]


def test_without_a_mark_of_its_version_a_file_is_fetched_from_its_start(server, tmp_path):
    server.routes["/x"] = lambda answer, before: answer.file(tag='W/"weak"', upto=None if before else 9)
    download(server.url(), tmp_path / "a", SHA256, rules(), (0.01,))
    assert [headers.get("Range") for _, headers in server.requests] == [None, None]


def test_after_three_more_tries_the_failure_is_told(server, tmp_path):
    server.routes["/x"] = lambda answer, before: answer.reply(503)
    with pytest.raises(FetchError, match=r"pictures\.test answered 503"):
        download(server.url(), tmp_path / "a", SHA256, rules(), (0.01, 0.01, 0.01))
    assert len(server.requests) == 4


def test_a_file_that_is_there_is_used_without_a_request_and_a_damaged_one_is_fetched_anew(server, tmp_path):
    server.routes["/x"] = lambda answer, before: answer.file()
    for content, requests in ((BODY, 0), (BODY[:-1], 1)):
        (tmp_path / "a").write_bytes(content)
        download(server.url(), tmp_path / "a", SHA256, rules())
        assert len(server.requests) == requests
        assert (tmp_path / "a").read_bytes() == BODY


def test_a_file_that_the_disk_cannot_hold_is_refused_before_it_is_fetched(server, tmp_path):
    server.routes["/x"] = lambda answer, before: answer.reply(length=10**15)
    with pytest.raises(FetchError, match=r"needs 1,000,000,000 MB, has [\d,]+ MB free"):
        download(server.url(), tmp_path / "a", SHA256, rules(max_bytes=10**16))


# TLS


def certificate(folder):
    """Write a certificate for pictures.test that vouches for itself, and its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.test")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "c.pem").write_bytes(made.public_bytes(form[0]) + key.private_bytes(*form))
    return folder / "c.pem"


@contextmanager
def tls_server(pem, reply, polite=True):
    """Give one reply over TLS; yield its port and the names that clients asked for."""
    context, names = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(pem)
    context.sni_callback = lambda line, name, context: names.append(name)

    def serve(listener):
        try:
            with context.wrap_socket(listener.accept()[0], server_side=True) as line:
                names.append(line.recv(10_000))
                line.sendall(reply)
                if polite:
                    line.unwrap()
        except OSError:
            pass  # the client hung up

    with socket.create_server((HERE, 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener], daemon=True)
        thread.start()
        yield listener.getsockname()[1], names
        thread.join(5)


OK = b"HTTP/1.1 200 OK\r\n"


def test_over_tls_the_name_is_asked_for_and_its_certificate_is_checked(tmp_path):
    pem = certificate(tmp_path)
    trusting = rules(tls=ssl.create_default_context(cafile=pem), read_s=2.0)
    reply = OK + b"Content-Length: 7\r\n\r\npicture"
    with tls_server(pem, reply) as (port, names):
        assert read_url(f"https://pictures.test:{port}/x", trusting) == b"picture"
    assert names[0] == "pictures.test"
    assert f"Host: pictures.test:{port}\r\n".encode() in names[1]
    for host, how in (("other.test", trusting), ("pictures.test", rules(read_s=2.0))):
        with tls_server(pem, reply) as (port, _):
            refused(f"https://{host}:{port}/x", how, "has no valid certificate")


@pytest.mark.parametrize("polite", [True, False])
def test_over_tls_a_body_without_a_length_is_taken_only_if_its_end_was_sent(tmp_path, polite):
    pem = certificate(tmp_path)
    trusting = rules(tls=ssl.create_default_context(cafile=pem), read_s=2.0)
    with tls_server(pem, OK + b"\r\npicture", polite) as (port, _):
        if polite:
            assert read_url(f"https://pictures.test:{port}/x", trusting) == b"picture"
        else:
            refused(f"https://pictures.test:{port}/x", trusting)


def test_a_redirect_from_https_to_http_is_not_followed(server, tmp_path):
    pem = certificate(tmp_path)
    trusting = rules(tls=ssl.create_default_context(cafile=pem), read_s=2.0)
    with tls_server(pem, b"HTTP/1.1 302 Found\r\nLocation: " + server.url().encode() + b"\r\n\r\n") as (port, _):
        refused(f"https://pictures.test:{port}/x", trusting, "leads from https to http")
    assert server.connections == 0


def test_a_server_that_stays_silent_in_the_middle_of_tls_is_cut_off():
    with socket.create_server((HERE, 0)) as silent:
        start = time.perf_counter()
        refused(
            f"https://pictures.test:{silent.getsockname()[1]}/", replace(rules(), total_s=0.5, read_s=9.0), "not done"
        )
    assert time.perf_counter() - start < 2
