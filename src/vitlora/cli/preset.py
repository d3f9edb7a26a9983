"""Start from a ready-made params.yaml: show what it changes, then copy it."""

import argparse
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.files import write_text
from vitlora.core.params import read_document, shown
from vitlora.safety.check import check_document
from vitlora.safety.keys import SCHEMA
from vitlora.safety.shortage import WORK
from vitlora.safety.source import local_path
from vitlora.safety.workspace import committed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("name", nargs="?", help="name of a file in presets/, without .yaml; none lists them")
    parser.add_argument("--dry-run", action="store_true", help="show the changes only")


def act(args: argparse.Namespace) -> None:
    """List the presets, or show one's changes and make them.

    Raises:
        VitloraError: There is no such preset.
    """
    presets = {path.stem: path for path in sorted(Path("presets").glob("*.yaml"), key=lambda path: path.stem)}
    if not presets:
        raise VitloraError("no presets/ folder here; run vitlora in the project's folder")
    if args.name is None:
        width = max(map(len, presets))
        for name, path in presets.items():
            print(f"{name:<{width}}  {path.read_text(encoding='utf-8').splitlines()[0].removeprefix('# ')}")
        return
    if args.name not in presets:
        raise VitloraError(f"got {args.name}; presets are {', '.join(presets)}")
    params = Path("params.yaml")
    wanted = read_document(presets[args.name])
    check_document(wanted, presets[args.name])
    changes = list(differences(read_document(params) if params.is_file() else {}, wanted))
    print("\n".join(changes) if changes else "params.yaml has these values already")
    if changes and not args.dry_run:
        texts = {name: _text(path) for name, path in presets.items()}
        own = params.read_text(encoding="utf-8") if params.is_file() else None
        if own is not None and own not in (committed(params), *texts.values()):
            kept = next(path for number in count() if not (path := WORK / f"params-{number}.yaml").exists())
            write_text(kept, own)
            print(f"what you had not committed of params.yaml is kept as {kept}")
        params.write_text(texts[args.name], encoding="utf-8")
        data = wanted["data"]
        local = (place := local_path(data)) is not None and not Path(place).exists()
        first = f"set data.path, for there is no folder {data['path']}; then " if local else ""
        print(f"params.yaml is now a copy of {presets[args.name]}; {first}`dvc repro` runs what these changes touch")


def _text(preset: Path) -> str:
    """Return a preset as it reads in params.yaml, a folder higher."""
    return preset.read_text(encoding="utf-8").replace(f"$schema=../{SCHEMA}", f"$schema={SCHEMA}")


def differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each dotted key whose value differs."""
    before, after = (_flat(document) for document in (old, new))
    for key in [*after, *(key for key in before if key not in after)]:
        if before.get(key, "(absent)") != after.get(key, "(absent)"):
            old_value, new_value = (shown(side[key]) if key in side else "(absent)" for side in (before, after))
            yield f"{key}: {old_value} -> {new_value}"


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, values in document.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
