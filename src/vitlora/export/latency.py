"""How long each form takes on the machine that exported it. Told, never promised: it is no metric and no output."""

from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from vitlora.export.forms import Score

RUNS = {1: 5, 32: 2}  # by batch, after one that warms up
MS = 1000


def latency(score: Score, images: NDArray[np.uint8]) -> dict[str, float]:
    """Return milliseconds for one image and for 32 at once, the median of a few runs.

    Args:
        score: Of a form.
        images: uint8 (N, 3, H, W), at least one; taken again where there are fewer.
    """
    return {f"batch_{batch}_ms": round(MS * _seconds(score, images, batch, runs), 1) for batch, runs in RUNS.items()}


def _seconds(score: Score, images: NDArray[np.uint8], batch: int, runs: int) -> float:
    given = np.resize(images, (batch, *images.shape[1:]))
    score(given, batch)
    taken = []
    for _ in range(runs):
        begun = perf_counter()
        score(given, batch)
        taken.append(perf_counter() - begun)
    return float(np.median(taken))
