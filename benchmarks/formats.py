"""Every format of a trained model, and other ways to int8 than the project's, on all test images.

    PYTHONPATH=src python benchmarks/formats.py --run NAME=PROJECT --out benchmarks/results/formats.json

PROJECT is a folder in which `dvc repro` has run. Its model is exported anew in all formats whose package is there, and
scored on all its test images. Then the same network is quantised statically (onnxruntime, min-max) and by NNCF,
calibrated on whole batches of val: the figures that decide what `onnx-int8` is.
"""

import argparse
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from common import host, version

from vitlora.core.files import read_csv, read_json, write_json
from vitlora.core.params import read_document
from vitlora.evaluate.scores import softmax
from vitlora.export.checks import measured, paired_drop, reference
from vitlora.export.latency import latency
from vitlora.export.onnx_runtime import OnnxClassifier, normalise
from vitlora.export.params import FILES, Export, installed
from vitlora.export.stage import export
from vitlora.storage.squares import load_split

CALIBRATION = 64  # images of val, in whole batches
BATCH = 16


def main() -> None:
    """Measure every run that is named, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=PROJECT")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    sys.modules["openvino_telemetry"] = None  # NNCF would report on its users through it
    runs: dict[str, object] = {}
    also = {name: version(name) for name in ("onnxruntime", "onnx", "openvino", "executorch", "nncf")}
    for name, _, place in (given.partition("=") for given in args.run):
        runs[name] = measure(Path(place))
        write_json(args.out, {"runs": runs, "also": also, "load": round(os.getloadavg()[0], 1), "host": host()})


def measure(project: Path) -> dict[str, object]:
    """Return the rows of one project."""
    formats = [form for form in FILES if installed(form)]
    rules = {**read_document(project / "params.yaml")["export"], "max_accuracy_drop": 1.0, "max_check_images": None}
    wanted = Export(**{**rules, "formats": formats})
    places = ("models/base", "models/adapter", "data/prepared/test", "metrics/evaluate/predictions.csv")
    with tempfile.TemporaryDirectory() as work:
        folder, report = Path(work) / "export", Path(work) / "export.json"
        read = [project / place for place in (*places, "data/evaluated/calibration.json")]
        speeds = export(wanted, *read, folder, report)
        found = read_json(report)
        predictions = read_csv(project / places[-1])
        found["formats"] = {row.pop("format"): row for row in found["formats"]}
        for form, row in found["formats"].items():
            row.update(speeds.get(form, {}))
        return {
            **found,
            "size_px": read_json(folder / "vitlora.json")["image_size"],
            "int8": others(project, folder, predictions),
        }


def others(project: Path, folder: Path, predictions: list[dict[str, str]]) -> dict[str, object]:
    """Return rows of the ways to int8, each from onnx/model.onnx, with the drop of accuracy beside onnx's."""
    facts, test = read_json(folder / "vitlora.json"), load_split(project / "data/prepared/test")
    mean, std, names = facts["image_mean"], facts["image_std"], np.array(facts["class_names"])
    plain = folder / "onnx/model.onnx"
    val = np.asarray(load_split(project / "data/prepared/val").images[:CALIBRATION])
    val = normalise(val[: len(val) // BATCH * BATCH], mean, std)
    ways = {
        "dynamic": folder / "onnx/model_quantized.onnx",
        "static min-max": static(plain, val, folder / "static.onnx"),
    }
    if find_spec("nncf"):
        ways["NNCF"] = nncf_of(plain, val, folder / "nncf.onnx")
    logits = OnnxClassifier(plain, mean, std).score(test.images, BATCH)
    shares = softmax(logits).max(axis=1)
    rows = [{**row, "confidence": share} for row, share in zip(predictions, shares, strict=True)]
    known, found = reference(logits, rows, "fp32", 1e-3), {}
    for way, path in ways.items():
        classifier = OnnxClassifier(path, mean, std)
        theirs = classifier.score(test.images, BATCH)
        given = names[theirs.argmax(axis=1)]
        broken = int(((known.predicted == known.actual) & (given != known.actual)).sum())
        fixed = int(((known.predicted != known.actual) & (given == known.actual)).sum())
        drop = [round(each, 4) for each in paired_drop(broken, fixed, len(given))]
        row = {**measured(theirs, names, known), "accuracy_drop": drop, "bytes": path.stat().st_size}
        found[way] = {**row, **latency(classifier.score, test.images)}
        print(way, found[way], flush=True)
    return found


def static(plain: Path, val: np.ndarray, out: Path) -> Path:
    """Quantise with scales that are found beforehand, per channel, MatMul and Gemm only."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Batches(CalibrationDataReader):
        """Whole batches: a smaller last one is an error in some methods."""

        def __init__(self) -> None:
            self.rest = iter(np.split(val, len(val) // BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.rest, None)
            return None if batch is None else {"pixel_values": batch}

    quantize_static(
        plain, out, Batches(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
    )  # fmt: skip
    return out


def nncf_of(plain: Path, val: np.ndarray, out: Path) -> Path:
    """Quantise by NNCF with its settings for transformers."""
    import nncf

    data = nncf.Dataset([{"pixel_values": batch} for batch in np.split(val, len(val) // BATCH)])
    model = nncf.quantize(onnx.load(plain), data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(val) // BATCH)
    onnx.save(model, out)
    return out


if __name__ == "__main__":
    main()
