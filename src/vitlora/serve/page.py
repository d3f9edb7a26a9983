"""The pages for people: one that asks this server, and one that describes its routes. Neither asks anybody else."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

from starlette.responses import HTMLResponse

CODE = re.compile("`([^`]+)`")
PART = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def _file(name: str) -> str:
    text: str = files("vitlora.serve").joinpath(name).read_text(encoding="utf-8")
    return text


def front_page() -> HTMLResponse:
    """Return the page on which people ask the model."""
    return _page(_file("page.html"))


def docs_page(openapi: dict[str, Any], host: str) -> HTMLResponse:
    """Return the routes as a page.

    Args:
        openapi: Their description.
        host: Name or address, with the port, by which this server was asked; it stands in the examples.
    """
    about, routes = _marked(openapi["info"]["description"]), "".join(_routes(openapi, host))
    return _page(_file("docs.html").replace("ABOUT", about).replace("ROUTES", routes))


def _routes(openapi: dict[str, Any], host: str) -> Iterator[str]:
    for path, methods in openapi["paths"].items():
        for method, route in methods.items():
            yield f"<h2><b>{method.upper()}</b> {html.escape(path)}</h2><p>{_marked(route['description'])}</p>"
            rows = [(each["name"], _parameter(each)) for each in route.get("parameters", [])]
            rows += sorted((status, answer["description"]) for status, answer in route["responses"].items())
            yield "<dl>" + "".join(f"<dt><code>{html.escape(name)}</code><dd>{_marked(text)}" for name, text in rows)
            yield f"</dl><pre>{html.escape(chr(10).join(_examples(path, route, host)))}</pre>"


def _marked(text: str) -> str:
    """Return text as HTML, what stands in backticks as code."""
    return CODE.sub(r"<code>\1</code>", html.escape(text))


def _parameter(each: dict[str, Any]) -> str:
    default = each["schema"].get("default")
    return f"{each.get('description', '')}{'' if default is None else f' ({default})'}"


def _examples(path: str, route: dict[str, Any], host: str) -> Iterator[str]:
    """Yield a line for each way to ask a route."""
    address = f"http://{host}{path.replace('{name}', 'NAME')}"
    asked = "curl -H 'Authorization: Bearer KEY'" if "401" in route["responses"] else "curl"
    content = route.get("requestBody", {}).get("content", {})
    if not content:
        yield f"{asked} {address}"
    if "multipart/form-data" in content:
        yield f"{asked} -F file=@cat.jpg {address}"
        yield f"{asked} -F url=https://example.com/cat.jpg {address}"
        yield f"{asked} -H 'content-type: image/jpeg' --data-binary @cat.jpg {address}"
    if "application/json" in content:
        example = json.dumps(content["application/json"]["example"])
        yield f"{asked} -H 'content-type: application/json' -d '{example}' {address}"


def _page(text: str) -> HTMLResponse:
    """Send a page that may run its own script and nothing else, and ask this server and nobody else."""
    own: dict[str, list[str]] = {"style": [], "script": []}
    for kind, content in PART.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        own[kind].append(f"'sha256-{digest}'")
    rules = [
        "default-src 'none'",
        *(f"{kind}-src {' '.join(hashes)}" for kind, hashes in own.items() if hashes),
        "img-src blob: data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return HTMLResponse(text, headers={"Content-Security-Policy": "; ".join(rules), "Referrer-Policy": "no-referrer"})
