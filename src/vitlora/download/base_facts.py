"""What a base model says of itself, judged before its weights are fetched, and without torch.

A base is taken where training can do what its files say. What they say in another form than train reads is written in
that form; what train would pass over, or could not do, is refused here with the file, the field and a cure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vitlora.core.errors import VitloraError
from vitlora.core.params import shown
from vitlora.core.text import printable
from vitlora.download.fields import File, is_count, is_number, part, read, three
from vitlora.download.licence import read_licence

CONFIG, PROCESSOR, ADAPTER = "config.json", "preprocessor_config.json", "adapter_config.json"
CARD = "README.md"  # whose front matter names the licence
NESTED = "processor_config.json"  # of transformers 5 for models of pictures and text; the image processor's is inside
FACT_FILES = [CONFIG, PROCESSOR, NESTED, ADAPTER, CARD]

# Kinds of model with an image classifier that takes normalised squares. A test holds them, with those below, against
# transformers' own table; reading that one imports torch.
KINDS = (
    "beit", "bit", "clip", "convnext", "convnextv2", "cvt", "data2vec-vision", "deit", "dinov2",
    "dinov2_with_registers", "donut-swin", "efficientnet", "focalnet", "hgnet_v2", "hiera", "ijepa", "levit",
    "metaclip_2", "mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "poolformer", "pvt", "pvt_v2",
    "regnet", "resnet", "segformer", "siglip", "swiftformer", "swin", "swinv2", "textnet", "vit", "vit_msn",
)  # fmt: skip
ANOTHER = "take a base of another kind, one of " + ", ".join(KINDS)
AS_TIMM = "set model.source: timm"
DINOV3 = "transformers has no classifier for it; timm has, of the same weights: "
# Kinds that people try, and what is in the way.
UNFIT = {
    "dinat": f"it needs the library natten, which is not installed here; {ANOTHER}",
    "imagegpt": f"it reads clusters of colours in place of pictures; {ANOTHER}",
    "perceiver": f"its decoder is made for one number of classes; {ANOTHER}",
    "pp_lcnet": f"its classifier gives no logits; {ANOTHER}",
    "shieldgemma2": f"it reads text beside the picture; {ANOTHER}",
    "siglip2": "it reads rows of patches in place of pictures; SigLIP 2 of a fixed size is of kind siglip, take that",
    "timm_wrapper": f"it is a model of timm: {AS_TIMM}",
    "vit_mae": (
        "its encoder is a vit's: ViTForImageClassification.from_pretrained(FOLDER).save_pretrained(NEW) makes one; "
        f"copy {PROCESSOR} into NEW and set model.path: NEW"
    ),
    "clip_vision_model": "take the whole CLIPModel, of kind clip",
    "siglip_vision_model": "take the whole SiglipModel, of kind siglip",
    "dinov3_vit": f"{DINOV3}timm/vit_small_patch16_dinov3.lvd1689m and its kin, with model.source: timm",
    "dinov3_convnext": f"{DINOV3}timm/convnext_tiny.dinov3_lvd1689m and its kin, with model.source: timm",
}
NESTED_KINDS = ("clip", "metaclip_2", "siglip")  # the picture's side is a part of the config
FLOATS = ("float16", "bfloat16", "float32", "float64")
ATTENTION = ("eager", "sdpa")

# What image processors do where their file doesn't say, if it isn't what all others do.
OWN_DEFAULTS: dict[str, dict[str, Any]] = {
    "EfficientNet": {"include_top": True},
    "MobileViT": {"do_flip_channel_order": True, "do_normalize": False},
    "PPLCNet": {"do_flip_channel_order": True},
}
# Switches that are obeyed, that only move or cut the picture, or that concern labels.
KNOWN_SWITCHES = {
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels", "do_pad",
    "do_thumbnail", "do_align_long_axis",
}  # fmt: skip
RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers
WHOLE = 255  # of a byte, white
ROUNDING = 1e-6


@dataclass(frozen=True)
class Facts:
    """What is known of a base model that can be taken.

    Attributes:
        mean: Per channel, of pixels scaled to 0..1.
        std: Likewise.
        processor: What to write as preprocessor_config.json; None where the file there says it already.
        lines: For the reader: what the base was trained with, and what is set anew.
        side: Of the squares that it was trained at, px; None where its files don't say one.
        interpolation: Name of the filter that its pictures were resized with; likewise.
        config: What to write as config.json; None where the file there is copied.
        licence: As the front matter of a model card has it, if the files say one.
    """

    mean: list[float]
    std: list[float]
    processor: dict[str, Any] | None
    lines: list[str] = field(default_factory=list)
    side: int | None = None
    interpolation: str | None = None
    config: dict[str, Any] | None = None
    licence: dict[str, str] = field(default_factory=dict)


def check_base(folder: Path) -> Facts:
    """Judge a base model by its small JSON files.

    Args:
        folder: With config.json and an image processor's file in any form that transformers' `save_pretrained` has
            written since version 4. The weights need not be there yet.

    Raises:
        VitloraError: Names file, field, what was got, the rule, and a cure.
    """
    config = _read_config(folder)
    kind = _check_kind(config)
    notes = list(_check_config(config))
    picture = config
    if kind in NESTED_KINDS:
        picture = part(config, "vision_config")
        notes += _check_config(picture)
    processor = _read_processor(folder)
    mean, std, written = _normalisation(processor)
    lines = [_described(kind, picture, processor), *notes]
    own = (_own_side(picture, processor), _filter(processor))
    return Facts(mean, std, written, lines, *own, licence=read_licence(folder))


# config.json


def _read_config(folder: Path) -> File:
    if not (folder / CONFIG).is_file():
        raise VitloraError(f"model.path: {folder} has no {CONFIG}; {_why_no_config(folder)}")
    return read(folder / CONFIG)


def _why_no_config(folder: Path) -> str:
    if (folder / ADAPTER).is_file():
        name = read(folder / ADAPTER).get("base_model_name_or_path")
        meant = f'the model that it belongs to, "{printable(str(name))}"' if name else "the model that it belongs to"
        return f"the rule: a whole model, and this is a PEFT adapter ({ADAPTER}); set model.path to {meant}"
    rule = "the rule: a folder that save_pretrained wrote"
    inner = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    return f"{rule}; {inner[-1]} has one: set model.path to it" if inner else rule


def _check_kind(config: File) -> str:
    kind = config.get("model_type")
    if kind is None and ("architecture" in config.content or "pretrained_cfg" in config.content):
        raise config.refusal(
            "architecture", "a model of transformers, with its model_type; this is timm's form", AS_TIMM
        )
    if kind is None:
        raise VitloraError(
            f"model.path: {config.path}: no model_type; the rule: one of {', '.join(KINDS)}; add it, such as "
            '"model_type": "vit", if you know what it is'
        )
    if kind in KINDS and isinstance(kind, str):
        return kind
    rule = (
        f"an image classifier in transformers {version('transformers')} that takes squares and needs no other library"
    )
    raise config.refusal("model_type", rule, UNFIT.get(str(kind), ANOTHER))


def _check_config(config: File) -> Iterator[str]:
    """Refuse fields that training can't go by; yield a note on those that it sets anew."""
    _refuse_code(config)
    if config.get("quantization_config") is not None:
        raise config.refusal(
            "quantization_config", f"weights in {', '.join(FLOATS)}", "take the model that it was quantised from"
        )
    for key in ("dtype", "torch_dtype"):
        if isinstance(config.get(key), str) and config.get(key) not in FLOATS:
            cure = f"remove {key}: weights are read in their own type and trained in float32"
            raise config.refusal(key, ", ".join(FLOATS), cure)
    for key in ("attn_implementation", "_attn_implementation"):
        if config.get(key) is not None and config.get(key) not in ATTENTION:
            raise config.refusal(key, ", ".join(ATTENTION), f"remove {key}: it changes speed only")
    for key, kinds in {"id2label": dict, "label2id": dict, "num_labels": int}.items():
        if not isinstance(config.get(key), kinds | None):
            raise config.refusal(key, "as save_pretrained writes it", f"remove {key}: the head and its classes are new")
    _check_sides(config)
    loss = config.get("problem_type")
    if loss == "single_label_classification" and 1 in (len(config.get("id2label") or ()), config.get("num_labels")):
        raise config.refusal(
            "problem_type", "two labels or more", "remove problem_type: the head and its classes are new"
        )
    if loss not in (None, "single_label_classification"):
        yield (
            f"note: {config.path.name} has problem_type {printable(shown(loss))}, which was its old head's; the new "
            "head is trained with cross entropy, one class a picture"
        )


