"""The model card that travels with an exported model."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

TEXT = """\
---
{front}---
# Image classifier of {count} classes

A {base} fine-tuned with method `{method}` ({settings}){merged}. Accuracy {accuracy:.4f} on
{images:,} test images that played no part in training or in choosing the epoch.

{usage}`model.onnx` gives {same} from `pixel_values`, float32 (batch, 3, {size}, {size}): the picture's shorter side
scaled to {size} px ({interpolation}), the centre cut out, divided by 255, minus {mean}, over {std}.
`vitlora.json` holds class names and preprocessing.

Classes: {classes}
"""
USAGE = """\
```python
from transformers import pipeline

pipeline("image-classification", model="models/export")("picture.jpg")
```

"""
MIXED = """\
A mixture is no one set of weights: a gate weighs the adapters anew for every part of a picture. So it can't be merged
into a model that transformers loads; `vitlora predict` and onnxruntime run it whole.

"""


def write_card(path: Path, right: int, images: int, bundle: Mapping[str, Any]) -> None:
    """Write README.md with front matter as the Hub reads it.

    Args:
        path: Of the card.
        right: Test images classified rightly.
        images: All test images.
        bundle: vitlora.json of the adapter.
    """
    mixed = bundle["method"].get("name") == "xlora"
    front = yaml.safe_dump(
        {
            "library_name": "onnx" if mixed else "transformers",
            "pipeline_tag": "image-classification",
            "tags": ["lora", "vit", "vitlora"],
        },
        sort_keys=True,
    )
    settings = {**bundle["method"]["settings"], "layers": ", ".join(bundle["method"]["layers"]) or "none of its own"}
    text = TEXT.format(
        front=front,
        count=len(bundle["class_names"]),
        base=bundle["base"]["model_type"],
        method=bundle["method"]["name"],
        settings="; ".join(f"{key} {value}" for key, value in settings.items()),
        merged="" if mixed else " and merged",
        usage=MIXED if mixed else USAGE,
        same="the logits" if mixed else "the same logits",
        accuracy=right / images,
        images=images,
        size=bundle["image_size"],
        interpolation=bundle["interpolation"],
        mean=bundle["image_mean"],
        std=bundle["image_std"],
        classes=html.escape(", ".join(bundle["class_names"]), quote=False),  # a card is shown as a web page
    )
    path.write_text(text, encoding="utf-8")
