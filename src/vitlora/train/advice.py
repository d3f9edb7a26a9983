"""After a poor result, one line on what to turn first."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

FEW_STEPS = 60
POOR = 0.9


def advice(val_accuracy: float, labels: Sequence[int], steps: int, epochs: int) -> str | None:
    """Return what a poor result asks for; None where it isn't poor.

    Args:
        val_accuracy: Of the best epoch.
        labels: Of the validation pictures; always naming the most frequent one is what has to be beaten.
        steps: Optimiser steps of the run.
        epochs: Passes over the training pictures.
    """
    if val_accuracy >= POOR:
        return None
    guess = float(np.bincount(labels).max()) / len(labels)
    hopeless = val_accuracy <= guess + 2 * sqrt(guess * (1 - guess) / len(labels))
    found = (
        f"val accuracy {val_accuracy:.4f} on {len(labels)} is not beyond naming the most frequent class always, "
        f"{guess:.4f}"
        if hopeless
        else f"val accuracy {val_accuracy:.4f}"
    )
    if steps < FEW_STEPS:
        return (
            f"note: {found}, after only {steps} steps; raise train.num_train_epochs ({epochs} now) or lower "
            "train.per_device_train_batch_size first"
        )
    if hopeless:
        return (
            f"note: {found}; look at the classes in data/prepared/report.html, then raise train.learning_rate tenfold "
            "or lower it tenfold"
        )
    return None
