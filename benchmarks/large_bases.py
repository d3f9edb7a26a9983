r"""What bases of 0.3 to 7 billion weights take on one GPU: memory and images/s, as they are and with less memory.

    PYTHONPATH=src python benchmarks/large_bases.py --packed data/prepared/train --squares data/prepared/val \
        --labels data/prepared/labels.json --out large_bases.json

Weights are random: speed and memory are those of trained ones. Every row is the train stage's own command in a folder
of its own, with the preset food101 (LoRA r=16 on query and value, fp16). The first epoch pays for start-up and is left
out. ``--cases`` are model:images of a step:way, the way ``full``, ``checkpointing`` (train.activation_checkpointing),
``4bit`` (train.load_in_4bit, which needs bitsandbytes) or ``4bit+checkpointing``.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import host
from peers import prepare
from stage_run import run_stage, share, take_photographs

from vitlora.core.files import write_json
from vitlora.storage.manifest import write_manifest

MODELS = {
    "ViT-L/16": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
    "ViT-H/14": {
        "hidden_size": 1280,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "intermediate_size": 5120,
        "patch_size": 14,
    },
    # DINOv3's 7B in width, depth and gated MLP; DINOv3 itself has no class for image classification in transformers.
    "DINOv2 7B/16": {
        "hidden_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 32,
        "mlp_ratio": 3,
        "use_swiglu_ffn": True,
        "patch_size": 16,
        "image_size": 224,
    },
}
WAYS = {
    "full": {},
    "checkpointing": {"activation_checkpointing": True},
    "4bit": {"load_in_4bit": True},
    "4bit+checkpointing": {"load_in_4bit": True, "activation_checkpointing": True},
}
CASES = [f"{model}:64:{way}" for model in MODELS for way in WAYS]
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}


class Case(NamedTuple):
    """A model, the images of a step, and what saves memory."""

    model: str
    images: int
    way: str


def main() -> None:
    """Run every case; print and save after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=case, nargs="+", default=[case(text) for text in CASES])
    take_photographs(parser, train_images=512, val_images=64)
    args = parser.parse_args()
    result: dict[str, Any] = {"host": host(), "train_images": args.train_images, "rows": []}
    inputs = share(args)
    for each in args.cases:
        base = args.work.resolve() / each.model.replace("/", "-").replace(" ", "-")
        if not base.exists():
            began = time.perf_counter()
            weights = random_base(base, each.model, args.tiny)
            print(
                f"{each.model}: {weights / 1e9:.2f} billion weights in {time.perf_counter() - began:.0f} s", flush=True
            )
        changes = {
            "per_device_train_batch_size": each.images,
            "per_device_eval_batch_size": each.images,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": args.epochs,
            "num_processes": 1,
            **WAYS[each.way],
        }
        folder = args.work.resolve() / f"{base.name}-{each.images}-{each.way}"
        row = {**each._asdict(), **run_stage(folder, {**inputs, "base": base}, changes, args.timeout)}
        shutil.rmtree(folder)
        result["rows"].append(row)
        write_json(args.out, result)
        print(brief(row), flush=True)


def case(text: str) -> Case:
    """Read a case as the command line has it."""
    model, _, rest = text.partition(":")
    images, _, way = rest.partition(":")
    if model not in MODELS or not images.isdecimal() or way not in WAYS:
        raise argparse.ArgumentTypeError(f"got {text}; the rule: one of {', '.join(MODELS)}, images, {', '.join(WAYS)}")
    return Case(model, int(images), way)


def random_base(folder: Path, model: str, tiny: bool) -> int:
    """Save a base with random weights in half precision, made on the GPU where there is one; return their number."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    torch.manual_seed(0)
    values = {**MODELS[model], **(TINY if tiny else {})}
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        if model.startswith("DINOv2"):
            made: Any = Dinov2Model(Dinov2Config(**values))
        else:
            made = ViTModel(ViTConfig(**values), add_pooling_layer=False)
    made.half().save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", prepare.processor(224))
    write_manifest(folder)
    return sum(weights.numel() for weights in made.parameters())


def brief(row: dict[str, Any]) -> str:
    """Return a row as a line."""
    what = f"{row['model']}, {row['images']} images a step, {row['way']}"
    if "failed" in row:
        return f"{what}: failed with {row['exit']}: {row['failed'][-600:]}"
    rate = row["train_images_per_s"]
    return (
        f"{what}: {rate['median']:,.1f} images/s ({rate['min']:,.1f} to {rate['max']:,.1f}), GPU "
        f"{row['peak_gpu_gib']} GiB, host {row['peak_host_pss_gib']} GiB, start and end {row['start_up_and_end_s']} s"
    )


if __name__ == "__main__":
    main()
