r"""What bases of 0.3 to 7 billion weights take on one GPU: memory and images/s, as they are and with less memory.

    PYTHONPATH=src python benchmarks/large_bases.py --out benchmarks/results/large_bases.json

Weights are random: speed and memory are those of trained ones. Every row is the train stage's optimiser step with the
preset food101 (LoRA r=16 on query and value, fp16) on synthetic bytes, the median of five runs; loading photographs is
left out, which such models don't wait for. ``--cases`` are model:images of a step:way, the way ``full``,
``checkpointing`` (train.activation_checkpointing), ``4bit`` (train.load_in_4bit, which needs bitsandbytes) or
``4bit+checkpointing``.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from captured import CLASSES, GREY, HERE, RUNS, SIZE, optimiser_step, rate
from common import host
from ruamel.yaml import YAML
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig, ViTForImageClassification

from vitlora.core.files import write_json
from vitlora.core.params import load_params
from vitlora.model.adapters import add_adapter
from vitlora.model.four_bits import pack
from vitlora.train.params import TrainStage
from vitlora.train.step import install


def vit(tiny: bool, **values: int) -> Any:
    """Return a ViT of these sizes."""
    return ViTForImageClassification(ViTConfig(num_labels=CLASSES, **{**values, **(TINY if tiny else {})}))


def giant(tiny: bool) -> Any:
    """Return DINOv3's 7B in width, depth and gated MLP; itself has no class for classification in transformers."""
    values = {"hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32, "mlp_ratio": 3}
    values |= {"use_swiglu_ffn": True, "patch_size": 16, "image_size": SIZE, "num_labels": CLASSES}
    return Dinov2ForImageClassification(Dinov2Config(**{**values, **(TINY if tiny else {})}))


TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
HUGE = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "intermediate_size": 5120}
MODELS: dict[str, Callable[[bool], Any]] = {
    "ViT-L/16": lambda tiny: vit(tiny, **LARGE),
    "ViT-H/14": lambda tiny: vit(tiny, **HUGE, patch_size=14),
    "DINOv2 7B/16": giant,
}
WAYS = {
    "full": {},
    "checkpointing": {"activation_checkpointing": True},
    "4bit": {"load_in_4bit": True},
    "4bit+checkpointing": {"load_in_4bit": True, "activation_checkpointing": True},
}


class Case(NamedTuple):
    """A model, the images of a step, and what saves memory."""

    model: str
    images: int
    way: str


def main() -> None:
    """Run every case; print and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cases = [Case(model, 64, way) for model in MODELS for way in WAYS]
    parser.add_argument("--cases", type=case, nargs="+", default=cases)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    parser.add_argument("--tiny", action="store_true", help="two small layers, to try every path out")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {"host": host(), "px": SIZE, "precision": "fp16", "rows": []}
    for each in args.cases:
        began = time.perf_counter()
        try:
            row = {**each._asdict(), **measure(each, args.seconds, args.tiny)}
        except torch.cuda.OutOfMemoryError as error:
            row = {**each._asdict(), "failed": str(error).splitlines()[0]}
        row["took_s"] = round(time.perf_counter() - began, 1)
        result["rows"].append(row)
        write_json(args.out, result)
        print(row, flush=True)
        gc.collect()
        torch.cuda.empty_cache()


def case(text: str) -> Case:
    """Read a case as the command line has it."""
    model, _, rest = text.partition(":")
    images, _, way = rest.partition(":")
    if model not in MODELS or not images.isdecimal() or way not in WAYS:
        raise argparse.ArgumentTypeError(f"got {text}; the rule: one of {', '.join(MODELS)}, images, {', '.join(WAYS)}")
    return Case(model, int(images), way)


def measure(each: Case, seconds: float, tiny: bool) -> dict[str, Any]:
    """Return a case's readings; memory is all that the device has in use at the end, which keeps its peak."""
    preset = HERE.parent / "presets" / "food101.yaml"
    document = YAML(typ="safe").load(preset)
    document["lora"] |= {"modules_to_save": ["classifier"]}
    document["train"] |= WAYS[each.way]
    stage = load_params(TrainStage, document, preset)
    torch.manual_seed(0)
    with torch.device("cuda"):
        classifier = MODELS[each.model](tiny)
    weights = sum(weight.numel() for weight in classifier.parameters())
    if stage.train.load_in_4bit:
        pack(classifier.cpu(), ["classifier"], SIZE)
        gc.collect()
        torch.cuda.empty_cache()
    fresh = [name for name, _ in classifier.named_parameters() if name.startswith("classifier.")]
    adapted = add_adapter(classifier, fresh, stage.lora, 10_000).model.to("cuda").train()
    way = install(adapted, stage.train, "fp16", GREY, SIZE)
    data = {
        "pixel_values": torch.randint(0, 256, (each.images, 3, SIZE, SIZE), dtype=torch.uint8, device="cuda"),
        "labels": torch.randint(0, CLASSES, (each.images,), device="cuda"),
    }
    optimise = optimiser_step(adapted, way.takes_bytes, way.captured)
    rate(optimise, data, 0.05)
    rates = sorted(rate(optimise, data, seconds) for _ in range(RUNS))
    free, total = torch.cuda.mem_get_info()
    return {
        "billion_weights": round(weights / 1e9, 2),
        "step": way.step,
        "captured": bool(optimise.capture),
        "images_per_s": round(statistics.median(rates), 1),
        "lowest": round(rates[0], 1),
        "highest": round(rates[-1], 1),
        "gpu_gib": round((total - free) / 2**30, 1),
    }


if __name__ == "__main__":
    main()
