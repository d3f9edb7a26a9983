"""Export: merge the adapter into the base model, write ONNX, and prove that both still say the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.text import counted
from vitlora.export.card import write_card
from vitlora.export.onnx_model import export_onnx
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.export.params import Export
from vitlora.export.temperature import divide_logits
from vitlora.model.adapters import BUNDLE, load_adapter
from vitlora.model.base import Normalisation, device_of_choice
from vitlora.model.inference import score
from vitlora.model.mixture import is_mixture
from vitlora.model.params import Precision
from vitlora.model.seen import count_seen
from vitlora.storage.labels import Labels
from vitlora.storage.squares import Squares, load_split

HALF_ROUNDING = 0.02  # of the largest logit; measured 0.002 to 0.01 in float16
CUT = 6e-5  # confidences are written with four decimals
NOT_MERGED = "an X-LoRA mixture is no one set of weights, so there is no folder for transformers; model.onnx is whole"
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers, as image processors store them


def export(
    export: Export,
    base: Path,
    adapter: Path,
    test: Path,
    predictions: Path,
    calibration: Path,
    model: Path,
    report: Path,
) -> None:
    """Write a folder that transformers, onnxruntime and ``vitlora predict`` load, and check it on the test split.

    Of an X-LoRA mixture, which can't be merged, there is the ONNX form alone.

    Args:
        export: Batch size, ONNX operator set, and the largest logit difference that passes.
        base: Base model folder.
        adapter: Adapter folder.
        test: Test squares, scored again with every exported form.
        predictions: As evaluate wrote them; the exported forms must repeat them.
        calibration: Temperature and prediction sets, as evaluate wrote them; both travel with the model.
        model: Gets weights, config, image processor, model.onnx, labels and a model card.
        report: Gets agreements and differences.

    Raises:
        VitloraError: A weight is not finite, or an exported form disagrees with the trained model.
    """
    merged, labels, normalisation = load_adapter(base, adapter)
    _refuse_not_finite(merged)
    found = read_json(calibration)
    inside = divide_logits(merged, found["temperature"], labels.image_size)
    model.mkdir(parents=True, exist_ok=True)
    if not is_mixture(merged):
        merged.save_pretrained(model, safe_serialization=True)
        write_json(model / "preprocessor_config.json", processor_config(labels, normalisation))
    bundle = {**read_json(adapter / BUNDLE), "calibration": {**found, "in_weights": inside}}
    write_json(model / BUNDLE, bundle)
    outside = 1.0 if inside else found["temperature"]
    export_onnx(merged, outside, labels.image_size, export.onnx_opset, model / "model.onnx")
    scored = read_csv(predictions)
    whole = load_split(test)
    squares, trained = _sample(whole, scored, export.max_check_images)
    checks, difference, ties = check_export(
        merged, outside, model, squares, trained, labels, normalisation, export, found["precision"]
    )
    write_json(report, checks)
    right = sum(row["predicted"] == row["actual"] for row in scored)
    seen = count_seen(adapter, whole.digests)
    write_card(model / "README.md", right, len(scored), seen, bundle)
    print(
        f"all exported forms give evaluate's class on {counted(len(trained), 'image')} "
        f"({counted(ties, 'near tie')}); largest logit difference of ONNX {difference:.1e}"
    )


def check_export(
    merged: Any,
    temperature: float,
    folder: Path,
    squares: Squares,
    trained: Sequence[Mapping[str, str]],
    labels: Labels,
    normalisation: Normalisation,
    export: Export,
    kind: Precision,
) -> tuple[dict[str, Any], float, int]:
    """Score test images with the merged weights, with ONNX, and with transformers' pipeline.

    Two forms may name different classes only where the model itself is undecided: where the largest two logits lie
    closer together than rounding moves them, ``max_logit_diff``, or a fiftieth of the largest logit where evaluate
    computed in half precision. Confidences may differ by what such a rounding moves them.

    Args:
        merged: The model.
        temperature: What its logits have yet to be divided by; 1 where it is in the weights.
        folder: With model.onnx, and but for a mixture what transformers loads.
        squares: Test images.
        trained: The rows that evaluate wrote of them.
        labels: Class names.
        normalisation: Of the base model.
        export: Batch size, largest logit difference.
        kind: What evaluate computed in.

    Returns:
        Share of images on which each form gives the class that evaluate gave, of a mixture also why there is no merged
        form; the largest logit difference of ONNX; and how many near ties there are.

    Raises:
        VitloraError: Another class where it is no near tie, another confidence, or a difference above
            ``max_logit_diff``.
    """
    device = device_of_choice()
    torch_logits = score(merged.to(device), squares, normalisation, export.batch_size) / np.float32(temperature)
    onnx = OnnxClassifier(folder / "model.onnx", normalisation.mean, normalisation.std)
    onnx_logits = onnx.score(squares.images, export.batch_size)
    names = np.array(labels.class_names)
    mixed = is_mixture(merged)
    given = {
        "mixture" if mixed else "merged": names[torch_logits.argmax(axis=1)],
        "onnx": names[onnx_logits.argmax(axis=1)],
    }
    if not mixed:
        given["pipeline"] = np.array(pipeline_classes(folder, squares, export.batch_size, str(device)))
    largest = np.sort(torch_logits, axis=1)
    rounding = export.max_logit_diff if kind == "fp32" else HALF_ROUNDING * float(np.abs(torch_logits).max())
    tied = largest[:, -1] - largest[:, -2] < rounding
    difference = float(np.abs(torch_logits - onnx_logits).max())
    same = {form: classes == [row["predicted"] for row in trained] for form, classes in given.items()}
    failed = [
        f"{form} gives another class than evaluate on {(~agree & ~tied).sum()} of {len(trained)} images; the rule: 0"
        for form, agree in same.items()
        if (~agree & ~tied).any()
    ]
    if difference > export.max_logit_diff:
        failed.append(f"onnx differs by {difference:.2e} in a logit; the rule: {export.max_logit_diff:.2e} at most")
    moved = float(
        np.abs(softmax(onnx_logits, axis=1).max(axis=1) - [float(row["confidence"]) for row in trained]).max()
    )
    if moved > rounding / 2 + CUT:
        failed.append(
            f"a confidence of onnx is {moved:.2e} from evaluate's; the rule: {rounding / 2 + CUT:.2e} at most"
        )
    if failed:
        raise VitloraError("the exported model is not the trained one:\n" + "\n".join(failed))
    agreements = {f"{form}_agreement": round(float(agree.mean()), 6) for form, agree in same.items()}
    why = {"not_merged": NOT_MERGED} if mixed else {}
    return {**agreements, **why, "images": len(trained)}, difference, int(tied.sum())


def _sample(
    squares: Squares, trained: Sequence[Mapping[str, str]], most: int | None
) -> tuple[Squares, Sequence[Mapping[str, str]]]:
    """Take at most ``most`` images, evenly spaced: neighbours are often of one class."""
    count = len(trained)
    rows = np.unique(np.linspace(0, count - 1, min(most or count, count)).round().astype(int))
    if len(rows) == count:
        return squares, trained
    return squares.pick(rows.tolist()), [trained[row] for row in rows]


def pipeline_classes(folder: Path, squares: Squares, batch_size: int, device: str) -> list[str]:
    """Return the class that ``transformers.pipeline("image-classification")`` gives for each square."""
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder), device=device)
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in np.asarray(squares.images)]
    return [best[0]["label"] for best in classify(pictures, top_k=1, batch_size=batch_size)]


def processor_config(labels: Labels, normalisation: Normalisation) -> dict[str, object]:
    """Return the image processor's settings: resize the shorter side, cut the centre, normalise, as everywhere here."""
    size = labels.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": RESAMPLE[labels.interpolation],
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": normalisation.mean,
        "image_std": normalisation.std,
    }


def _refuse_not_finite(model: Any) -> None:
    for name, weight in model.state_dict().items():
        if not bool(weight.isfinite().all()):
            raise VitloraError(f"{name} holds NaN or infinity: training diverged; lower train.learning_rate")
