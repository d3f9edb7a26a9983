"""Read http(s) addresses without being led astray: into a private network, past a limit, or to half a file.

A name is resolved once, every address it has must be public, and the connection goes to one of these very addresses; so
no second answer of a name server, and no redirect, can lead elsewhere. Proxies of the environment are not used: behind
one, nobody could say where a request ends.
"""

import http.client
import ipaddress
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from vitlora.core.durable import sync_one
from vitlora.core.errors import VitloraError
from vitlora.core.files import sha256_file
from vitlora.core.text import printable

REDIRECTS = 3
MOVED = (301, 302, 303, 307, 308)
MAX_URL = 4_000  # characters; browsers and servers stop at two to eight thousand
PIECE = 1 << 16
SLOWEST = 1_000  # bytes/s over `stall_s`; what is slower counts as silent
PAUSES_S = (1.0, 2.0, 4.0)  # before each further try
PORTS = {"http": 80, "https": 443}
KEPT = "/%:=&?~+!$,;'@()*[]"  # with letters and digits, what may stand in a path as it is
# Old and new rules for international names disagree on these: the same text would be two hosts.
AMBIGUOUS = "ßς"
PAGE = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype|!--|html|head|body|script)", re.IGNORECASE)
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
UNICAST = ipaddress.IPv6Network("2000::/3")


