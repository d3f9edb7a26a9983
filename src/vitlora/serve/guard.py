"""What stands before every route: the key, limits on the body while it arrives, counts, and headers of safety."""

import asyncio
from hmac import compare_digest
from time import monotonic

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitlora.serve.limits import Refusal
from vitlora.serve.service import Service

# What a load balancer or a browser asks without a key; none of it tells of models or pictures.
OPEN = frozenset({"/", "/docs", "/health", "/openapi.json", "/v2/health/live", "/v2/health/ready"})


class Guard:
    """Middleware around the application."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.keys = [key.encode() for key in service.keys]
        self.held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = _Call(self, receive, send)
        try:
            try:
                self._check(scope)
            except Refusal as refusal:
                await refused(refusal)(scope, call.receive, call.send)
            else:
                await self.app(scope, call.receive, call.send)
        finally:
            self.held -= call.length
            route = getattr(scope.get("route"), "path", "none")
            self.service.metrics.requests.labels(route, call.status).inc()
            self.service.metrics.seconds.labels(route).observe(monotonic() - call.begun)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.keys and scope["path"] not in OPEN:
            self._check_key(headers)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.service.limits.body_bytes:
            raise self.too_long(f"a body of {int(length):,} bytes")

    def _check_key(self, headers: Headers) -> None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        found = [compare_digest(key, given.encode("utf-8", "replace")) for key in self.keys]  # all, whichever fits
        if not any(found):
            raise Refusal(
                401,
                "no known key" if given else "no key",
                "the key of this server in each request",
                "send the header `Authorization: Bearer KEY` or `X-API-Key: KEY`",
            )

    def too_long(self, got: str) -> Refusal:
        """Return what is said of a long body."""
        most = self.service.limits.body_bytes
        return Refusal(413, got, f"at most {most:,} in a request", "send fewer or smaller pictures")


def refused(refusal: Refusal) -> JSONResponse:
    """Return the answer to a request that is not done."""
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


class _Call:
    """One request as it arrives, and the answer as it leaves."""

    def __init__(self, guard: Guard, receive: Receive, send: Send) -> None:
        self.guard, self._receive, self._send = guard, receive, send
        self.begun = monotonic()
        self.status = 500  # stands where the application raises
        self.length = 0  # bytes of the body so far
        self.done = False

    async def receive(self) -> Message:
        """Return the next piece of the body, as long as it keeps to the limits."""
        if self.done:  # Starlette asks on, to learn when the other side leaves
            return await self._receive()
        limits = self.guard.service.limits
        try:
            async with asyncio.timeout(self.begun + limits.read_s - monotonic()):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(
                408,
                f"{self.length:,} bytes of a body in {limits.read_s:g} s, and no end",
                f"all of it within {limits.read_s:g} s",
                "send it faster, or fewer pictures",
            ) from None
        piece = len(message.get("body", b""))
        self.length += piece
        self.guard.held += piece
        if self.length > limits.body_bytes:
            raise self.guard.too_long(f"a body of more than {limits.body_bytes:,} bytes")
        if self.guard.held > limits.held_bytes:
            raise Refusal(
                503,
                f"{self.guard.held:,} bytes of requests at one time",
                f"at most {limits.held_bytes:,}",
                "send it again in a second",
            )
        self.done = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Note the status and add what every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)
