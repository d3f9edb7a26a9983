"""Distillation: beside the labels, a model learns the scores of a larger one that was trained on the same classes."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from vitlora.core.errors import VitloraError
from vitlora.core.files import read_json
from vitlora.model.adapters import BUNDLE
from vitlora.model.base import Normalisation, load_base
from vitlora.model.seen import PICTURES
from vitlora.processes.peers import ALONE, Peers
from vitlora.storage.labels import Labels
from vitlora.train.experts import locate
from vitlora.train.params import Train

KEY = "train.teacher"
FILES = (BUNDLE, "config.json", "model.safetensors")  # of a folder that export writes


class Distillation:
    """A trained model, and how much its scores count.

    Args:
        folder: That export has written.
        model: Of it, in evaluation mode.
        normalisation: Its own.
        pictures: SHA-256 of the list of pictures that it has met; None if it doesn't say.
        alpha: Share of the teacher in the loss.
        temperature: What both sides' logits are divided by, so that small scores count.
        scale: What its logits were divided by before, when it was exported with calibrated confidences.

    Source:
        arXiv 1503.02531. Gradients of softened scores shrink with the square of the temperature, so they are
        multiplied by that.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        normalisation: Normalisation,
        pictures: str | None,
        alpha: float,
        temperature: float,
        scale: float = 1.0,
    ) -> None:
        self.folder, self.model, self.normalisation, self.pictures = folder, model, normalisation, pictures
        self.alpha, self.temperature, self.scale = alpha, temperature, scale

    def blend(self, hard: Tensor, logits: Tensor, images: Tensor, autocast: AbstractContextManager[Any]) -> Tensor:
        """Return the loss of a batch.

        Args:
            hard: The mean loss by the labels, ().
            logits: The student's, (B, classes).
            images: As the student gets them, uint8 (B, 3, H, W); the teacher normalises them in its own way.
            autocast: Precision of the teacher's forward pass.
        """
        with torch.no_grad(), autocast:
            target = self.model(pixel_values=self.normalisation(images)).logits * self.scale
        own, wanted = (functional.log_softmax(side.float() / self.temperature, dim=1) for side in (logits, target))
        soft = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * hard + self.alpha * self.temperature**2 * soft


def load_teacher(train: Train, labels: Labels, peers: Peers = ALONE) -> Distillation | None:
    """Load the teacher that the section names, on the CPU; None if it names none.

    Args:
        train: The section.
        labels: Of the data.
        peers: The processes that all load it.

    Raises:
        VitloraError: Its name is not pinned to its content, it is no folder that export writes, or its classes, their
            order or its image size are others.
    """
    if not train.teacher:
        return None
    folder, where = locate(train.teacher, KEY, peers), f"{KEY}: {train.teacher}"
    missing = next((name for name in FILES if not (folder / name).is_file()), None)
    if missing:
        raise VitloraError(
            f"{where} lacks {missing}; the rule: a folder as export writes it, with transformers among export.formats"
        )
    bundle = read_json(folder / BUNDLE)
    _check_classes(where, bundle["class_names"], labels.class_names)
    if bundle["image_size"] != labels.image_size:
        raise VitloraError(
            f"{where} takes squares of {bundle['image_size']} px, and these have {labels.image_size}; the rule: the "
            f"same size; set image.size_px to {bundle['image_size']}, or train the teacher at {labels.image_size} px"
        )
    model, fresh = load_base(folder, labels.class_names, labels.image_size)
    if fresh:
        raise VitloraError(f"{where} has no weights for {fresh[0]}; export it again")
    normalisation = Normalisation(bundle["image_mean"], bundle["image_std"])
    model.requires_grad_(False)
    return Distillation(
        folder,
        model.eval(),
        normalisation,
        bundle.get(PICTURES),
        train.distillation_alpha,
        train.distillation_temperature,
        _scale(bundle.get("calibration", {})),
    )


def _scale(calibration: Mapping[str, Any]) -> float:
    """Return what export has divided the head's weights by."""
    return float(calibration["temperature"]) if calibration.get("in_weights") else 1.0


def _check_classes(where: str, theirs: list[str], ours: list[str]) -> None:
    if theirs == ours:
        return
    lacks, more = (sorted(set(a) - set(b)) for a, b in ((ours, theirs), (theirs, ours)))
    said = [
        f"{verb} {names[0]}{' and others' * (len(names) > 1)}"
        for verb, names in (("lacks", lacks), ("has", more))
        if names
    ]
    if not said:
        place = next(place for place, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        said = [f"has {theirs[place]} at place {place + 1}, where the data have {ours[place]}"]
    raise VitloraError(
        f"{where} tells other classes apart: it {' and '.join(said)}; the rule: the data's classes in their order; "
        "train the teacher on these data"
    )
