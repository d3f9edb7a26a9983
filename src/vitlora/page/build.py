"""Pack an exported model, a runtime for browsers and a page around them into one HTML file."""

import base64
import hashlib
import html
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.text import printable, shown_bytes
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.page.facts import described, examples
from vitlora.page.runtime import CODE, RUNTIME, WASM, kept_in, runtime_files
from vitlora.predict.exported import FILES, read_facts
from vitlora.safety.whole import written_whole

HERE = Path(__file__).parent
MOST = 500_000_000  # bytes of the model; browsers hold it three times while they load it, and a tab has 4 GB
PIECE = 6_000_000  # characters of a script element, a multiple of 4
MARK = re.compile(r"\{\{ (\w+) \}\}")


def build(
    model: Path, out: Path, prepared: Path | None, count: int, runtime: Path | None, say: Callable[[str], None]
) -> int:
    """Write the page. The same model and runtime give the same bytes.

    Args:
        model: Exported folder.
        out: The HTML file; it appears when it is whole.
        prepared: Where test pictures are; None for a model that comes from elsewhere.
        count: Test pictures to put in, at most.
        runtime: The runtime's packed file, where it was fetched by other means.
        say: Tells what a person should know.

    Returns:
        How many test pictures are in it.

    Raises:
        VitloraError: There is no model, or none that a page can run; or the runtime can't be had.
    """
    precision = "int8" if (model / FILES["int8"]).is_file() else "fp32"
    facts = read_facts(model, precision)
    path = model / FILES[precision]
    _refuse_other(path, facts)
    files = runtime_files(runtime, kept_in(os.environ))
    if precision == "fp32":
        say(
            f"note: {path} is put in, {shown_bytes(path.stat().st_size)}; "
            f"with onnx-int8 in export.formats of params.yaml `dvc repro` makes {FILES['int8']}, a quarter of that"
        )
    size = shown_bytes(path.stat().st_size)
    content = {
        "classes": [printable(each) for each in facts["class_names"]],
        "size": facts["image_size"],
        "threshold": facts.get("calibration", {}).get("threshold"),
        "card": described(facts, _card(model), precision, size),
        "examples": examples(prepared, facts, count) if prepared else [],
    }
    packed = {"runtime": files[CODE], "wasm": files[WASM], "model": path.read_bytes()}
    _write(out, render(content, packed))
    return len(content["examples"])


def render(content: Mapping[str, Any], packed: Mapping[str, bytes]) -> bytes:
    """Return the page.

    Args:
        content: What its script reads: `classes`, `size`, `threshold`, `card`, `examples`.
        packed: The files that it runs, by name.
    """
    style, engine, code = (_template(name) for name in ("page.css", "engine.js", "page.js"))
    names = content["classes"]
    parts = {
        "title": html.escape(f"{len(names)} classes: {', '.join(names)}"[:80]),
        "version": RUNTIME.version,
        "style": style,
        "style_hash": _source(style),
        "engine": engine,
        "code": code,
        "hashes": f"{_source(engine)} {_source(code)}",
        "facts": json.dumps(content, sort_keys=True).replace("<", "\\u003c"),  # so that no text ends its element
        "packed": "\n".join(each for name, data in packed.items() for each in _elements(name, data)),
    }
    return MARK.sub(lambda mark: parts[mark[1]], _template("page.html")).encode()


def _card(model: Path) -> str:
    path = model / "README.md"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _template(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what allows this text in the page's policy, and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _elements(name: str, data: bytes) -> Iterator[str]:
    """Yield a file, deflated, in elements that a browser keeps as text; one for all would be too long for it."""
    text = base64.b64encode(zlib.compress(data, 9)).decode()
    for start in range(0, len(text), PIECE):
        yield f'<script type="text/plain" data-of="{name}">{text[start : start + PIECE]}</script>'


def _refuse_other(path: Path, facts: Mapping[str, Any]) -> None:
    """Refuse a model that a page can't run: too large, not whole in itself, or one that takes no pictures.

    Raises:
        VitloraError: Says what it is.
    """
    size = path.stat().st_size
    if size > MOST:
        raise VitloraError(
            f"{path}: {shown_bytes(size)}; the rule: at most {shown_bytes(MOST)}, since a browser's tab holds no more; "
            "with onnx-int8 in export.formats `dvc repro` makes a smaller one"
        )
    if not OnnxClassifier(path, facts["image_mean"], facts["image_std"]).takes_pictures:
        raise VitloraError(
            f"{path} takes pixel values; the rule: pictures, as export makes it now; `dvc repro` makes it anew"
        )


def _write(out: Path, data: bytes) -> None:
    try:
        with written_whole(out) as aside:
            aside.write_bytes(data)
    except OSError as error:
        raise VitloraError(f"--out: cannot write {out}: {error.strerror}") from None
