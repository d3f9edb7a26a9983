"""The routes of `vitlora serve`, but for those of the Open Inference Protocol."""

import asyncio
import re
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response

from vitlora.predict.classifier import prediction
from vitlora.predict.pictures import Square, Unreadable
from vitlora.serve import protocol
from vitlora.serve.answers import (
    Answer,
    Answers,
    Fault,
    Health,
    HeatMap,
    ModelFacts,
    Models,
    Share,
    Unread,
    told,
)
from vitlora.serve.bodies import ADDRESS, CONTENT, Given, pictures_of
from vitlora.serve.explain import CELLS, Heat, as_png, heat
from vitlora.serve.guard import Guard, refused
from vitlora.serve.limits import Refusal, own_rule
from vitlora.serve.models import Served
from vitlora.serve.page import docs_page, front_page
from vitlora.serve.service import Service

ABOUT = (
    "Which class a picture is of, by a fine-tuned Vision Transformer. Every refusal is JSON that says what was got, "
    "the rule, and what to do."
)
Name = Annotated[str | None, Query(alias="model", description="one of GET /models; the first where none is named")]
FAULTS: dict[int | str, dict[str, Any]] = {
    400: {"model": Fault, "description": "The body can't be read"},
    404: {"model": Fault, "description": "No such model"},
    408: {"model": Fault, "description": "The body did not come in time"},
    413: {"model": Fault, "description": "Too many bytes or pictures"},
    415: {"model": Fault, "description": "The body is of another kind"},
    422: {"model": Unread, "description": "No picture could be read, or a value is wrong"},
    503: {"model": Fault, "description": "Too much at one time, or not done in time; `Retry-After` says when to ask"},
}
HOST = re.compile(r"[A-Za-z0-9._-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")
TOP, CELL_RANGE = (1, 100_000), (2, 14)
RULES = {
    "top": f"a whole number, {TOP[0]} to {TOP[1]:,}",
    "threshold": "a number, 0 to 1",
    "cells": f"a whole number, {CELL_RANGE[0]} to {CELL_RANGE[1]}",
}
PICTURES = {"requestBody": {"required": True, "content": CONTENT}}
LOCKED: dict[int | str, dict[str, Any]] = {401: {"model": Fault, "description": "No known key"}}
KEYS = [Depends(APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key"))]
KEYS += [Depends(HTTPBearer(auto_error=False, scheme_name="bearer"))]


def application(service: Service) -> FastAPI:
    """Return the application around a service."""
    app = FastAPI(
        title="vitlora",
        version=package_version(),
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.add_middleware(Guard, service=service)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _our_fault)
    # The guard has looked at the key before; these say so in the description.
    locked = APIRouter(responses=LOCKED, dependencies=KEYS) if service.keys else APIRouter()
    for path, ask in (("/predict", predict), ("/explain", explain)):
        locked.add_api_route(
            path,
            ask,
            methods=["POST"],
            responses=FAULTS,
            openapi_extra=PICTURES,
            dependencies=[Depends(refuse_unknown)],
        )
    locked.add_api_route("/models", models)
    locked.add_api_route("/metrics", metrics, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    locked.include_router(protocol.router)
    app.include_router(locked)
    app.include_router(protocol.open_router)
    app.add_api_route("/health", health)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/docs", docs, include_in_schema=False)
    for path, show in (("/", page), ("/docs", docs), ("/health", health)):  # as monitors and link checkers ask
        app.add_api_route(path, show, methods=["HEAD"], include_in_schema=False)
    _describe(app.openapi())
    return app


def _describe(openapi: dict[str, Any]) -> None:
    """Take out of the description, which the application keeps, what FastAPI says by itself and is not so here."""
    for methods in openapi["paths"].values():
        for route in methods.values():
            answers = route["responses"]
            answers["200"]["description"] = "The answer"
            if answers.get("422", {}).get("description") == "Validation Error":  # a path's name is any text
                del answers["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        openapi["components"]["schemas"].pop(name, None)


def package_version() -> str:
    """Return the version of this package; a clone that is not installed has none."""
    try:
        return version("vitlora")
    except PackageNotFoundError:
        return "a clone"


async def refuse_unknown(request: Request) -> None:
    """Refuse names in the query that the route does not know, which would leave a default in force, or that come twice.

    Raises:
        Refusal: There is one.
    """
    known = [field.alias for field in request.scope["route"].dependant.query_params]
    unknown = next((name for name in request.query_params if name not in known), None)
    if unknown is not None:
        raise Refusal(
            422,
            f"{unknown[:80] or 'no name'} in the query",
            f"{', '.join(known[:-1])} and {known[-1]}",
            "leave it out, or write it as one of these",
        )
    repeated = next((name for name in known if len(request.query_params.getlist(name)) > 1), None)
    if repeated is not None:
        raise Refusal(422, f"{repeated} in the query more than once", "each name once", "leave all but one out")


async def predict(
    request: Request,
    name: Name = None,
    top: Annotated[int, Query(ge=TOP[0], le=TOP[1], description="number of classes of each picture")] = 5,
    threshold: Annotated[
        float, Query(ge=0, le=1, description='below this confidence the label is null: "don\'t know"')
    ] = 0,
) -> Answers:
    """Classify one picture or several: files of a form, addresses, or one picture as the whole body."""
    service: Service = request.app.state.service
    model = service.model(name)
    pictures = await pictures_of(request, service.limits)
    rows = await service.shares(model, pictures)
    answers = [_told(model, given, row, top, threshold) for given, row in zip(pictures, rows, strict=True)]
    if all(each.error for each in answers):
        raise _unread(answers, pictures[0])
    return Answers(model=model.name, answers=answers)


def _told(model: Served, given: Given, row: Any, top: int, threshold: float) -> Answer:
    if isinstance(row, Unreadable):
        return told(row, top, threshold)
    # The rule of `vitlora page` too: a set of one class says little where that class itself is below the threshold.
    sure = None if model.threshold is None else int((row >= model.threshold).sum()) == 1
    return told(prediction(given.name, row, model.class_names, model.threshold), top, threshold, sure)


def _unread(answers: list[Answer], given: Given) -> Refusal:
    """Return what is said where no picture could be read; the first, as it was given, stands for all."""
    first = answers[0]
    reason, rule = own_rule(str(first.error), ADDRESS if given.url else "a whole JPEG, PNG, WEBP, GIF, BMP or TIFF")
    return Refusal(
        422,
        f"{first.image or 'a picture'} that can't be read: {reason}",
        rule,
        "send the picture's own bytes, or another address" if given.url else "send another picture",
        [each.model_dump(by_alias=True) for each in answers],
    )


async def explain(
    request: Request,
    name: Name = None,
    label: Annotated[str | None, Query(description="the class to explain; the likeliest where none is named")] = None,
    cells: Annotated[int, Query(ge=CELL_RANGE[0], le=CELL_RANGE[1], description="of a row and of a column")] = CELLS,
) -> HeatMap:
    """Show what the model looked at in one picture: how much the class loses where a part of it is made grey."""
    service: Service = request.app.state.service
    model = service.model(name)
    if label is not None and label not in model.class_names:
        raise Refusal(422, f"the class {label[:80]}", f"a class of {model.name}", "GET /models lists them")
    pictures = await pictures_of(request, service.limits)
    if len(pictures) > 1:
        raise Refusal(422, f"{len(pictures)} pictures", "one to explain", "ask for each by itself")
    with service.room:
        square, found = await service.in_time(_heat(service, model, pictures[0], label, cells))
    return HeatMap(
        model=model.name,
        explained=Share(name=model.class_names[found.label], confidence=round(found.share, 6)),
        square=await asyncio.to_thread(as_png, square),
        values=[[round(float(value), 4) for value in row] for row in found.values],
    )


async def _heat(service: Service, model: Served, given: Given, label: str | None, cells: int) -> tuple[Square, Heat]:
    square = await service.square(model, given)
    if isinstance(square, Unreadable):
        raise _unread([told(square, 1, 0)], given)
    number = None if label is None else model.class_names.index(label)
    return square, await heat(service.scorer, model, square, number, cells)


async def models(request: Request) -> Models:
    """List the models that are served."""
    service: Service = request.app.state.service
    return Models(
        models=[
            ModelFacts(
                name=each.name,
                platform=each.platform,
                classes=each.class_names,
                image_size=each.image_size,
                threshold=each.threshold,
            )
            for each in service.models.values()
        ]
    )


async def health() -> Health:
    """Say that the service can answer; it listens only once its models are loaded."""
    return Health(version=package_version())


async def metrics(request: Request) -> Response:
    """Give counts and times as Prometheus reads them."""
    service: Service = request.app.state.service
    return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


async def page() -> HTMLResponse:
    """Show the page for people."""
    return front_page()


async def docs(request: Request) -> HTMLResponse:
    """Show the routes as a page, made here: nothing of it comes from elsewhere."""
    host = request.headers.get("host", "")
    if not HOST.fullmatch(host):  # HTTP/1.0 has none
        host = ":".join(map(str, request.scope["server"]))
    return docs_page(request.app.openapi(), host)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return refused(error)


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer a wrong query in our words; FastAPI has found where it is wrong."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name, rule = str(first["loc"][-1]), RULES.get(str(first["loc"][-1]), first["msg"])
    got = f"{name}={str(first.get('input'))[:80]}"
    return refused(Refusal(422, got, rule, f"give {name} such a value, or leave it out"))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    got = f"{request.method} {request.url.path[:80]}"
    rule = "a method that the route has" if error.status_code == 405 else "a route of this server"
    answer = refused(Refusal(error.status_code, got, rule, "GET /docs lists the routes"))
    answer.headers.update(error.headers or {})
    return answer


async def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it; it is counted


async def _our_fault(_: Request, __: Exception) -> Response:
    """Say no more than that: the traceback stands in the log."""
    said = Refusal(500, "a fault of the server", "none", "look at its log, and tell who runs it")
    return JSONResponse(said.body, 500)
