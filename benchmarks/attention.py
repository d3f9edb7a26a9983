"""The fused step's attention alone against PyTorch's, forward and backward, and which way to cut it up is fastest.

Inputs lie as in a step: q, k and v side by side in rows of tokens. Times are the best of several runs of ten; TFLOP/s
count what softmax(q kᵀ) v needs, 4 · tokens² · size a head forward and 10 backward, so nothing that is done twice or in
vain. Errors are distances from float32's result over its length. Configurations are block, piece, warps, stages.

    PYTHONPATH=src python benchmarks/attention.py --out benchmarks/results/attention.json
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from common import host
from torch import Tensor
from torch.nn import functional

from vitlora.model.fused.attention import TUNINGS, Tuning, Tunings, attend, attend_backward
from vitlora.model.fused.launch import only_compiling

SHAPES = [(512, 12, 197), (32, 12, 197), (512, 6, 257), (32, 6, 257)]  # images, heads, tokens
SIZE = 64
TRIED = {
    "forward": [(64, 64, 4, 1), (64, 128, 4, 1), (64, 128, 4, 2), (64, 256, 4, 1), (128, 128, 8, 1), (128, 128, 8, 2)],
    "grad_q": [(64, 32, 4, 1), (64, 64, 4, 1), (64, 64, 4, 2), (64, 128, 4, 1), (128, 64, 8, 1), (128, 128, 8, 1)],
    "grad_kv": [
        *[(64, 16, 4, 1), (64, 32, 4, 1), (64, 32, 4, 2), (64, 32, 4, 3), (64, 64, 4, 1), (64, 64, 4, 2)],
        *[(128, 32, 8, 1), (128, 64, 8, 1), (128, 64, 8, 2), (128, 128, 8, 1)],
    ],
}


def main() -> None:
    """Measure every shape, print, and write all rows after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for images, heads, tokens in SHAPES:
        rows += measure(images, heads, tokens, args.repeats)
        if args.out:
            args.out.write_text(json.dumps({"rows": rows, **host()}, indent=1) + "\n")


def measure(images: int, heads: int, tokens: int, repeats: int) -> list[dict[str, object]]:
    """Return one row for PyTorch's and one for each configuration of each kernel."""
    torch.manual_seed(0)
    width = heads * SIZE
    q_k_v = torch.randn(images * tokens, 3 * width, dtype=torch.float16, device="cuda").chunk(3, 1)
    into = torch.empty(images * tokens, 3 * width, dtype=torch.float16, device="cuda").chunk(3, 1)
    grad = torch.randn(images * tokens, width, dtype=torch.float16, device="cuda")
    tera = images * heads * tokens**2 * SIZE / 1e12
    parts = [part.view(images, tokens, heads, SIZE).transpose(1, 2).detach().requires_grad_() for part in q_k_v]
    grad_of_heads = grad.view(images, tokens, heads, SIZE).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(*parts)

    def forward() -> None:
        functional.scaled_dot_product_attention(*parts)

    def backward() -> None:
        torch.autograd.grad(mixed, parts, grad_of_heads, retain_graph=True)

    def ours_forward(tunings: Tunings) -> None:
        attend(*q_k_v, images, heads, tunings)

    def ours_backward(tunings: Tunings) -> None:
        attend_backward(*q_k_v, out, lse, grad, into, tunings)

    what = {"images": images, "heads": heads, "tokens": tokens}
    rows = []

    def note(kernel: str, cut: object, work: Callable[[], None], factor: int) -> None:
        try:
            ms = min(timed(work) for _ in range(repeats))
            row = {**what, "kernel": kernel, "cut": cut, "ms": round(ms, 4), "tflops": round(factor * tera / ms * 1000)}
        except Exception as error:  # too much shared memory, for one; the next may fit
            row = {**what, "kernel": kernel, "cut": cut, "failed": str(error).splitlines()[0]}
        print(json.dumps(row), flush=True)
        rows.append(row)

    note("PyTorch forward", None, forward, 4)
    note("PyTorch backward", None, backward, 10)
    out, lse = attend(*q_k_v, images, heads)
    tried = [(kernel, cut, tunings_of(kernel, cut)) for kernel, cuts in TRIED.items() for cut in cuts]
    with only_compiling():
        for kernel, _, tunings in tried:
            (ours_forward if kernel == "forward" else ours_backward)(tunings)
    for kernel, cut, tunings in tried:
        work = ours_forward if kernel == "forward" else ours_backward
        note(kernel, cut, lambda work=work, tunings=tunings: work(tunings), 4 if kernel == "forward" else 10)
    ours_backward(TUNINGS)
    print(errors(parts, mixed, grad_of_heads, out, into), flush=True)
    return rows


def tunings_of(kernel: str, cut: tuple[int, int, int, int]) -> Tunings:
    """Return the defaults with one kernel cut up otherwise; times of grad_q and grad_kv have each other's in them."""
    return replace(TUNINGS, **{kernel: Tuning(*cut)})


def timed(work: Callable[[], None]) -> float:
    """Return ms on the device, the mean of ten runs."""
    work()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(10):
        work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 10


def errors(parts: list[Tensor], mixed: Tensor, grad: Tensor, out: Tensor, into: tuple[Tensor, ...]) -> dict[str, str]:
    """Return how far ours and PyTorch's lie from float32's, over the first eight images."""
    few = [part[:8].detach().float().requires_grad_() for part in parts]
    exact = functional.scaled_dot_product_attention(*few)
    wanted = [exact, *torch.autograd.grad(exact, few, grad[:8].float())]
    theirs = [mixed, *torch.autograd.grad(mixed, parts, grad, retain_graph=True)]
    images, heads, tokens, size = mixed.shape
    ours = [part.view(images, tokens, heads, size).transpose(1, 2) for part in (out, *into)]
    return {
        name: " against ".join(f"{(part[:8] - want).norm() / want.norm():.1e}" for part in (mine, other))
        for name, mine, other, want in zip(("out", "dq", "dk", "dv"), ours, theirs, wanted, strict=True)
    }


if __name__ == "__main__":
    main()
