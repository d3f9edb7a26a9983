"""The routes of the Open Inference Protocol, version 2, so that its clients can ask this server too.

The input `pictures` is either BYTES, files in base64, or UINT8 (N, H, W, 3), RGB pixels. Outputs are `probabilities`
and `labels`. Source: https://github.com/kserve/open-inference-protocol.
"""

import asyncio
import binascii
from enum import Enum
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Path, Request
from PIL import Image
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from vitlora.core.text import counted
from vitlora.predict.pictures import Unreadable
from vitlora.serve.answers import Fault
from vitlora.serve.bodies import Given, json_of, refuse_count
from vitlora.serve.limits import Refusal, own_rule
from vitlora.serve.models import Served
from vitlora.serve.service import Service

INPUT, SHARES, LABELS = "pictures", "probabilities", "labels"
CURE = "GET /docs shows an example"
TAGS: list[str | Enum] = ["Open Inference Protocol v2"]
router = APIRouter(prefix="/v2", tags=TAGS)
open_router = APIRouter(prefix="/v2/health", tags=TAGS)
Name = Annotated[str, Path(description="one of GET /models")]


class Tensor(BaseModel):
    """Name, type and shape; -1 stands for any number."""

    name: str
    datatype: str
    shape: list[int]


class Output(Tensor):
    """A tensor with its content, row by row."""

    data: list[float] | list[str]


class Server(BaseModel):
    """Who answers."""

    name: str = "vitlora"
    version: str
    extensions: list[str] = []


class Live(BaseModel):
    """The server runs."""

    live: bool = True


class Ready(BaseModel):
    """The server can answer."""

    ready: bool = True


class ModelReady(Ready):
    """The model can answer."""

    name: str


class Metadata(BaseModel):
    """A model's inputs and outputs."""

    name: str
    versions: list[str] = ["1"]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class Inferred(BaseModel):
    """The answer to a request."""

    model_name: str
    model_version: str = "1"
    id: str | None = Field(None, description="the request's own")
    outputs: list[Output]


INFER = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "parameters": {"type": "object"},
                        "inputs": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["name", "datatype", "shape", "data"],
                                "properties": {
                                    "name": {"const": INPUT},
                                    "datatype": {"enum": ["BYTES", "UINT8"]},
                                    "shape": {
                                        "type": "array",
                                        "minItems": 1,
                                        "maxItems": 4,
                                        "items": {"type": "integer", "minimum": 1},
                                    },
                                    "parameters": {"type": "object"},
                                    "data": {
                                        "type": "array",
                                        "minItems": 1,
                                        "description": "base64, or pixels, nested or flat",
                                    },
                                },
                            },
                        },
                        "outputs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name"],
                                "properties": {"name": {"enum": [SHARES, LABELS]}, "parameters": {"type": "object"}},
                            },
                        },
                    },
                },
                "example": {
                    "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [1, 2, 2, 3], "data": [0] * 12}],
                    "outputs": [{"name": LABELS}],
                },
            }
        },
    }
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Fault, "description": "No such model"}}
WRONG: dict[int | str, dict[str, Any]] = {
    **MISSING,
    400: {"model": Fault, "description": "The request is wrong, or a picture can't be read"},
    408: {"model": Fault, "description": "The body did not come in time"},
    413: {"model": Fault, "description": "Too many bytes or pictures"},
    503: {"model": Fault, "description": "Too much at one time, or not done in time"},
}


@router.get("")
async def server(request: Request) -> Server:
    """Say who answers."""
    return Server(version=request.app.version)


@open_router.get("/live")
async def live() -> Live:
    """Say that the server runs."""
    return Live()


@open_router.get("/ready")
async def ready() -> Ready:
    """Say that all models can answer; it listens only once they are loaded."""
    return Ready()


@router.get("/models/{name}", responses=MISSING)
async def metadata(request: Request, name: Name) -> Metadata:
    """Describe a model's inputs and outputs."""
    model = _service(request).model(name)
    classes = len(model.class_names)
    return Metadata(
        name=model.name,
        platform=model.platform,
        inputs=[
            Tensor(name=INPUT, datatype="BYTES", shape=[-1]),
            Tensor(name=INPUT, datatype="UINT8", shape=[-1, -1, -1, 3]),
        ],
        outputs=[
            Tensor(name=SHARES, datatype="FP32", shape=[-1, classes]),
            Tensor(name=LABELS, datatype="BYTES", shape=[-1]),
        ],
    )


@router.get("/models/{name}/ready", responses=MISSING)
async def model_ready(request: Request, name: Name) -> ModelReady:
    """Say that a model can answer."""
    return ModelReady(name=_service(request).model(name).name)


