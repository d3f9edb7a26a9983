"""What this device can do at best: a large matrix product, and on a GPU a copy within its memory."""

import statistics
import time

import torch


def measure(tiny: bool) -> dict[str, object]:
    """Return TFLOP/s of a product of random square matrices and TB/s of a copy, read plus written."""
    if torch.cuda.is_available():
        return {
            "product": "8192^3, fp16, random data",
            "tflop_per_s": round(_product(8192, torch.float16, "cuda", 30), 1),
            "copy": "8 GB within the GPU, bytes read and written",
            "tb_per_s": round(_copy(8_000_000_000, 10), 3),
        }
    side = 512 if tiny else 2048
    return {
        "product": f"{side}^3, fp32, random data, {torch.get_num_threads()} threads",
        "tflop_per_s": round(_product(side, torch.float32, "cpu", 5), 4),
    }


def _product(side: int, kind: torch.dtype, device: str, repeats: int) -> float:
    left, right = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3 / _seconds(lambda: torch.mm(left, right, out=out), device, repeats) / 1e12


def _copy(size: int, repeats: int) -> float:
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), "cuda", repeats) / 1e12


def _seconds(work, device: str, repeats: int) -> float:
    """Return the median of single runs after three that warm up."""
    taken = []
    for turn in range(repeats + 3):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if turn >= 3:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)
