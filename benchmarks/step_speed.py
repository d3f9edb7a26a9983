"""The training step and the evaluation pass alone: ViT-B/16, LoRA r=16 on query and value, synthetic bytes.

Each way runs in turn in one process: PEFT under autocast, the same with each layer compiled, and fused.
Reports images/s, ms, spread, MFU (71.4 GFLOP an image for training, 35.1 for evaluation, over the matrix rate measured
here), peak memory, and seconds to the first step. Last, the evaluate stage's scoring pass over squares in memory, end
to end: copies to the device, normalisation, the merged model in fp16, logits back.

    PYTHONPATH=src python benchmarks/step_speed.py --batches 128 512 --out benchmarks/results/step_speed.json
"""

import argparse
import gc
import json
import statistics
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from common import host
from peft import LoraConfig, get_peft_model
from transformers import ViTConfig, ViTForImageClassification

from vitlora.model.base import Normalisation
from vitlora.model.fused.backbone import fuse
from vitlora.model.inference import score
from vitlora.storage.squares import Squares

TRAIN_GFLOP, EVAL_GFLOP = 71.4, 35.1
MEAN = STD = [0.5, 0.5, 0.5]
SQUARES = 10_000


def main() -> None:
    """Time every way at every batch size; print a line and write all rows after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--ways", nargs="+", default=["eager", "compiled", "fused"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    ceilings = {"matrix_tflops": matrix_rate(), "copy_tb_per_s": copy_rate()}
    print(ceilings, flush=True)
    rows = []
    for way in [*args.ways, "score"]:
        for batch in args.batches:
            rows += [scored(batch, args)] if way == "score" else measure(way, batch, args, ceilings["matrix_tflops"])
            if args.out:
                args.out.write_text(json.dumps({"rows": rows, **ceilings, **host()}, indent=1) + "\n")
            gc.collect()
            torch.cuda.empty_cache()


def matrix_rate() -> float:
    """Return TFLOP/s of an 8192³ product of random float16 numbers, the best of a few batches of ten."""
    a, b = (torch.randn(8192, 8192, dtype=torch.float16, device="cuda") for _ in range(2))
    seconds = min(timed(lambda: [a @ b for _ in range(10)]) for _ in range(6))
    return round(10 * 2 * 8192**3 / seconds / 1e12, 1)


def copy_rate() -> float:
    """Return TB/s of copies of 8 GB, bytes read plus written."""
    source = torch.empty(2**33, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return round(2 * 2**33 / min(timed(lambda: target.copy_(source)) for _ in range(5)) / 1e12, 2)


def timed(work) -> float:
    """Return seconds on the device."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def build(dropout: float):
    """Return the recipe's PEFT model with random weights on the device."""
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(num_labels=101))
    lora = LoraConfig(
        r=16, lora_alpha=16, lora_dropout=dropout, target_modules=["q_proj", "v_proj"], modules_to_save=["classifier"]
    )
    return get_peft_model(model, lora).cuda()


def measure(way: str, batch: int, args: argparse.Namespace, matrix_tflops: float) -> list[dict]:
    """Return one row for training and one for evaluation."""
    torch.cuda.reset_peak_memory_stats()
    model = build(args.dropout).train()
    core = model.get_base_model()
    if way == "fused":
        fuse(model, MEAN, STD, 224, torch.float16)
    if way == "compiled":
        for layer in core.vit.layers:
            layer.compile(dynamic=False)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    scaler = torch.amp.GradScaler()
    images = torch.randint(0, 256, (batch, 3, 224, 224), dtype=torch.uint8, device="cuda")
    labels = torch.randint(0, 101, (batch,), device="cuda")

    def inputs() -> torch.Tensor:
        return images if way == "fused" else images.float().div_(255).sub_(0.5).div_(0.5)

    def step() -> None:
        with torch.autocast("cuda", torch.float16):
            loss = model(pixel_values=inputs(), labels=labels).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimiser)
        scaler.update()
        optimiser.zero_grad()

    def forward() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.float16):
            model(pixel_values=inputs())

    rows = [row(way, "train", batch, step, TRAIN_GFLOP, matrix_tflops, args)]
    if args.profile:
        profile(step)
    model.eval()
    torch.cuda.reset_peak_memory_stats()
    rows.append(row(way, "eval", batch, forward, EVAL_GFLOP, matrix_tflops, args))
    return rows


def row(
    way: str, what: str, batch: int, work, gflop: float, matrix_tflops: float, args: argparse.Namespace
) -> dict[str, object]:
    """Warm up, time ``repeats`` runs of ``steps``, print and return the figures."""
    start = time.perf_counter()
    timed(work)
    first = time.perf_counter() - start
    timed(lambda: [work() for _ in range(10)])
    rates = sorted(batch * args.steps / timed(lambda: [work() for _ in range(args.steps)]) for _ in range(args.repeats))
    rate = statistics.median(rates)
    figures = {
        "way": way,
        "what": what,
        "batch": batch,
        "step_images_per_s": round(rate),
        "lowest": round(rates[0]),
        "highest": round(rates[-1]),
        "step_ms": round(1000 * batch / rate, 2),
        "mfu": round(rate * gflop / 1000 / matrix_tflops, 3),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "first_step_s": round(first, 1),
    }
    print(json.dumps(figures), flush=True)
    return figures


def scored(batch: int, args: argparse.Namespace) -> dict[str, object]:
    """Time ``score`` over 10,000 squares, each time with a model of its own, as the evaluate stage has it."""
    images = np.random.default_rng(0).integers(0, 256, (SQUARES, 3, 224, 224), np.uint8)
    squares = Squares(images, np.zeros(SQUARES, np.int64), [""] * SQUARES, [""] * SQUARES)
    rates = []
    for _ in range(1 + args.repeats):
        model = build(0.0).merge_and_unload().eval()
        start = time.perf_counter()
        score(model, squares, Normalisation(MEAN, STD), batch, "fp16")
        rates.append(SQUARES / (time.perf_counter() - start))
    rates = sorted(rates[1:])  # the first compiles kernels
    figures = {
        "way": "score",
        "what": "eval",
        "batch": batch,
        "score_images_per_s": round(statistics.median(rates)),
        "lowest": round(rates[0]),
        "highest": round(rates[-1]),
    }
    print(json.dumps(figures), flush=True)
    return figures


def profile(step) -> None:
    """Print where one step's device time goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    with record(activities=[ProfilerActivity.CUDA]) as recorded:
        step()
        torch.cuda.synchronize()
    events = sorted(recorded.key_averages(), key=lambda event: -event.self_device_time_total)
    total = sum(event.self_device_time_total for event in events) / 1000
    print(f"{total:8.2f} ms in {sum(event.count for event in events)} kernels")
    for event in events[:28]:
        print(f"{event.self_device_time_total / 1000:8.2f} ms {event.count:5d} {event.key[:110]}")


if __name__ == "__main__":
    main()
