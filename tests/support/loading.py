"""Small packed training pictures, to be loaded fast."""

import io

import numpy as np
import tiny
from PIL import Image

from vitlora.storage.packed import write_packed
from vitlora.train.dataset import TrainImages
from vitlora.train.params import Augment

AUGMENT = Augment(**{**tiny.AUGMENT, "scale": (0.5, 1.0), "ratio": (0.75, 1.33)})


def packed(folder, count, kind=TrainImages, size=8, law=AUGMENT):
    """Write ``count`` pictures of noise, each of a class of its own, and open them with seed 3."""
    rng = np.random.default_rng(0)

    def items():
        for number in range(count):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (12, 14, 3), np.uint8)).save(buffer, "PNG")
            yield (f"{number}.png", number, 14, 12, 0), buffer.getvalue()

    write_packed(folder, ("path", "label", "width", "height", "plain"), items())
    return kind(folder, size, "bilinear", law, 3, "simplejpeg")
