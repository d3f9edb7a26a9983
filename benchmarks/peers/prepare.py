"""What all contestants share: a random ViT-B/16, and the same pictures in the form that each of them reads."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peers.job import places
from vitlora.core.files import read_csv, write_csv, write_json
from vitlora.core.params import load_params, read_document
from vitlora.download.found import Picture
from vitlora.download.hub_layout import from_hub_layout
from vitlora.preprocess.params import PreprocessStage
from vitlora.preprocess.stage import preprocess
from vitlora.storage.packed import INDEX, Packed, write_packed
from vitlora.storage.squares import INDEX as SQUARES
from vitlora.storage.squares import PIXELS, open_pixels

RAW_COLUMNS = ("path", "split", "label", "sha256")
SPLITS = {"train": "train", "val": "validation"}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


def random_model(folder: Path, tiny: bool, model: str = "ViT-B/16") -> int:
    """Save a model with random weights (seed 0) and no head, as a pretrained base is; return its image side, px."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(0)
    side = TINY["image_size"] if tiny else 224
    if model == "ViT-S/14":
        small = Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=side)
        Dinov2Model(small).save_pretrained(folder)
    else:
        ViTModel(ViTConfig(**(TINY if tiny else {})), add_pooling_layer=False).save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", processor(side))
    return int(side)


def processor(side: int) -> dict[str, Any]:
    """Return the preprocessor_config.json of a base for squares of so many px."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "rescale_factor": 1 / 255,
        "resample": 2,
        "size": {"height": side, "width": side},
    }


def download_folder(data: Path, raw: Path) -> None:
    """Pack a folder in Hub layout as our download stage does."""
    found = from_hub_layout(data, None, "image", "label", SPLITS)
    rows = ((_row(picture), picture.data) for picture in found.pictures)
    write_packed(raw, RAW_COLUMNS, rows)
    write_json(raw / "classes.json", found.class_names)
    write_json(raw / "left_out.json", [])


def _row(picture: Picture) -> tuple[str, str, int, str]:
    return picture.path, picture.split, picture.label, hashlib.sha256(picture.data).hexdigest()


def preprocess_folder(raw: Path, params: Path, size: int, prepared: Path) -> None:
    """Run our preprocess stage with the official split as val, as the tutorial has it."""
    document = read_document(params)
    document["image"].update(size_px=size)
    document["split"].update(val_from="official")
    stage = load_params(PreprocessStage, document, params)
    paths = [prepared / name for name in ("train", "val", "test", "labels.json", "report.html", "report.json")]
    preprocess(stage.ingest, stage.image, stage.split, raw, *paths)


def repeat_packed(source: Path, target: Path, count: int) -> None:
    """Make a packed folder of ``count`` rows that point at the same bytes again and again."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.name != INDEX:
            _link(path, target / path.name)
    index = np.load(source / INDEX)
    np.save(target / INDEX, index[places(len(index), count)])


def repeat_squares(source: Path, target: Path, count: int) -> None:
    """Write ``count`` squares, the same ones again and again: a memory map has no references."""
    target.mkdir(parents=True, exist_ok=True)
    pixels, rows = open_pixels(source, "r"), read_csv(source / SQUARES)
    shape = (count, *pixels.shape[1:])
    out = np.lib.format.open_memmap(target / PIXELS, mode="w+", dtype=np.uint8, shape=shape)
    chosen = places(len(rows), count)
    for start in range(0, count, 256):
        out[start : start + 256] = pixels[chosen[start : start + 256]]
    write_csv(target / SQUARES, list(rows[0]), (list(rows[place].values()) for place in chosen))


def write_files(raw: Path, folder: Path, split: str | None = None) -> None:
    """Write every picture as a file below its split, or the one given, and its class, as timm reads them."""
    source = Packed(raw)
    for place, row in enumerate(source.rows):
        target = folder / (split or row["split"]) / f"{int(row['label']):03d}"
        target.mkdir(parents=True, exist_ok=True)
        (target / f"{place:06d}.jpg").write_bytes(source[place])


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    os.symlink(source.resolve(), target)
