"""The forms that a model is exported in: where each lies, how it is written, and how it is read back to be scored."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitlora.core.files import write_json
from vitlora.export.executorch_model import ExecutorchClassifier, write_executorch
from vitlora.export.narrow import to_fp16, to_int8
from vitlora.export.onnx_model import onnx_graph, save
from vitlora.export.onnx_runtime import OnnxClassifier
from vitlora.export.openvino_model import OpenVinoClassifier, write_openvino
from vitlora.export.params import FILES, Format
from vitlora.export.picture_graph import with_pictures
from vitlora.model.adapters import load_adapter
from vitlora.model.base import Normalisation, device_of_choice
from vitlora.model.inference import score
from vitlora.model.seen import SEEN
from vitlora.model.timm_bases import TIMM, describe_squares
from vitlora.storage.labels import Labels
from vitlora.storage.manifest import MANIFEST
from vitlora.storage.squares import Squares

Score = Callable[[NDArray[np.uint8], int], NDArray[np.float32]]
"""Logits, float32 (N, C), of uint8 squares (N, 3, H, W), so many at once."""
RESAMPLE = {"bilinear": 2, "bicubic": 3}  # PIL's numbers, as image processors store them
# What makes the network narrower, the form that takes pixel values, and the one that takes pictures.
ONNX: tuple[tuple[Callable[[Any], Any], Format, Format], ...] = (
    (lambda graph: graph, "plain", "onnx"),
    (to_fp16, "plain-fp16", "onnx-fp16"),
    (to_int8, "plain-int8", "onnx-int8"),
)


@dataclass(frozen=True)
class Trained:
    """What every form is made of.

    Attributes:
        model: Merged, in eval mode; of a mixture PEFT's model.
        inside: Temperature that the model's weights hold already.
        outside: Temperature that its logits have yet to be divided by.
        labels: Class names, size, filter.
        normalisation: Of the base model.
        base: Base model folder.
        adapter: Adapter folder.
    """

    model: Any
    inside: float
    outside: float
    labels: Labels
    normalisation: Normalisation
    base: Path
    adapter: Path


def write(formats: Sequence[Format], trained: Trained, opset: int, folder: Path) -> None:
    """Write each form into the folder of the exported model."""
    labels, normalisation = trained.labels, trained.normalisation
    if "transformers" in formats:
        if trained.model.config.model_type == TIMM:
            describe_squares(trained.model.config, labels.interpolation)
        trained.model.save_pretrained(folder, safe_serialization=True)
        write_json(folder / "preprocessor_config.json", processor_config(labels, normalisation))
    if "adapter" in formats:
        shutil.copytree(trained.adapter, folder / "adapter", ignore=shutil.ignore_patterns(MANIFEST, SEEN))
    graph = onnx_graph(trained.model, trained.outside, labels.image_size, opset)
    for narrow, plain, pictures in ONNX:
        if plain in formats or pictures in formats:
            found = narrow(graph)
            if plain in formats:
                save(found, folder / FILES[plain][0])
            if pictures in formats:
                own = (labels.image_size, labels.interpolation, normalisation.mean, normalisation.std)
                save(with_pictures(found, *own), folder / FILES[pictures][0])
    if "openvino" in formats:
        write_openvino(graph, folder / FILES["openvino"][0])
    if "executorch" in formats:
        write_executorch(trained.model, trained.outside, labels.image_size, folder / FILES["executorch"][0])


def scorer(form: Format, trained: Trained, folder: Path) -> Score:
    """Read a form back as its users do, and return what gives its logits, over the temperature."""
    mean, std = trained.normalisation.mean, trained.normalisation.std
    path = folder / FILES[form][0]
    if form == "transformers":
        return _pipeline(folder, trained)
    if form == "adapter":
        model, _, _ = load_adapter(trained.base, path)
        return in_pytorch(model, trained.normalisation, trained.inside * trained.outside)
    if form == "openvino":
        return OpenVinoClassifier(path, mean, std).score
    if form == "executorch":
        return ExecutorchClassifier(path, mean, std).score
    return OnnxClassifier(path, mean, std).score


def in_pytorch(model: Any, normalisation: Normalisation, temperature: float) -> Score:
    """Return what gives a PyTorch model's logits, over a temperature, on the device at hand."""
    return partial(_in_pytorch, model.to(device_of_choice()), normalisation, np.float32(temperature))


def _in_pytorch(
    model: Any, normalisation: Normalisation, temperature: np.float32, images: NDArray[np.uint8], batch_size: int
) -> NDArray[np.float32]:
    squares = Squares(images, np.zeros(len(images), np.int64), [], [])
    return np.asarray(score(model, squares, normalisation, batch_size) / temperature)


def _pipeline(folder: Path, trained: Trained) -> Score:
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folder), device=str(device_of_choice()))
    return partial(_by_pipeline, classify, trained.labels.class_names, np.float32(trained.outside))


def _by_pipeline(
    classify: Any, names: list[str], temperature: np.float32, images: NDArray[np.uint8], batch_size: int
) -> NDArray[np.float32]:
    pictures = [Image.fromarray(image.transpose(1, 2, 0)) for image in np.asarray(images)]
    answers = classify(pictures, top_k=len(names), batch_size=batch_size, function_to_apply="none")
    found = [{each["label"]: each["score"] for each in answer} for answer in answers]
    return np.array([[each[name] for name in names] for each in found], np.float32) / temperature


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