class FetchError(VitloraError):
    """An address that is not read, or an answer that is not taken; ``may_pass``: another try may succeed."""

    def __init__(self, message: str, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


class PrivateError(FetchError):
    """An address that leads into a private network."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever IPv4 address it wraps.

    ``ipaddress`` counts multicast as global, and judges an address that only carries another (mapped, NAT64, 6to4) by
    its outside.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour:
            return is_public(str(ip.sixtofour))
        if ip not in UNICAST or ip.teredo:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def addresses(host: str, port: int) -> list[str]:
    """Ask the system for all addresses of a name."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Rules:
    """How far a fetch may go. The defaults are those for one picture.

    Attributes:
        max_bytes: Of the body.
        total_s: For everything: names, redirects, body.
        connect_s: For resolving the name, and for each connection.
        read_s: For each wait while nothing arrives.
        stall_s: For so long, a body may come slower than ``SLOWEST``.
        allowed: Says of each address of a name whether it may be connected to.
        resolve: Name and port to addresses; asked once a request.
        tls: Certificates to trust; None for the system's.
    """

    max_bytes: int = 20_000_000
    total_s: float = 30.0
    connect_s: float = 5.0
    read_s: float = 15.0
    stall_s: float = 30.0
    allowed: Callable[[str], bool] = is_public
    resolve: Callable[[str, int], list[str]] = addresses
    tls: ssl.SSLContext | None = None


PICTURE = Rules()
ARCHIVE = Rules(max_bytes=50_000_000_000, total_s=6 * 3600)  # 50 GB in 6 h are 2.3 MB/s


class Target(NamedTuple):
    """Where a request goes: the host in ASCII without a final dot, and path with query, quoted."""

    scheme: str
    host: str
    port: int
    path: str


class Answer(NamedTuple):
    """An answer whose body is still to be read, and whether its end shows when it has no length."""

    http: http.client.HTTPResponse
    host: str
    end_shows: bool


def read_url(url: str, rules: Rules = PICTURE) -> bytes:
    """Read a picture's bytes.

    Raises:
        FetchError: The address is odd or not public, or the answer is none, cut, compressed, too long, or a web page.
    """
    deadline = time.monotonic() + rules.total_s
    with _open(url, rules, deadline, {}) as answer:
        if answer.http.status != 200:
            raise FetchError(f"{answer.host} answered {answer.http.status} {printable(answer.http.reason)}")
        if answer.http.length is None and not answer.end_shows:
            raise FetchError(f"{answer.host} sends no length, so a cut picture would look whole")
        data = b"".join(_pieces(answer, 0, rules, deadline))
    if PAGE.match(data[:1024]):
        raise FetchError("a web page, not a picture")
    return data


def download(
    url: str, target: Path, sha256: str, rules: Rules = ARCHIVE, pauses_s: tuple[float, ...] = PAUSES_S
) -> None:
    """Put the file with this hash at ``target``, which then is whole; a part of it lies beside it meanwhile.

    A lost connection is taken up where it broke, also by a later run, if the server says that the file is still the
    same (Range and If-Range).

    Args:
        url: Where it is.
        target: A file that is there already is used if it has the hash, without a request.
        sha256: Of the file, 64 hex digits. With it, a body that ends without having had a length is no risk.
        rules: Limits.
        pauses_s: Waits before each further try where the failure may pass, in seconds.

    Raises:
        FetchError: As in ``read_url``; or the file has another hash, and is removed.
    """
    if target.is_file() and sha256_file(target) == sha256:
        return
    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.tag")
    target.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + rules.total_s
    for pause in (*pauses_s, None):
        try:
            _fetch_into(part, tag, url, rules, deadline)
            break
        except FetchError as error:
            if pause is None or not error.may_pass or time.monotonic() + pause > deadline:
                raise
            time.sleep(pause)
    tag.unlink(missing_ok=True)
    found = sha256_file(part)
    if found != sha256:
        part.unlink()
        raise FetchError(f"{_plain(url)}: SHA-256 {found}; the rule: {sha256}; removed what came")
    sync_one(part)
    part.replace(target)
    sync_one(target.parent)


def _fetch_into(part: Path, tag: Path, url: str, rules: Rules, deadline: float) -> None:
    """Append to a part that the server still has, else begin anew."""
    have = part.stat().st_size if part.is_file() and tag.is_file() else 0
    wanted = {"Range": f"bytes={have}-", "If-Range": tag.read_text(encoding="utf-8")} if have else {}
    with _open(url, rules, deadline, wanted) as answer:
        status, head = answer.http.status, answer.http.headers
        goes_on = status == 206 and bool(re.match(rf"bytes {have}-", head.get("Content-Range", ""))) and have > 0
        if status in (206, 416) and not goes_on:
            tag.unlink(missing_ok=True)
            raise FetchError(f"{answer.host} sent another part than was asked for", may_pass=True)
        if status not in (200, 206):
            busy = status >= 500 or status == 429
            raise FetchError(f"{answer.host} answered {status} {printable(answer.http.reason)}", busy)
        _check_room(part.parent, answer)
        tag.unlink(missing_ok=True)
        etag = head.get("ETag", "")
        known = head.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
        if known.isascii() and known.isprintable() and known:
            tag.write_text(known, encoding="utf-8")
        with part.open("ab" if goes_on else "wb") as file:
            for piece in _pieces(answer, have if goes_on else 0, rules, deadline):
                if file.tell() == 0 and PAGE.match(piece):
                    raise FetchError(f"{answer.host} answered with a web page, not with the file")
                file.write(piece)


def _check_room(folder: Path, answer: Answer) -> None:
    needed, free = answer.http.length or 0, shutil.disk_usage(folder).free
    if needed > free:
        raise FetchError(f"{folder}: needs {needed / 1e6:,.0f} MB, has {free / 1e6:,.0f} MB free")


def _pieces(answer: Answer, have: int, rules: Rules, deadline: float) -> Iterator[bytes]:
    """Yield the body as it comes, and raise unless it is whole."""
    expected = answer.http.length
    most = rules.max_bytes - have
    if (expected or 0) > most:
        raise FetchError(f"{have + (expected or 0):,} bytes; the rule: at most {rules.max_bytes:,}")
    got, mark, since = 0, 0, time.monotonic()
    while True:
        with _told(answer.host, deadline, rules):
            piece = answer.http.read1(PIECE)
        if not piece:
            break
        got += len(piece)
        if got > most:
            raise FetchError(f"longer than {rules.max_bytes:,} bytes")
        yield piece
        if time.monotonic() - since > rules.stall_s:
            if got - mark < SLOWEST * rules.stall_s:
                raise FetchError(f"{answer.host} sent {got - mark} bytes in {rules.stall_s:.0f} s", may_pass=True)
            mark, since = got, time.monotonic()
    if expected is not None and got != expected:
        raise FetchError(f"{answer.host} sent {got:,} of {expected:,} bytes", may_pass=True)


@contextmanager
def _open(url: str, rules: Rules, deadline: float, headers: dict[str, str]) -> Iterator[Answer]:
    """Follow redirects, each checked like the first address, to an answer that is not compressed."""
    for _ in range(1 + REDIRECTS):
        target = _parse(url)
        with _ask(target, rules, deadline, headers) as answer:
            if answer.http.status not in MOVED:
                _refuse_coded(answer)
                yield answer
                return
            url = _joined(url, answer.http.headers.get("Location", ""))
        if target.scheme == "https" and not url.lower().startswith("https:"):
            raise FetchError(f"{target.host} leads from https to {printable(url.partition(':')[0])}")
    raise FetchError(f"more than {REDIRECTS} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(
            url, quote(location.encode("latin-1"), f"{KEPT}#")
        )  # the header's bytes, as http.client has them
    except ValueError as error:
        raise FetchError(f"a redirect to no address: {error}") from None


def _refuse_coded(answer: Answer) -> None:
    """Refuse a body that would have to be unpacked: 200 KB of it can become 200 MB."""
    for header, fine in (("Content-Encoding", ("", "identity")), ("Transfer-Encoding", ("", "chunked"))):
        got = ", ".join(answer.http.headers.get_all(header, [])).strip().lower()
        if got not in fine:
            raise FetchError(f"{answer.host} sends it as {printable(got)}, unasked; only plain bytes are taken")


@contextmanager
def _ask(target: Target, rules: Rules, deadline: float, headers: dict[str, str]) -> Iterator[Answer]:
    """Send one request. When the time is up the line is cut, wherever the other side dawdles."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    port = "" if target.port == PORTS[target.scheme] else f":{target.port}"
    lines = {"Host": host + port, "User-Agent": "vitlora", "Accept-Encoding": "identity", "Connection": "close"}
    request = [f"GET {target.path} HTTP/1.1", *(f"{name}: {value}" for name, value in (lines | headers).items())]
    with closing(_connect(target, rules, deadline)) as line:
        clock = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, [line])
        clock.daemon = True
        clock.start()
        try:
            with closing(http.client.HTTPResponse(line, method="GET")) as answer:
                with _told(target.host, deadline, rules):
                    if isinstance(line, ssl.SSLSocket):
                        line.do_handshake()
                    line.sendall("\r\n".join([*request, "", ""]).encode("ascii"))
                    answer.begin()
                yield Answer(answer, target.host, answer.chunked or target.scheme == "https")
        finally:
            clock.cancel()


def _cut(line: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(line, socket.SHUT_RDWR)  # TLS's own would change the object under its reader


def _connect(target: Target, rules: Rules, deadline: float) -> socket.socket:
    """Resolve once, check every address, and connect to the first that answers."""
    found = _resolve(target, rules)
    for address in found:
        if not rules.allowed(address):
            named = "" if address == target.host else f"{target.host} is "
            raise PrivateError(f"{named}{address}, not a public address")
    reason = "it has no address"
    for address in found:
        try:
            left = deadline - time.monotonic()
            line = socket.create_connection((address, target.port), max(0.01, min(rules.connect_s, left)))
            line.settimeout(rules.read_s)
            return _wrapped(line, target.host, rules.tls) if target.scheme == "https" else line
        except OSError as error:
            reason = error.strerror or str(error)
    raise FetchError(f"cannot connect to {target.host}: {reason}", may_pass=True)


def _wrapped(line: socket.socket, host: str, tls: ssl.SSLContext | None) -> ssl.SSLSocket:
    """Put TLS on a connection; the handshake is left for when the clock runs. A cut line is an error, not an end."""
    return (tls or ssl.create_default_context()).wrap_socket(
        line, server_hostname=host, do_handshake_on_connect=False, suppress_ragged_eofs=False
    )


def _resolve(target: Target, rules: Rules) -> list[str]:
    """Resolve in a thread of its own, since the system's resolver knows no time limit."""
    answers: list[list[str] | OSError] = []

    def ask() -> None:
        try:
            answers.append(rules.resolve(target.host, target.port))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(rules.connect_s)
    if not answers:
        raise FetchError(f"no name server knows {target.host} within {rules.connect_s:.0f} s", may_pass=True)
    if isinstance(answers[0], OSError):
        raise FetchError(f"cannot find {target.host}: {answers[0].strerror or answers[0]}", may_pass=True)
    return answers[0]


@contextmanager
def _told(host: str, deadline: float, rules: Rules) -> Iterator[None]:
    """Turn what the network raises into one line; what the clock has cut may look like a proper end."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise FetchError(f"{host} has no valid certificate: {error.verify_message}") from None
    except (OSError, http.client.HTTPException) as error:
        if time.monotonic() < deadline:
            reason = f"silent for {rules.read_s:.0f} s" if isinstance(error, TimeoutError) else _reason(error)
            raise FetchError(f"{host}: {reason}", may_pass=True) from None
    if time.monotonic() >= deadline:
        raise FetchError(f"{host}: not done within {rules.total_s:.0f} s")


def _reason(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or f"{type(error).__name__} {error}".strip())


def _parse(url: str) -> Target:
    """Take an address apart, and refuse whatever two readers could understand in two ways."""
    if len(url) > MAX_URL or "\\" in url or not url.isprintable():
        raise FetchError(f"an address over {MAX_URL} characters, or with a backslash or control character")
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        raise FetchError(f"no address: {error}") from None
    if parts.scheme not in PORTS:
        raise FetchError("only http and https addresses are read")
    if "@" in parts.netloc:
        raise FetchError("an address with a user name; what stands before the @ may pass for the host")
    if port == 0:
        raise FetchError("port 0")
    query = f"?{quote(parts.query, KEPT)}" if parts.query else ""
    path = quote(parts.path or "/", KEPT) + query
    return Target(parts.scheme, _host(parts.hostname or ""), PORTS[parts.scheme] if port is None else port, path)


def _host(name: str) -> str:
    """Return a host in ASCII. Numbers that only some systems take for an address (127.1, 0x7f.1) are refused."""
    try:
        if ":" in name and "%" not in name:
            return str(ipaddress.IPv6Address(name))
        if len(name) > 253 or any(char in AMBIGUOUS for char in name):
            raise ValueError("over 253 characters, or with a letter that is encoded in two ways; write it as xn--")
        host = name.encode("idna").decode("ascii").lower().removesuffix(".")
        if re.fullmatch(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)", host):
            return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise FetchError(f"no host name: {printable(name)} ({error})") from None
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host):
        raise FetchError(f"no host name: {printable(name)}")
    return host


def _plain(url: str) -> str:
    """Leave out the query, where passwords and signatures stand."""
    return printable(re.split(r"[?#]", url)[0])
