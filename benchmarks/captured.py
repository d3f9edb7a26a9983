"""The optimiser step alone, captured as a CUDA graph or not: every method, small batches, ViT-S and ViT-B.

Each row is a model with random weights on synthetic bytes at 224 px in fp16: images/s of steps that follow one another
as in training, the median of five runs with the lowest and the highest, once as it is (kernels launched one by one) and
once captured. The first rows are LoRA r=16 on query and value, fused and as PEFT's modules, for several batch sizes.

    PYTHONPATH=src python benchmarks/captured.py --out benchmarks/results/captured.json
"""

import argparse
import contextlib
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from common import host
from methods import ROWS
from ruamel.yaml import YAML
from transformers import Dinov2Config, Dinov2ForImageClassification, ViTConfig, ViTForImageClassification

from vitlora.core.params import load_params
from vitlora.model.adapters import add_adapter
from vitlora.model.base import Normalisation
from vitlora.train.callbacks import Ranks
from vitlora.train.optimise import OptimiserStep
from vitlora.train.params import TrainStage
from vitlora.train.step import install

HERE = Path(__file__).resolve().parent
CLASSES, SIZE, RUNS = 101, 224, 5
GREY = Normalisation([0.5] * 3, [0.5] * 3)
MODELS = {
    "ViT-S/14": lambda: Dinov2ForImageClassification(
        Dinov2Config(hidden_size=384, num_attention_heads=6, patch_size=14, image_size=SIZE, num_labels=CLASSES)
    ),
    "ViT-B/16": lambda: ViTForImageClassification(ViTConfig(num_labels=CLASSES)),
}


def main() -> None:
    """Measure row after row; print and save each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 512])
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(ROWS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seconds", type=float, default=0.3, help="of each run")
    args = parser.parse_args()
    result: dict[str, Any] = {"host": host(), "px": SIZE, "precision": "fp16", "rows": []}
    for model in args.models:
        for step in ("fused", "eager"):
            for batch in args.batches:
                add(result, args, model, "lora", batch, step)
    for method in args.methods:
        if method != "lora":
            add(result, args, "ViT-S/14", method, 32, "fused")


def add(result: dict[str, Any], args: argparse.Namespace, model: str, method: str, batch: int, step: str) -> None:
    """Measure a row and write all that there are."""
    row: dict[str, Any] = {"model": model, "method": method, "batch": batch}
    try:
        row |= measure(model, method, batch, step, args.seconds)
    except Exception as error:  # a row that fails says why, and the next is measured
        row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    result["rows"].append(row)
    print(json.dumps(row), flush=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    gc.collect()
    torch.cuda.empty_cache()


def measure(model: str, method: str, batch: int, step: str, seconds: float) -> dict[str, Any]:
    """Return a row's readings: not captured first, so that what a capture keeps does not count against it."""
    document = YAML(typ="safe").load(HERE.parent / "presets" / "food101.yaml")
    document["lora"] |= {"modules_to_save": ["classifier"], **ROWS[method][1]}
    document["train"] |= {"step": step}
    stage = load_params(TrainStage, document, HERE.parent / "presets" / "food101.yaml")
    torch.manual_seed(0)
    classifier = MODELS[model]()
    fresh = [name for name, _ in classifier.named_parameters() if name.startswith("classifier.")]
    adapted = add_adapter(classifier, fresh, stage.lora, 10_000).model.to("cuda")
    way = install(adapted, stage.train, "fp16", GREY, SIZE)
    data = {
        "pixel_values": torch.randint(0, 256, (batch, 3, SIZE, SIZE), dtype=torch.uint8, device="cuda"),
        "labels": torch.randint(0, CLASSES, (batch,), device="cuda"),
    }
    row: dict[str, Any] = {"step": way.step, "note": way.note}
    for captured in (False, True):
        optimise = optimiser_step(adapted, way.takes_bytes, captured)
        start = time.perf_counter()
        rate(optimise, data, 0.05)
        first = time.perf_counter() - start
        torch.cuda.reset_peak_memory_stats()
        rates = sorted(rate(optimise, data, seconds) for _ in range(RUNS))
        row["captured" if captured else "not_captured"] = {
            "images_per_s": round(statistics.median(rates)),
            "lowest": round(rates[0]),
            "highest": round(rates[-1]),
            "ms": round(1000 * batch / statistics.median(rates), 2),
            "main_thread_ms": round(main_thread(optimise, data), 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
            "ready_s": round(first, 1),
        }
        if captured and not optimise.capture:
            row["captured"] = None
    if row["captured"]:
        row["times"] = round(row["captured"]["images_per_s"] / row["not_captured"]["images_per_s"], 2)
    return row


def optimiser_step(model: Any, takes_bytes: bool, captured: bool) -> OptimiserStep:
    """Return what runs the train stage's steps, without its Trainer."""

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pixels = batch["pixel_values"] if takes_bytes else GREY(batch["pixel_values"])
        with torch.autocast("cuda", torch.float16):
            found: torch.Tensor = model(pixel_values=pixels, labels=batch["labels"]).loss
        return found

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    ranks = Ranks(model) if hasattr(getattr(model, "base_model", None), "rankallocator") else None
    return OptimiserStep(model, optimizer, torch.amp.GradScaler(), loss, 1.0, ranks, captured)


def rate(optimise: OptimiserStep, batch: dict[str, torch.Tensor], seconds: float) -> float:
    """Return images/s."""
    number, start = 0, time.perf_counter()
    while number < 4 or time.perf_counter() - start < seconds:
        optimise(number, [batch])
        for _ in optimise.finished(1):
            number += 1
    for _ in optimise.finished(0):
        number += 1
    return len(batch["labels"]) * number / (time.perf_counter() - start)


def main_thread(optimise: OptimiserStep, batch: dict[str, torch.Tensor]) -> float:
    """Return the milliseconds of the processor that the main thread spends on a step, waiting left out."""
    spent = time.thread_time()
    for number in range(10):
        optimise(number, [batch])
        with contextlib.suppress(StopIteration):
            next(optimise.finished(1))
    spent = time.thread_time() - spent
    for _ in optimise.finished(0):
        pass
    return 1000 * spent / 10


if __name__ == "__main__":
    main()
