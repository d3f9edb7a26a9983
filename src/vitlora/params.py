"""Read params.yaml into frozen, checked objects.

No section is defined here. Each has a small module in ``vitlora.sections`` that imports nothing heavy, so that a new
key in one stage's section changes the code of no other stage, and a bad value is refused before torch is imported.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vitlora.errors import VitloraError


class Params(BaseModel):
    """Base of every section and of every stage's set of sections: immutable, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Section = TypeVar("Section", bound=Params)


def read_document(path: Path) -> dict[str, Any]:
    """Parse a parameter file as DVC does (YAML 1.2), so that ``5e-4`` is a number and ``no`` is text.

    Raises:
        VitloraError: The file is missing, is not UTF-8, is not YAML, names a key twice, or is not a mapping.
    """
    try:
        document = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise VitloraError(f"{path}: cannot be read ({error.strerror}); `vitlora preset digits` writes one") from None
    except UnicodeDecodeError as error:
        raise VitloraError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except DuplicateKeyError as error:
        raise VitloraError(f"{path}: {error.problem}{_place(error)}; keep one of the two") from None
    except YAMLError as error:
        problem = getattr(error, "problem", None) or "cannot be parsed"
        raise VitloraError(f"{path}: not YAML: {problem}{_place(error)}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else f"a {type(document).__name__}"
        raise VitloraError(f"{path}: holds {found}; the rule: sections such as `lora:` with keys below them")
    return document


def validate(section: type[Section], values: Any, where: str) -> tuple[Section | None, list[str]]:
    """Check one section's values; return the object, or the problems one a line, each with name, value and rule."""
    try:
        # Through JSON: strict mode then takes a YAML list for a tuple, yet no text for a number.
        return section.model_validate_json(json.dumps(values, default=str)), []
    except ValidationError as error:
        return None, [_explain(item, where) for item in error.errors(include_url=False)]


def load_params(stage: type[Section], document: dict[str, Any], path: Path) -> Section:
    """Build a stage's parameters from the sections, and the keys of them, that the stage names; ignore all others.

    Raises:
        VitloraError: A value is missing, of another type or out of range; every such value is listed.
    """
    chosen: dict[str, Any] = {}
    for name, field in stage.model_fields.items():
        values = document.get(name)
        if isinstance(values, dict) and isinstance(field.annotation, type) and issubclass(field.annotation, Params):
            values = {key: value for key, value in values.items() if key in field.annotation.model_fields}
        chosen[name] = values
    loaded, problems = validate(stage, chosen, "")
    if loaded is None:
        raise VitloraError("\n".join(f"{path}: {problem}" for problem in problems))
    return loaded


def _place(error: YAMLError) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""


def _explain(item: Any, where: str) -> str:
    # Positions inside a union (such as "str", "list[str]") are pydantic's, not the reader's.
    steps = [str(step) for step in item["loc"] if not str(step).startswith(("list[", "tuple[", "str", "literal["))]
    name = ".".join(([where] if where else []) + steps)
    if item["type"] == "missing":
        return f"{name}: missing; the rule: every key is written out (see presets/)"
    got = json.dumps(item["input"], ensure_ascii=False)
    rule = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{name}: got {got if len(got) < 80 else got[:77] + '...'}; the rule: {rule}"
