"""Raw folders as download writes them, of random pictures, and sections for preprocess that fit them."""

import hashlib
import io

import numpy as np
from PIL import Image as Pillow

from vitlora.core.files import write_json
from vitlora.preprocess.params import Image, Ingest, Split
from vitlora.storage.packed import write_packed

LEFT_OUT = []  # what download recorded
FAIL = Ingest(on_bad="fail", max_bad_fraction=0.05, on_left_out="fail", on_duplicate="fail")
SKIP = Ingest(on_bad="skip", max_bad_fraction=0.25, on_left_out="skip", on_duplicate="skip")
SQUARE = Image(size_px=16, interpolation="bilinear")
SPLIT = Split(seed=0, val_from="train", val_fraction=0.1, test_fraction=0.2, max_per_class=None)
OUTPUTS = ("train/images-00000.bin", "train/index.npy", "train/texts.bin")
OUTPUTS += ("val/images.npy", "val/index.csv", "test/images.npy")
OUTPUTS += ("test/index.csv", "labels.json", "report.html", "report.json")


def picture(number, size=(20, 14), kind="PNG"):
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), np.uint8)
    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, format=kind)
    return buffer.getvalue()


def write_raw(folder, rows, names=("cat", "dog")):
    """Write a raw folder as download does, from (path, split, label, bytes)."""
    digested = (((path, split, label, hashlib.sha256(data).hexdigest()), data) for path, split, label, data in rows)
    write_packed(folder, ("path", "split", "label", "sha256"), digested)
    write_json(folder / "classes.json", list(names))
    write_json(folder / "left_out.json", LEFT_OUT)
    return folder


def images(counts, names=("cat", "dog"), start=0, split="train"):
    """Return rows, so many pictures of each class, each with its own pixels."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    return [
        (f"{split}/{names[label]}/{start + row}.png", split, label, picture(start + row))
        for row, label in enumerate(labels)
    ]