@router.post("/models/{name}/infer", responses=WRONG, openapi_extra=INFER, response_model=Inferred)
async def infer(request: Request, name: Name) -> Any:
    """Classify pictures: files in base64, or RGB pixels."""
    service = _service(request)
    model = service.model(name)
    body = await json_of(request)
    pictures = await asyncio.to_thread(_pictures, body)
    wanted = _wanted(body)
    refuse_count(len(pictures), service.limits)
    rows = await service.shares(model, pictures)
    for number, row in enumerate(rows):
        if isinstance(row, Unreadable):
            reason, rule = own_rule(row.reason, "a whole picture")
            raise _wrong(f"picture {number}, which can't be read: {reason}", rule)
    told = Inferred(model_name=model.name, id=body.get("id"), outputs=[_output(each, model, rows) for each in wanted])
    return JSONResponse(told.model_dump(exclude_none=True))


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _wrong(got: str, rule: str) -> Refusal:
    return Refusal(400, got, rule, CURE)


def _pictures(body: Any) -> list[Given]:
    """Return the pictures of a request.

    Raises:
        Refusal: It does not keep to the protocol.
    """
    if not isinstance(body, dict) or not _is_text(body.get("id", "")):
        raise _wrong("other JSON, or an id that is no printable text", "an object with `inputs`")
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong("other inputs", f"one input, `{INPUT}`")
    given = inputs[0]
    _refuse_parameters(body, given)
    shape, data = given.get("shape"), given.get("data")
    if given.get("name") != INPUT or not isinstance(data, list):
        raise _wrong("an input of another name, or no list as its data", f"`{INPUT}` with a list as `data`")
    if not isinstance(shape, list) or not shape or not all(type(side) is int and side > 0 for side in shape):
        raise _wrong("no shape", "whole numbers above 0")
    if given.get("datatype") == "BYTES":
        return _of_base64(shape, data)
    if given.get("datatype") == "UINT8":
        return _of_pixels(shape, data)
    raise _wrong("another datatype", "BYTES or UINT8")


def _refuse_parameters(*given: dict[str, Any]) -> None:
    """Refuse what the protocol has no room for; we know no parameter, and pass over all."""
    if not all(isinstance(each.get("parameters", {}), dict) for each in given):
        raise _wrong("parameters of another kind", "an object")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def _of_base64(shape: list[int], data: list[Any]) -> list[Given]:
    if shape != [len(data)]:
        count = counted(len(data), "element")
        raise _wrong(
            f"{count} of BYTES with the shape {str(shape)[:80]}", f"the shape [N] with N elements, here [{len(data)}]"
        )
    try:
        return [Given("", binascii.a2b_base64(each, strict_mode=True)) for each in data]
    except (ValueError, TypeError):
        raise _wrong("an element that is no base64", "each picture's file in base64") from None


def _of_pixels(shape: list[int], data: list[Any]) -> list[Given]:
    if len(shape) != 4 or shape[3] != 3:
        raise _wrong("UINT8 of another shape", "[N, H, W, 3], RGB")
    try:
        pixels = np.array(data)
    except (ValueError, OverflowError):
        raise _wrong("rows of different lengths, or of lists and numbers", "flat or evenly nested data") from None
    if pixels.dtype.kind not in "iu" or pixels.size != np.prod(shape, dtype=object):
        raise _wrong("numbers that are not whole, or not as many as the shape says", "whole numbers, as many as that")
    if pixels.min() < 0 or pixels.max() > 255:
        raise _wrong("a number outside 0 to 255", "UINT8")
    return [Given("", Image.fromarray(each)) for each in pixels.astype(np.uint8).reshape(shape)]


def _wanted(body: dict[str, Any]) -> list[str]:
    """Return the outputs that are asked for; both where none is named."""
    asked = body.get("outputs", [])
    if not isinstance(asked, list) or not all(isinstance(each, dict) for each in asked):
        raise _wrong("other outputs", f"a list of objects, each with the name {SHARES} or {LABELS}")
    if not asked:
        return [SHARES, LABELS]
    _refuse_parameters(*asked)
    names = [each.get("name") for each in asked]
    if not all(name in (SHARES, LABELS) for name in names):
        raise _wrong("an output of another name", f"{SHARES} or {LABELS}")
    return names


def _output(name: str, model: Served, rows: list[Any]) -> Output:
    if name == LABELS:
        labels = [model.class_names[int(row.argmax())] for row in rows]
        return Output(name=LABELS, datatype="BYTES", shape=[len(rows)], data=labels)
    shares = [float(share) for row in rows for share in row]
    return Output(name=SHARES, datatype="FP32", shape=[len(rows), len(model.class_names)], data=shares)
