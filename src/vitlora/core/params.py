"""Read params.yaml into frozen, checked objects.

No section is defined here. Each has a small module in ``vitlora.sections`` that imports nothing heavy, so that a new
key in one stage's section changes the code of no other stage, and a bad value is refused before torch is imported.
"""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vitlora.core.errors import VitloraError
from vitlora.core.text import conflict_line

# pydantic's kinds of error in a reader's words; in braces what it says of the limit.
RULES = {
    "int_type": "a whole number, without quotes or decimal point",
    "float_type": "a number, without quotes",
    "bool_type": "true or false, without quotes",
    "string_type": "text, in quotes where it would read as something else",
    "list_type": "a list, such as [a, b]",
    "finite_number": "a finite number",
    "greater_than": "above {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "below {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "string_too_short": "not empty",
    "too_short": "not empty",
}
NO_SECTIONS = {type(None): "nothing", list: "a list", str: "only text"}


class TogetherError(ValueError):
    """Values of one section that are allowed alone but not together; the message then shows these keys only."""

    def __init__(self, rule: str, *keys: str) -> None:
        super().__init__(rule)
        self.keys = keys


class Params(BaseModel):
    """Base of every section and of every stage's set of sections: immutable, strict, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


Section = TypeVar("Section", bound=Params)


def read_document(path: Path) -> dict[str, Any]:
    """Parse a parameter file as DVC does (YAML 1.2), so that ``5e-4`` is a number and ``no`` is text.

    Raises:
        VitloraError: The file is missing, is not UTF-8, is not YAML, names a key twice, or is not a mapping.
    """
    text = _read_text(path)
    try:
        document = YAML(typ="safe", pure=True).load(text)  # the C parser is not everywhere, and words errors otherwise
        json.dumps(document, default=str)  # a date as a key, or a value that holds itself, is no parameter
    except DuplicateKeyError as error:
        problem = str(error.problem).removesuffix(' with value "{}" (original value: "{}")')
        raise VitloraError(f"{path}: {problem}{_place(error, text)}; keep one of the two") from None
    except (YAMLError, ValueError, TypeError, RecursionError) as error:
        refuse_conflict(path, text)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise VitloraError(f"{path}: cannot be read as YAML: {problem}{_place(error, text)}") from None
    if not isinstance(document, dict):
        found = NO_SECTIONS.get(type(document), "one value")
        raise VitloraError(f"{path}: holds {found}; the rule: sections such as `lora:` with keys below them")
    return document


def refuse_conflict(path: Path, text: str) -> None:
    """Refuse a file in which Git has left both sides of a merge.

    Raises:
        VitloraError: The line where it begins, and the cure.
    """
    line = conflict_line(text)
    if line is not None:
        raise VitloraError(
            f"{path}: the marks of a merge conflict begin in line {line}; the rule: one side of the two. Edit it, or "
            f"take one by `git checkout --ours {path}` or `--theirs`"
        )


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


def shown(value: Any) -> str:
    """Return a parsed value for a message: as JSON, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) < 80 else text[:77] + "..."


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise VitloraError(f"{path}: cannot be read ({error.strerror}); `vitlora preset digits` writes one") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise VitloraError(f"{path}: not UTF-8 (line {line}); save it as UTF-8") from None


def _place(error: Exception, text: str) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    if mark is None:
        return ""
    hint = ""
    if re.match(r" *\t", "".join(text.split("\n")[mark.line : mark.line + 1])):
        hint = "; the rule: spaces for indents, no tabs"
    elif "<block end>" in str(error):
        hint = "; the rule: one indent for all keys of a section"
    return f" (line {mark.line + 1}, column {mark.column + 1}){hint}"


def _explain(item: Any, where: str) -> str:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in item["loc"]]
    name = (where + "".join(steps)).removeprefix(".")
    if item["type"] == "missing":
        return f"{name}: missing; the rule: every key is written out (see presets/)"
    context = item.get("ctx", {})
    error = context.get("error")
    if isinstance(error, TogetherError):
        names = ", ".join(f"{name}.{key}" for key in error.keys)
        got = ", ".join(shown(item["input"][key]) for key in error.keys)
        return f"{names}: got {got}; the rule: {error}"
    known = RULES.get(item["type"])
    rule = known.format(**context).replace("'", "").removesuffix(".0") if known else str(error or item["msg"])
    return f"{name}: got {shown(item['input'])}; the rule: {rule}"
