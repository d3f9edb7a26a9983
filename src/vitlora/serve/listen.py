"""uvicorn, with what it lacks: limits on slow heads and on bodies that nobody reads, and exit code 0 on SIGTERM."""

import logging
import os
import signal
import socket
import sys
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable
from vitlora.serve.limits import Limits

CONNECTIONS = 512
LINGER_S = 2.0  # an answer that came before the body's end is still read; then the line is cut
PATIENCE_S = 5  # beyond the time of a request, to end by


class Patient(H11Protocol):
    """A connection whose head must be there in time.

    Attributes:
        head_s: Seconds from the first byte of a request, or from connecting, to the end of its head.
    """

    head_s = 10.0
    clock: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._set(self.head_s, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._set(0, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what arrives; a head that is there ends the wait, and part of the next one begins another."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            if self.cycle is None or not self.cycle.response_complete:
                self._set(0, None)
        elif self.clock is None:
            self._set(self.head_s, self._hang_up)

    def on_response_complete(self) -> None:
        """Go on to the next request; where the body of this one is still to come, not for long."""
        unread = self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._set(LINGER_S, self.transport.close)

    def _set(self, seconds: float, act: Callable[[], None] | None) -> None:
        if self.clock is not None:
            self.clock.cancel()
        self.clock = self.loop.call_later(seconds, act) if act else None

    def _hang_up(self) -> None:
        self.transport.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.transport.close()


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes any that is free.

    Raises:
        VitloraError: The address is none of this machine, or the port is taken.
    """
    try:
        if not 0 <= port <= 65_535:  # some systems would cut it to 16 bits
            raise OverflowError("ports are 0 to 65,535")
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, UnicodeError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else getattr(error, "strerror", None) or str(error)
        raise VitloraError(
            f"cannot listen on {printable(host)} port {port}: {reason}; the rule: an address of this machine and a "
            "port that nobody listens on; --port 0 takes a free one"
        ) from None


def listen(app: FastAPI, line: socket.socket, limits: Limits, is_logged: bool) -> None:
    """Answer until SIGTERM or Ctrl-C; then finish the requests under way, and no others.

    Args:
        app: The application.
        line: Listens already.
        limits: On requests.
        is_logged: Write a line a request to standard error.
    """
    _log(is_logged)
    # uvicorn raises the signal anew once all is done; the end of a service that was told to end is no failure.
    signal.signal(signal.SIGTERM, _no_more)
    config = uvicorn.Config(
        app,
        http=type("Patiently", (Patient,), {"head_s": limits.read_s}),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=is_logged,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=int(limits.read_s + limits.work_s) + PATIENCE_S,
    )
    _allow_files()
    with suppress(SystemExit):
        uvicorn.Server(config).run([line])


def _no_more(_: int, __: Any) -> None:
    pass


def _log(is_logged: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level if is_logged or name != "uvicorn.access" else logging.CRITICAL)


def _allow_files() -> None:
    """A connection is an open file; many systems begin with 1,024 and allow more."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 8 * CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
