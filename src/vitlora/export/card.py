"""The model card that travels with an exported model."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

TEMPLATE = Path(__file__).with_suffix(".md")
TASK = "image-classification"


def write_card(path: Path, right: int, images: int, seen: int | None, bundle: Mapping[str, Any]) -> None:
    """Write README.md with front matter as the Hub reads it, the accuracy among it.

    Args:
        path: Of the card.
        right: Test images classified rightly.
        images: All test images.
        seen: Of them, how many the adapter has met before; None if it doesn't say.
        bundle: vitlora.json of the adapter.
    """
    mixed, accuracy = bundle["method"].get("name") == "xlora", right / images
    data = ModelCardData(
        library_name="onnx" if mixed else "transformers",
        pipeline_tag=TASK,
        tags=["lora", "vit", "vitlora"],
        model_name="vitlora",
        eval_results=[
            EvalResult(
                task_type=TASK,
                dataset_type="imagefolder",
                dataset_name="test images of this pipeline",
                dataset_split="test",
                metric_type="accuracy",
                metric_value=accuracy,
            )
        ],
    )
    settings = {**bundle["method"]["settings"], "layers": ", ".join(bundle["method"]["layers"]) or "none of its own"}
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        bundle=bundle,
        mixed=mixed,
        settings="; ".join(f"{key} {value}" for key, value in settings.items()),
        accuracy=accuracy,
        images=images,
        seen=seen,
        classes=html.escape(", ".join(bundle["class_names"]), quote=False),  # a card is shown as a web page
    )
    card.save(path)
