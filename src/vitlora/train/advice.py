"""After a poor result, one line on what to turn first."""

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any

import numpy as np

FEW_STEPS = 60
POOR = 0.9


def advice(best: Mapping[str, Any], labels: Sequence[int], wanted: int) -> str | None:
    """Return what a poor result asks for; None where it isn't poor.

    Args:
        best: Of the metrics: `val_accuracy` of the best epoch, `steps` and `epochs` of the run.
        labels: Of the validation pictures; always naming the most frequent one is what has to be beaten.
        wanted: Epochs that the parameters ask for; there are fewer where time or patience was over.
    """
    val_accuracy, steps, epochs = best["val_accuracy"], best["steps"], best["epochs"]
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
        more = f"raise train.num_train_epochs ({epochs} now)"
        if epochs < wanted:
            more = (
                f"raise what ended it after epoch {epochs} of {wanted}, train.max_minutes or early_stopping_patience,"
            )
        return f"note: {found}, after only {steps} steps; {more} or lower train.per_device_train_batch_size first"
    if hopeless:
        return (
            f"note: {found}; look at the classes in data/prepared/report.html, then raise train.learning_rate tenfold "
            "or lower it tenfold"
        )
    return None
