"""Export: merge the adapter into the base model, write its forms, and prove that each still says the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.text import counted
from vitlora.export.card import write_card
from vitlora.export.checks import faults, measured, reference, undecided
from vitlora.export.forms import Trained, in_pytorch, scorer, write
from vitlora.export.latency import latency
from vitlora.export.params import FILES, Export, Format
from vitlora.export.temperature import divide_logits
from vitlora.model.adapters import BUNDLE, load_adapter
from vitlora.model.mixture import is_mixture
from vitlora.model.params import Precision
from vitlora.model.seen import PICTURES, count_seen, pictures_met
from vitlora.storage.squares import Squares, load_split

NOT_MERGED = "an X-LoRA mixture is no one set of weights, so there is no folder for transformers; model.onnx is whole"


def export(
    export: Export,
    base: Path,
    adapter: Path,
    test: Path,
    predictions: Path,
    calibration: Path,
    model: Path,
    report: Path,
) -> dict[Format, dict[str, float]]:
    """Write a folder that transformers, onnxruntime and ``vitlora predict`` load, and check it on the test split.

    Of an X-LoRA mixture, which can't be merged, there is no form for transformers.

    Args:
        export: Formats, batch size, ONNX operator set, and what a format may differ by.
        base: Base model folder.
        adapter: Adapter folder.
        test: Test squares, scored again with every form.
        predictions: As evaluate wrote them; the forms must repeat them.
        calibration: Temperature and prediction sets, as evaluate wrote them; both travel with the model.
        model: Gets the forms, vitlora.json and a model card.
        report: Gets a row for each form.

    Returns:
        By format, how long one image and 32 take here, ms.

    Raises:
        VitloraError: A weight is not finite, or a form is not the trained model.
    """
    merged, labels, normalisation = load_adapter(base, adapter)
    _refuse_not_finite(merged)
    found = read_json(calibration)
    inside = divide_logits(merged, found["temperature"], labels.image_size)
    within, outside = (found["temperature"], 1.0) if inside else (1.0, found["temperature"])
    trained = Trained(merged, within, outside, labels, normalisation, base, adapter)
    mixed = is_mixture(merged)
    formats = [form for form in export.formats if not (mixed and form == "transformers")]
    model.mkdir(parents=True, exist_ok=True)
    write(formats, trained, export.onnx_opset, model)
    bundle = {**read_json(adapter / BUNDLE), "calibration": {**found, "in_weights": inside}}
    bundle[PICTURES] = pictures_met(adapter)  # for whoever learns from it: not which, but whether they are the same
    write_json(model / BUNDLE, bundle)
    scored, whole = read_csv(predictions), load_split(test)
    squares, rows = _sample(whole, scored, export.max_check_images)
    forms, latencies = check(export, formats, trained, model, squares, rows, found["precision"])
    write_json(report, _report(forms, len(rows), mixed))
    right = sum(row["predicted"] == row["actual"] for row in scored)
    seen = count_seen(adapter, whole.digests)
    shown = {form: forms[form] for form in formats}
    write_card(model / "README.md", right, len(scored), seen, bundle, len(rows), shown)
    return latencies


def check(
    export: Export,
    formats: Sequence[Format],
    trained: Trained,
    folder: Path,
    squares: Squares,
    rows: Sequence[Mapping[str, str]],
    kind: Precision,
) -> tuple[dict[Format | Literal["pytorch"], dict[str, Any]], dict[Format, dict[str, float]]]:
    """Score images with the merged weights, then with each form as it lies in the folder.

    Args:
        export: What a form may differ by.
        formats: To check.
        trained: What they were made of.
        folder: Where they lie.
        squares: Images.
        rows: That evaluate wrote of them.
        kind: What evaluate computed in.

    Returns:
        A row for PyTorch and for each form; milliseconds by form.

    Raises:
        VitloraError: Says of each form what is wrong with it.
    """
    names = np.array(trained.labels.class_names)
    in_torch = in_pytorch(trained.model, trained.normalisation, trained.outside)
    logits = in_torch(squares.images, export.batch_size)
    known = reference(logits, rows, kind, export.max_logit_diff)
    found = faults("pytorch", logits, names, known, export)
    table: dict[Format | Literal["pytorch"], dict[str, Any]] = {"pytorch": measured(logits, names, known)}
    latencies: dict[Format, dict[str, float]] = {}
    for form in formats:
        score = scorer(form, trained, folder)
        logits = score(squares.images, export.batch_size)
        wrong = faults(form, logits, names, known, export)
        found += wrong
        if not wrong:
            table[form] = {**measured(logits, names, known), "bytes": _bytes(folder, form)}
            latencies[form] = latency(score, squares.images)
            _tell(form, table[form], undecided(form, logits, names, known, export.max_accuracy_drop))
    if found:
        raise VitloraError("what was exported is not the trained model:\n" + "\n".join(found))
    ties = counted(int(known.tied.sum()), "near tie")
    print(f"{len(formats)} formats checked on {counted(len(rows), 'image')} ({ties})")
    return table, latencies


def _report(forms: Mapping[Format | Literal["pytorch"], Mapping[str, Any]], images: int, mixed: bool) -> dict[str, Any]:
    """Return the metrics: of all formats the least agreement and the largest drop, and a row for each.

    Rows are a list, which DVC shows no columns for: they would be two dozen.
    """
    return {
        "images": images,
        "lowest_agreement": min(row["agreement"] for row in forms.values()),
        "largest_accuracy_drop": round(
            max(forms["pytorch"]["accuracy"] - row["accuracy"] for row in forms.values()), 6
        ),
        "formats": [{"format": form, **row} for form, row in forms.items()],
        **({"not_merged": NOT_MERGED} if mixed else {}),
    }


def _tell(form: str, row: Mapping[str, Any], note: str) -> None:
    print(
        f"{form:12} accuracy {row['accuracy']:.4f}, evaluate's class on {row['agreement']:.2%}, "
        f"logits within {row['largest_logit_difference']:.3f}, {row['bytes'] / 1e6:.1f} MB"
    )
    if note:
        print(note)


def _bytes(folder: Path, form: Format) -> int:
    places = [folder / name for name in FILES[form]]
    files = [file for place in places for file in ([place] if place.is_file() else place.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _sample(
    squares: Squares, trained: Sequence[Mapping[str, str]], most: int | None
) -> tuple[Squares, Sequence[Mapping[str, str]]]:
    """Take at most ``most`` images, evenly spaced: neighbours are often of one class."""
    count = len(trained)
    rows = np.unique(np.linspace(0, count - 1, min(most or count, count)).round().astype(int))
    if len(rows) == count:
        return squares, trained
    return squares.pick(rows.tolist()), [trained[row] for row in rows]


def _refuse_not_finite(model: Any) -> None:
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise VitloraError(f"{name} holds NaN or infinity: training diverged; lower train.learning_rate")