def _refuse_code(file: File) -> None:
    if file.get("auto_map"):
        raise file.refusal(
            "auto_map", "no code but that of transformers, and none that a model brings is run",
            "if transformers' own class of this model_type is what it was trained with, remove auto_map",
        )  # fmt: skip


def _check_sides(config: File) -> None:
    channels = config.get("num_channels", 3)
    if not is_count(channels) or channels != 3:
        raise config.refusal(
            "num_channels", "3, red, green and blue", "take a base that was trained on colour pictures"
        )
    for key in ("image_size", "patch_size"):
        value = config.get(key)
        sides = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
        if value is not None and not (sides and all(map(is_count, sides))):
            raise config.refusal(key, "a whole number of pixels, at least 1", "fetch the file anew")
        if len(set(sides)) > 1 and key == "image_size":
            raise config.refusal(
                key, "a square, as all pictures here become", "take a base that was trained on squares"
            )


# The image processor


def _read_processor(folder: Path) -> File:
    """Find the image processor's settings in the order of transformers: those inside processor_config.json first."""
    if (folder / NESTED).is_file():
        inner = part(read(folder / NESTED), "image_processor")
        if inner.content:
            return inner
    if not (folder / PROCESSOR).is_file():
        raise VitloraError(
            f"model.path: {folder} has no {PROCESSOR}, nor an image_processor in {NESTED}; the rule: mean and std that "
            f'it was trained with; write {PROCESSOR} with them, such as {{"image_mean": [0.5, 0.5, 0.5], "image_std": '
            "[0.5, 0.5, 0.5]}"
        )
    return read(folder / PROCESSOR)


