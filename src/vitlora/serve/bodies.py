"""From the body of a request to the pictures in it: a form, JSON with addresses, or one picture by itself."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from vitlora.core.text import is_address, printable
from vitlora.predict.classifier import Item
from vitlora.serve.limits import Limits, Refusal

FILE, URL = "file", "url"
ADDRESS = "an http(s) address of a public server that answers with a whole picture"
FIELD_BYTES = 16_384  # of a form's field that is no file
SEND = 'send a form with `file` or `url`, JSON such as {"urls": ["https://..."]}, or one picture as image/jpeg'
CONTENT = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "properties": {
                FILE: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
                URL: {"type": "array", "minItems": 1, "items": {"type": "string", "format": "uri"}},
            },
            "minProperties": 1,
            "additionalProperties": False,
        }
    },
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {"urls": {"type": "array", "items": {"type": "string", "format": "uri"}, "minItems": 1}},
            "required": ["urls"],
            "additionalProperties": False,
        },
        "example": {"urls": ["https://example.com/cat.jpg"]},
    },
    **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/*", "application/octet-stream")},
}


@dataclass(frozen=True, slots=True)
class Given:
    """A picture as it was sent: its name, and its bytes, pixels or address."""

    name: str
    item: Item | None = None
    url: str | None = None


class _InMemory(MultiPartParser):
    """A form whose files stay in memory, which our limit on the body bounds: a container may have nowhere to write.

    Attributes:
        is_whole: The last boundary has come. Without it the parser passes silently over what is cut.
    """

    spool_max_size = 1 << 40
    is_whole = False

    def on_end(self) -> None:
        """Note the last boundary."""
        self.is_whole = True


async def pictures_of(request: Request, limits: Limits) -> list[Given]:
    """Return the pictures of a request, one at least.

    Raises:
        Refusal: It is of another kind, broken, or holds none or too many.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        found = await _of_form(request, limits)
    elif kind == "application/json":
        found = _of_json(await json_of(request))
    elif kind.startswith("image/") or kind == "application/octet-stream":
        found = [Given("", await request.body())]
    else:
        raise Refusal(415, f"content type {kind or 'none'}", "a form, JSON or a picture", SEND)
    refuse_count(len(found), limits)
    return found


def refuse_count(count: int, limits: Limits) -> None:
    """Refuse no picture, and too many.

    Raises:
        Refusal: So it is.
    """
    if not count:
        raise Refusal(422, "no picture", f"1 to {limits.pictures} in a request", SEND)
    if count > limits.pictures:
        raise _too_many(limits)


def _too_many(limits: Limits) -> Refusal:
    most = limits.pictures
    return Refusal(413, f"more than {most} pictures", f"at most {most} in a request", "send them in several requests")


async def json_of(request: Request) -> Any:
    """Return the JSON of a body, parsed in a thread, since millions of numbers take long.

    Raises:
        Refusal: It is none.
    """
    body = await request.body()
    try:
        return await asyncio.to_thread(json.loads, body)
    except (ValueError, RecursionError) as error:
        reason = "nested too deep" if isinstance(error, RecursionError) else printable(str(error))
        raise Refusal(400, f"no JSON: {reason}", "JSON in UTF-8", "mend the body") from None


def _of_json(body: Any) -> list[Given]:
    urls = body.get("urls") if isinstance(body, dict) and set(body) == {"urls"} else None
    if not isinstance(urls, list) or not all(isinstance(url, str) for url in urls):
        raise Refusal(422, "other JSON", 'an object with one key: {"urls": ["https://..."]}', SEND)
    return [_address(url) for url in urls]


async def _of_form(request: Request, limits: Limits) -> list[Given]:
    parser = _InMemory(
        Headers(raw=request.headers.raw),
        request.stream(),
        max_files=limits.pictures,
        max_fields=limits.pictures,
        max_part_size=FIELD_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):  # files, or fields, of which each is an address
            raise _too_many(limits) from None
        raise Refusal(400, f"a form that can't be read: {error.message}", _form_rule(limits), SEND) from None
    except (ValueError, UnicodeError, LookupError) as error:
        raise Refusal(400, f"a form that can't be read: {error}", _form_rule(limits), SEND) from None
    try:
        if not parser.is_whole:
            raise Refusal(400, "a form that ends before its last boundary", _form_rule(limits), "send all of it")
        return [await _of_field(name, value) for name, value in form.multi_items()]
    finally:
        await form.close()


def _form_rule(limits: Limits) -> str:
    return f"multipart/form-data with a boundary and at most {limits.pictures} files"


async def _of_field(name: str, value: UploadFile | str) -> Given:
    if isinstance(value, UploadFile) and name == FILE:
        return Given(printable(value.filename or ""), await value.read())
    if isinstance(value, str) and name == URL:
        return _address(value)
    kind = "a file" if isinstance(value, UploadFile) else "text"
    raise Refusal(422, f"the field {name[:50]} with {kind}", "`file` with files, `url` with addresses", SEND)


def _address(url: str) -> Given:
    """Take an address, and nothing that would name a file of this machine."""
    if not is_address(url):
        raise Refusal(
            422, f"{url[:80] or 'nothing'}, which is no address", ADDRESS, "send a file of your own as its bytes"
        )
    return Given(printable(url), url=url)
