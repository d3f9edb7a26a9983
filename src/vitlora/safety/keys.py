"""What a key of params.yaml may be, what it does, and what runs when it changes: for people, and for editors."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import create_model
from pydantic.fields import FieldInfo

from vitlora.core.params import Params
from vitlora.safety.check import STAGES, sections

SCHEMA = "params.schema.json"
AFTER = {  # what runs when a key of a stage is changed
    "download": "download; all others, if it brings other pictures or another model",
    "preprocess": "preprocess; train, evaluate and export, if what it writes changes",
    "train": "train; evaluate and export, if the adapter changes",
    "evaluate": "evaluate; export too, if a prediction or the precision changes",
    "export": "export",
}


def keys() -> dict[str, FieldInfo]:
    """Return every key, dotted, in file order."""
    return {
        f"{section}.{key}": field
        for section, classes in sections().items()
        for key, field in classes[0].model_fields.items()
    }


def reader(section: str) -> str:
    """Return the first stage that reads a section."""
    return next(name for name, stage in STAGES.items() if section in stage.model_fields)


def allowed(annotation: Any, limits: Iterable[Any] = ()) -> str:
    """Return the values that a key may have, in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        kind, *about = get_args(annotation)
        return allowed(kind, [each for one in about for each in getattr(one, "metadata", [one])])
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if type(None) in get_args(annotation):
        return f"{' or '.join(allowed(part, limits) for part in parts)}, or null"
    if get_origin(annotation) in (list, tuple):
        return "list" if get_origin(annotation) is list else "two numbers"
    if get_origin(annotation) is dict:
        return "mapping"
    if parts:  # Annotated, or a union of kinds
        return " or ".join(allowed(part) for part in parts if isinstance(part, type) or get_origin(part))
    name = {bool: "true, false", int: "whole number", float: "number"}.get(annotation, "text")
    signs = ("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")
    bounds = [f"{sign} {getattr(each, key):.10g}" for each in limits for key, sign in signs if hasattr(each, key)]
    return f"{name} {', '.join(bounds)}".strip()


def schema() -> dict[str, Any]:
    """Return the JSON Schema of params.yaml, for editors; rules across keys are not in it."""
    fields: dict[str, Any] = {section: (classes[0], ...) for section, classes in sections().items()}
    made = create_model("params", __base__=Params, **fields).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_without_titles(made)}


def _without_titles(part: Any) -> Any:
    """Leave out the names that pydantic makes up; a key that is called so is no text."""
    if isinstance(part, list):
        return [_without_titles(each) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        key: _without_titles(value) for key, value in part.items() if not (key == "title" and isinstance(value, str))
    }
