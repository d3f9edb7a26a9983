"""Chromium, driven over two pipes by its DevTools protocol: no package, no port."""

import base64
import itertools
import json
import os
import select
import shlex
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = ("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars", *QUIET)
WITHIN_S = 120.0


class Page:
    """A tab with all of its workers: what it asked for, what went wrong, and what its scripts say.

    Attributes:
        requests: Every address asked for, by the page or a worker of it.
        problems: Uncaught errors, and what was written as an error, among it all that the page's policy forbade.
    """

    def __init__(self, write, read):
        self._write, self._read, self._left = write, read, b""
        self._numbers = itertools.count(1)
        self.requests, self.problems = [], []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._watch(self.session)
        self.ask("Page.enable")

    def _watch(self, session):
        for name in ("Network.enable", "Runtime.enable", "Log.enable"):
            self._send(name, {}, session)
        attach = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self._send("Target.setAutoAttach", attach, session)
        self._send("Runtime.runIfWaitingForDebugger", {}, session)

    def ask(self, method, **params):
        """Send a command to the tab and return its result."""
        return self._ask(method, self.session, **params)

    def _ask(self, method, session=None, **params):
        number = self._send(method, params, session)
        return self._until(lambda message: message.get("id") == number)["result"]

    def _send(self, method, params, session):
        message = {"id": next(self._numbers), "method": method, "params": params}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return message["id"]

    def _until(self, is_it):
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            message = self._next(deadline)
            self._take(message)
            if "error" in message and is_it(message):
                raise RuntimeError(message["error"])
            if is_it(message):
                return message
        raise TimeoutError("the browser does not answer")

    def _next(self, deadline):
        while b"\0" not in self._left:
            if not select.select([self._read], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"the browser does not answer; {self.problems}")
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise RuntimeError("the browser has ended")
            self._left += piece
        message, _, self._left = self._left.partition(b"\0")
        return json.loads(message)

    def _take(self, message):
        params = message.get("params", {})
        match message.get("method"):
            case "Target.attachedToTarget" if "session" in vars(self):
                self._watch(params["sessionId"])
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            case "Runtime.exceptionThrown":
                self.problems.append(params["exceptionDetails"].get("exception", {}).get("description", "?"))
            case "Log.entryAdded" if params["entry"]["level"] == "error":
                self.problems.append(params["entry"]["text"])

    def open(self, address, wait="true"):
        """Go to an address, and wait for a JavaScript expression to be true there."""
        self.ask("Page.navigate", url=address)
        self._until(lambda message: message.get("method") == "Page.loadEventFired")
        return self.wait(wait)

    def run(self, expression):
        """Return the value of an expression, or of its promise."""
        found = self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, expression):
        """Wait until an expression is true, looked at after each change of the page."""
        return self.run(f"""new Promise((resolve) => {{
            const look = () => {{ const found = {expression}; if (found) {{ watch.disconnect(); resolve(found) }} }};
            const watch = new MutationObserver(look);
            watch.observe(document, {{subtree: true, childList: true, attributes: true, characterData: true}});
            look();
        }})""")

    def choose(self, selector, files):
        """Put files into a file input."""
        root = self.ask("DOM.getDocument", depth=0)["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[os.path.abspath(file) for file in files])

    def resize(self, width, height, scale=1, is_phone=False):
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=is_phone
        )
        self.ask("Emulation.setTouchEmulationEnabled", enabled=is_phone)

    def shade(self, name):
        """Set what the system is: light or dark."""
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def shoot(self, whole=True):
        """Return a picture of the page, PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=whole)["data"])


@contextmanager
def browser(profile, *words):
    """Start Chromium with a profile of its own and yield a tab; it ends with the block."""
    command = [BROWSER, *HEADLESS, f"--user-data-dir={profile}", "--remote-debugging-pipe", *words]
    line = f"exec {shlex.join(command)} 3<&0 4>&1 </dev/null >&2"  # it reads from 3 and writes to 4
    process = subprocess.Popen(
        ["/bin/sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            page = Page(process.stdin.fileno(), process.stdout.fileno())
            yield page
            with suppress(RuntimeError, TimeoutError):
                page._ask("Browser.close")
        finally:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
