"""Fields of a base model's JSON files, read or refused with the file, the field, the rule, and a cure."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.core.params import shown
from vitlora.core.text import printable

ENDLESS = 1e9


@dataclass(frozen=True)
class File:
    """A JSON object in a file, or a part of it, and how to refuse a field of it."""

    path: Path
    content: Mapping[str, Any]
    inside: str = ""

    def get(self, key: str, default: Any = None) -> Any:
        """Return a field's value."""
        return self.content.get(key, default)

    def refusal(self, key: str, rule: str, cure: str, got: Any = None) -> VitloraError:
        """Return the error: what was got in which field of which file, the rule, what to do."""
        value = printable(shown(self.get(key) if got is None else got))
        return VitloraError(f"model.path: {self.path}: {self.inside}{key}: got {value}; the rule: {rule}; {cure}")


def read(path: Path) -> File:
    """Return the object that a file holds.

    Raises:
        VitloraError: It holds none.
    """
    try:
        content = read_json(path)
    except (ValueError, OSError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise VitloraError(f"model.path: {path} is not JSON ({printable(reason)}); fetch it anew") from None
    if not isinstance(content, dict):
        raise VitloraError(f"model.path: {path}: got {shown(content)}; the rule: an object in braces; fetch it anew")
    return File(path, content)


def part(file: File, key: str) -> File:
    """Return an object inside a file's object; an empty one where there is none, which means defaults throughout."""
    value = file.get(key)
    if value is not None and not isinstance(value, dict):
        raise file.refusal(key, "an object in braces", "fetch the file anew")
    return File(file.path, value or {}, f"{file.inside}{key}.")


def three(processor: File, key: str) -> list[float]:
    """Return three numbers; one alone means all channels, as to transformers."""
    value = processor.get(key)
    values = [value] * 3 if is_number(value) else value
    if value is None:
        raise VitloraError(
            f"model.path: {processor.path}: {processor.inside}{key} is missing; the rule: three numbers; write those "
            f'that the base was trained with, such as "{key}": [0.5, 0.5, 0.5]'
        )
    if not (isinstance(values, list) and len(values) == 3 and all(map(is_number, values))):
        rule = "three finite numbers, of red, green and blue"
        raise processor.refusal(
            key, rule, f'write those that the base was trained with, such as "{key}": [0.5, 0.5, 0.5]'
        )
    if key in ("image_std", "std") and min(values) <= 0:
        raise processor.refusal(key, "three numbers above 0", "write those that the base was trained with, such as 0.5")
    return [float(number) for number in values]


def is_number(value: Any) -> bool:
    """Say whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < ENDLESS  # NaN isn't either


def is_count(value: Any) -> bool:
    """Say whether a value is a whole number above 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