def _normalisation(processor: File) -> tuple[list[float], list[float], dict[str, Any] | None]:
    """Express all that the processor does to a pixel as one mean and std of pixels scaled to 0..1.

    It computes (byte · factor - offset - mean) / std. Dividing by 255 · factor above and below leaves the form that
    train reads.

    Returns:
        Mean, std, and the settings to write: None where the file says just this.
    """
    _refuse_code(processor)
    known = _with_defaults(processor)
    _refuse_switches(processor, known)
    mean, std = [0.0] * 3, [1.0] * 3
    if known["do_normalize"]:
        mean, std = three(processor, "image_mean"), three(processor, "image_std")
    factor, offset = _scale(processor, known)
    if known.get("include_top"):  # of EfficientNet: divides by std once more
        std = [value * value for value in std]
    span = WHOLE * factor
    carried = span if abs(span - 1) > ROUNDING else 1.0
    mean = [(value + offset) / carried for value in mean]
    std = [value / carried for value in std]
    _check_range(processor, known, mean, std)
    given = [processor.get("image_mean"), processor.get("image_std")]
    as_read = given == [mean, std] and not processor.inside
    return mean, std, None if as_read else {"image_mean": mean, "image_std": std}


def _with_defaults(processor: File) -> dict[str, Any]:
    """Return the settings, with what the processor's class takes where one isn't named."""
    name = str(processor.get("image_processor_type") or processor.get("feature_extractor_type"))
    own = next((values for kind, values in OWN_DEFAULTS.items() if name.startswith(kind)), {})
    return {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / WHOLE, **own, **processor.content}


