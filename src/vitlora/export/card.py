"""The model card that travels with an exported model."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from scipy.stats import binomtest

from vitlora.export.params import FILES, Format

TEMPLATE = Path(__file__).with_suffix(".md")
TASK = "image-classification"
TRAINED = {"full": "all weights", "head": "the classifier alone"}  # of methods without adapters


class Unlike(NamedTuple):
    """Pictures that transformers' pipeline reads otherwise than we do: which, what it sees, and the cure in a line."""

    kind: str
    pictures: str
    seen: str
    before: str


UNLIKE = (
    Unlike(
        "alpha",
        "with clear parts (Pillow's modes `LA`, `RGBA`, `P`)",
        "what lies hidden under the clear parts, often black, in place of white",
        'picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))',
    ),
    Unlike(
        "16 bits",
        "16-bit grey (`I;16`, `I;16B`)",
        "nearly all of it white",
        'picture = Image.fromarray((numpy.asarray(picture) / 257 + 0.5).astype("uint8"))',
    ),
    Unlike(
        "other grey",
        "any other grey of more than 8 bits, signed, float or with a clear value (`I`, `F`, TIFF)",
        "most of it white or black",
        "picture = decode(data)",
    ),
    Unlike(
        "cut",
        "whose longer side, scaled, is 3, 7, 11, … px longer than the shorter",
        "a cut that lies one pixel further to the left or the top",
        "picture = Image.fromarray(resize_and_crop(decode(data), {size}, {filter!r}).transpose(1, 2, 0))",
    ),
)
"""The whole list: a test runs all odd pictures through both, and holds it to this."""


def unlike(bundle: Mapping[str, Any]) -> list[Unlike]:
    """Return the list with the model's own size and filter in its lines."""
    size, name = bundle["image_size"], bundle["interpolation"]
    return [each._replace(before=each.before.format(size=size, filter=name)) for each in UNLIKE]


def _form(name: Format, row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "files": ", ".join(f"`{file}`" for file in FILES[name]),
        "megabytes": row["bytes"] / 1e6,
        **row,
    }


def write_card(
    path: Path,
    right: int,
    images: int,
    seen: int | None,
    bundle: Mapping[str, Any],
    checked: int,
    forms: Mapping[Format, Mapping[str, Any]],
) -> None:
    """Write README.md with front matter as the Hub reads it, the accuracy among it.

    Args:
        path: Of the card.
        right: Test images classified rightly.
        images: All test images.
        seen: Of them, how many the adapter has met before; None if it doesn't say.
        bundle: vitlora.json of the exported model.
        checked: Images that the formats were scored on.
        forms: A row for each format, as in metrics/export.json.
    """
    name, accuracy = bundle["method"].get("name"), right / images
    interval = binomtest(right, images).proportion_ci(method="wilson")
    base = bundle["base"]
    data = ModelCardData(
        **base.get("licence", {}),
        base_model=base["id"] if base.get("source") in ("hub", "timm") else None,
        library_name="transformers" if "transformers" in forms else "onnx",
        pipeline_tag=TASK,
        tags=[*([] if name in TRAINED else ["lora"]), "vit", "vitlora"],
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
        forms=[_form(name, row) for name, row in forms.items()],
        checked=checked,
        mixed=name == "xlora",
        merged=name != "xlora" and name not in TRAINED,
        for_transformers="transformers" in forms,
        unlike=unlike(bundle),
        settings=TRAINED.get(name) or "; ".join(f"{key} {value}" for key, value in settings.items()),
        accuracy=accuracy,
        low=interval.low,
        high=interval.high,
        images=images,
        seen=seen,
        classes=html.escape(", ".join(bundle["class_names"]), quote=False),  # a card is shown as a web page
    )
    card.save(path)
