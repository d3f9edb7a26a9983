"""What a run says once, before its first stage works: parameters that are not the last commit's, or have no effect."""

import hashlib
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.params import read_document, shown, validate
from vitlora.model.params import Lora
from vitlora.safety.workspace import PARAMS, changed_params
from vitlora.train.params import Train

WIDTH = 100


def announce(work: Path) -> None:
    """Print the block, unless another stage of the same dvc process has.

    An experiment that was killed leaves its own parameters behind, so that a run must say what it is a run of.

    Args:
        work: Folder for the note of who was told what.
    """
    lines = [*_changed(), *_without_effect(), *_idle()]
    told = work / "announced"
    text = f"{os.getppid()} {hashlib.sha256(os.linesep.join(lines).encode()).hexdigest()}"
    if lines and not (told.exists() and told.read_text(encoding="utf-8") == text):
        print("\n".join(lines))
        told.write_text(text, encoding="utf-8")


def _changed() -> Iterator[str]:
    changed = changed_params()
    if changed:
        yield "parameters that differ from the last commit:"
        yield from (f"  {line}" for line in changed)
        yield from _same_rate(changed)


def _same_rate(changed: list[str]) -> Iterator[str]:
    """Say that another method wants another rate: adapters at that of all weights hardly learn, nor the other way."""
    methods = next((line for line in changed if line.startswith("lora.method: ")), "")
    if '"full"' in methods and not any(line.startswith("train.learning_rate: ") for line in changed):
        yield "note: lora.method is another, train.learning_rate is not; all weights want about a twentieth of"
        yield "  the rate of adapters (the presets have 1e-4 and 2e-3)"


def _without_effect() -> Iterator[str]:
    section = _section("lora")
    lora, _ = validate(Lora, section, "lora")
    if lora is None or not lora.without_effect:
        return
    yield f"these keys of lora have no effect, since lora.method {lora.method} does not read them:"
    yield from _listed({key: section[key] for key in lora.without_effect})
    if own := lora.own.model_dump():
        yield "it reads lora.options:"
        yield from _listed(own)


def _idle() -> Iterator[str]:
    train, _ = validate(Train, _section("train"), "train")
    if train is not None and train.without_effect:
        yield "these keys of train have no effect:"
        yield from (f"  {key}: {shown(getattr(train, key))}, for {why}" for key, why in train.without_effect.items())


def _section(name: str) -> Any:
    """Return a section of params.yaml; None where the file can't be read, which is refused elsewhere."""
    try:
        return read_document(PARAMS).get(name)
    except VitloraError:
        return None


def _listed(values: dict[str, Any]) -> list[str]:
    text = ", ".join(f"{key}: {shown(value)}" for key, value in values.items())
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ", break_long_words=False)
