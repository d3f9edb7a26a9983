"""Losses beyond cross entropy: smoothed labels; weights, focal, logit adjustment for classes of unequal size."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from vitlora.core.errors import VitloraError
from vitlora.model.batches import Batch
from vitlora.train.mixing import is_mixed, partners
from vitlora.train.params import Train

BETA = 0.999  # of the effective number of images: a class's thousandth image adds a third of what its first does
TINY = torch.finfo(torch.float32).tiny  # at 0 a power below 1 has no slope


class ClassLoss:
    """Loss of an image, by the training set's class counts.

    With all switched off it is cross entropy with ``train.label_smoothing_factor``.

    Args:
        train: The section.
        labels: Of all training images, int64 (N,).
        names: Of the classes; position = label.

    Raises:
        VitloraError: ``train.class_weights`` names a class that there is not.

    Source:
        Focal loss: arXiv 1708.02002. Effective number: arXiv 1901.05555. Logit adjustment: arXiv 2007.07314.
    """

    def __init__(self, train: Train, labels: Tensor, names: Sequence[str]) -> None:
        counts = torch.bincount(labels, minlength=len(names)).double()
        weights = _weights(train.class_weights, counts, names)
        # Over all training images the mean weight is 1, so that the learning rate keeps its meaning, and a step's loss
        # is a plain mean over its images, however they are cut into micro-batches.
        self.weights = (weights * counts.sum() / (weights * counts).sum()).float()
        self.shift = (train.logit_adjustment * (counts.clamp(min=1) / counts.sum()).log()).float()
        self.gamma, self.smoothing = train.focal_gamma, train.label_smoothing_factor

    def to(self, device: torch.device) -> "ClassLoss":
        """Move what it knows of the classes to a device."""
        self.weights, self.shift = self.weights.to(device), self.shift.to(device)
        return self

    def beyond(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return what turns a batch's mean cross entropy into the mean of this loss.

        Args:
            logits: (B, classes).
            batch: With labels, and with partners where images are mixed.
        """
        plain = functional.cross_entropy(logits.float(), batch["labels"])
        found = self(logits, batch["labels"])
        if is_mixed(batch):
            share = batch["label_share"]
            found = share * found + (1 - share) * self(logits, batch["labels"][partners(batch)])
        return found.mean() - plain

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, float32 (B,).

        Args:
            logits: (B, classes); computed with in float32.
            labels: int64 (B,).
        """
        logits = logits.float() + self.shift
        # Torch's own weights would also count within a smoothed label, and so draw frequent images to rare classes.
        loss = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.smoothing)
        if self.gamma:
            sure = logits.softmax(1).gather(1, labels[:, None])[:, 0]
            loss = (1 - sure).clamp(min=TINY).pow(self.gamma) * loss
        return self.weights[labels] * loss


def class_loss(train: Train, labels: Tensor, names: Sequence[str]) -> ClassLoss | None:
    """Return the loss that the section asks for; None for plain cross entropy, which the model has."""
    amounts = train.label_smoothing_factor, train.focal_gamma, train.logit_adjustment
    return ClassLoss(train, labels, names) if any(amounts) or train.class_weights != "none" else None


def _weights(wanted: str | dict[str, float], counts: Tensor, names: Sequence[str]) -> Tensor:
    if isinstance(wanted, dict):
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise VitloraError(f"train.class_weights: got {unknown[0]}; the rule: a class of the data: {some}")
        return torch.tensor([wanted.get(name, 1.0) for name in names], dtype=torch.float64)
    if wanted == "balanced":
        return 1 / counts.clamp(min=1)
    if wanted == "effective_number":
        return (1 - BETA) / (1 - BETA ** counts.clamp(min=1))
    return torch.ones_like(counts)
