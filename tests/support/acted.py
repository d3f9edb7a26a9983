"""The page of the service with hands: a proxy that adds a script to it, which is allowed beside its own."""

import base64
import hashlib
import http.client
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path in self.server.files:
            self.answer(200, [("Content-Type", "image/png")], self.server.files[self.path])
        else:
            self.pass_on()

    def do_POST(self):
        self.pass_on(self.rfile.read(int(self.headers["Content-Length"])))

    def pass_on(self, body=None):
        line = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        kept = {
            name: value for name, value in self.headers.items() if name.lower() in ("content-type", "authorization")
        }
        line.request(self.command, self.path, body, kept)
        answer = line.getresponse()
        data, headers = answer.read(), answer.getheaders()
        line.close()
        if self.path == "/":
            script = self.server.script.encode()
            digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
            data = data.replace(b"</body>", b"<script>" + script + b"</script></body>")
            headers = [(n, v.replace("script-src", f"script-src 'sha256-{digest}'")) for n, v in headers]
        self.server.asked.append((self.command, self.path, answer.status))
        self.answer(answer.status, headers, data)

    def answer(self, status, headers, data):
        self.send_response(status)
        for name, value in headers:
            if name.lower() in ("content-type", "content-security-policy"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@contextmanager
def acted(behind, script, files):
    """Yield the address of the page with a script in it, and what it asked for; files are for the script to fetch."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    server.behind, server.script, server.files, server.asked = behind, script, files, []
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", server.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