def _refuse_switches(processor: File, known: Mapping[str, Any]) -> None:
    switches = {key: value for key, value in known.items() if key.startswith("do_")}
    for key, value in {**switches, **{key: known.get(key) for key in ("rescale_offset", "include_top")}}.items():
        if not isinstance(value, bool | None):
            raise processor.refusal(key, "true or false, without quotes", "write it so")
        if value and key in switches and key not in KNOWN_SWITCHES:
            raise processor.refusal(
                key, "pictures go in as RGB, scaled and normalised, and nothing else is done to them",
                f"set {key}: false if the base was trained without it, else take another base", value,
            )  # fmt: skip


def _scale(processor: File, known: Mapping[str, Any]) -> tuple[float, float]:
    """Return what the processor multiplies a byte by, and what it then subtracts."""
    if not known["do_rescale"]:
        return 1.0, 0.0
    factor = known["rescale_factor"]
    if not is_number(factor) or factor <= 0:
        raise processor.refusal("rescale_factor", "a number above 0", f"set rescale_factor: {1 / WHOLE}, the usual one")
    return float(factor), float(bool(known.get("rescale_offset")))


def _check_range(processor: File, known: Mapping[str, Any], mean: list[float], std: list[float]) -> None:
    """Refuse numbers of one scale beside a switch of the other: such pixels lie far from all that was trained on."""
    if all(0 <= value <= 1 + ROUNDING for value in mean) and all(
        (1 - ROUNDING) / WHOLE <= value <= 1 + ROUNDING for value in std
    ):
        return
    pair = {"image_mean": processor.get("image_mean"), "image_std": processor.get("image_std")}
    if known["do_rescale"]:
        rule = "of pixels scaled to 0..1, as do_rescale and rescale_factor do it"
        cure = "divide both by 255, or set do_rescale: false, if they are of pixels of 0..255"
    else:
        rule = "of pixels of 0..255, since do_rescale is false"
        cure = "set do_rescale: true if they are of pixels scaled to 0..1"
    raise processor.refusal("image_mean, image_std", rule, cure, pair)


# For the reader


def _described(kind: str, picture: File, processor: File) -> str:
    """Say what the base was trained with, of all that parameters set here, and how else its squares were made."""
    size = processor.get("size")
    side = _side(picture.get("image_size")) or _side(processor.get("crop_size")) or _side(size)
    trained = ", ".join(said for said in (side, _filter(processor)) if said)
    parts = [f"base model: {kind}"]
    if trained:
        parts[0] += f", trained at {trained} (yours are image.size_px and image.interpolation)"
    if isinstance(size, dict) and "height" in size and not processor.get("do_center_crop"):
        parts.append("its processor squeezed pictures to squares, here the centre square is cut out")
    return "; ".join(parts)


def _side(value: Any) -> str:
    """Return a size as people read it, from a number, a list, or one of the forms of image processors."""
    sides = _sides(value)
    return " x ".join(str(side) for side in dict.fromkeys(sides)) + " px" if sides else ""


def _sides(value: Any) -> list[int]:
    if isinstance(value, dict):
        value = [value[key] for key in ("height", "width", "shortest_edge") if key in value]
    sides = value if isinstance(value, list) else [value]
    return sides if all(map(is_count, sides)) else []


def _own_side(picture: File, processor: File) -> int | None:
    """Return the side in px of the squares that the base was trained at, if its files say one."""
    for value in (picture.get("image_size"), processor.get("crop_size"), processor.get("size")):
        sides = set(_sides(value))
        if len(sides) == 1:
            return sides.pop()
    return None


def _filter(processor: File) -> str | None:
    """Return the name of its resize filter, if the file says one that there is."""
    number = processor.get("resample")
    return RESAMPLE[number] if type(number) is int and 0 <= number < len(RESAMPLE) else None
