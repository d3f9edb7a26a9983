"""The MLP's two wide products with GELU, or its slope, in the kernel against PyTorch's two passes.

Every contestant is captured as a CUDA graph of twelve calls, as a step is, so that starting them from Python doesn't
count; graphs take turns, times are medians of their replays. Small inputs are there several times, so that they don't
wait in the cache for the next call. The kernel is measured as it is cut up for many rows and for few, whatever
products.MANY_ROWS says, and the row says which of them a step takes. TFLOP/s count the product only. Errors are the
largest, against float64, over the first rows. ``evaluate`` is the forward product without h,
for which two passes do as much as forward.

    PYTHONPATH=src python benchmarks/products.py --out benchmarks/results/products.json
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from common import host
from torch import Tensor
from torch.nn import functional

from vitlora.model.fused import products
from vitlora.model.fused.launch import only_compiling
from vitlora.model.fused.products import linear_gelu, times_slope

# Rows (images x tokens), D and H: ViT-B/16 and ViT-S/14 with 512, 128 and 32 images.
SHAPES = [
    *[(100864, 768, 3072), (25216, 768, 3072), (6304, 768, 3072)],
    *[(131584, 384, 1536), (32896, 384, 1536), (8224, 384, 1536)],
]
KIND = {"dtype": torch.float16, "device": "cuda"}
CALLS = 12
CACHE = 200e6  # bytes, more than L2 holds
CHECKED = 4096  # rows
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
Way = Callable[[Inputs], object]


def main() -> None:
    """Measure every shape, print, and write all rows after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with only_compiling():
        for _, width, hidden in SHAPES:
            for way in (forward, evaluate, backward):
                way(inputs_of(1, width, hidden))
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        rows += measure(*shape, args.repeats)
        if args.out:
            args.out.write_text(json.dumps({"rows": rows, **host()}, indent=1) + "\n")


def inputs_of(rows: int, width: int, hidden: int) -> Inputs:
    """Return x or a gradient (rows, D), fc1 (H, D), its bias, fc2 (D, H) and h (rows, H), random."""
    x, h, bias = torch.randn(rows, width, **KIND), torch.randn(rows, hidden, **KIND), torch.randn(hidden, **KIND)
    fc1, fc2 = (torch.randn(shape, **KIND) * 1.7 / width**0.5 for shape in ((hidden, width), (width, hidden)))
    return x, fc1, bias * 0.3, fc2, h * 1.7


def forward(inputs: Inputs) -> tuple[Tensor | None, Tensor]:
    """Return h and its GELU."""
    x, fc1, bias, _, _ = inputs
    return linear_gelu(x, fc1, bias, keep=True)


def evaluate(inputs: Inputs) -> Tensor:
    """Return h's GELU alone."""
    x, fc1, bias, _, _ = inputs
    return linear_gelu(x, fc1, bias, keep=False)[1]


def backward(inputs: Inputs) -> Tensor:
    """Return the gradient of h."""
    grad, _, _, fc2, h = inputs
    return times_slope(grad, fc2, h)


def pytorch_forward(inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Do ``forward`` in two passes."""
    x, fc1, bias, _, _ = inputs
    h = functional.linear(x, fc1, bias)
    return h, functional.gelu(h)


def pytorch_backward(inputs: Inputs) -> Tensor:
    """Do ``backward`` in two passes."""
    grad, _, _, fc2, h = inputs
    product = grad @ fc2
    return torch.ops.aten.gelu_backward.grad_input(product, h, grad_input=product)


def cut_for(many: bool, way: Way, inputs: Inputs) -> object:
    """Run the kernel as it is cut up for many rows or for few."""
    kept = products.MANY_ROWS
    products.MANY_ROWS = 0 if many else 2**62
    try:
        return way(inputs)
    finally:
        products.MANY_ROWS = kept


def measure(rows: int, width: int, hidden: int, repeats: int) -> list[dict[str, object]]:
    """Return a row for each contestant, printed, and print errors."""
    torch.manual_seed(0)
    copies = min(CALLS, 1 + int(CACHE / (4 * rows * hidden)))  # two bytes, two wide tensors
    sets = [inputs_of(rows, width, hidden) for _ in range(copies)]
    ways: dict[tuple[str, str], Way] = {
        ("forward", "two passes"): pytorch_forward,
        ("backward", "two passes"): pytorch_backward,
    }
    for name, way in (("forward", forward), ("evaluate", evaluate), ("backward", backward)):
        ways |= {(name, cut): partial(cut_for, cut == "many", way) for cut in ("many", "few")}
    times = medians([captured(way, sets) for way in ways.values()], repeats)
    taken = "many" if rows >= products.MANY_ROWS else "few"
    found = []
    for (name, way_name), ms in zip(ways, times, strict=True):
        row: dict[str, object] = {"rows": rows, "width": width, "hidden": hidden, "product": name, "way": way_name}
        row |= {"taken": way_name == taken, "ms": round(ms, 4), "tflops": round(2e-9 * rows * width * hidden / ms)}
        found.append(row)
        print(json.dumps(row), flush=True)
    print(json.dumps(errors(sets[0])), flush=True)
    return found


def captured(way: Way, sets: list[Inputs]) -> torch.cuda.CUDAGraph:
    """Return a graph of CALLS calls, whose inputs take turns."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        way(sets[0])  # what is loaded or chosen at a first call can't be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for call in range(CALLS):
            way(sets[call % len(sets)])
    graph.replay()
    return graph


def medians(graphs: list[torch.cuda.CUDAGraph], repeats: int) -> list[float]:
    """Return ms of one call in each graph."""
    times: list[list[float]] = [[] for _ in graphs]
    for _ in range(repeats):
        for graph, taken in zip(graphs, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end) / CALLS)
    return [statistics.median(taken) for taken in times]


def errors(inputs: Inputs) -> dict[str, str]:
    """Return how far the kernel's and PyTorch's results lie from float64's."""
    x, fc1, bias, fc2, h = inputs
    few = (x[:CHECKED], fc1, bias, fc2, h[:CHECKED])
    exact = few[0].double() @ fc1.double().T + bias.double()
    leaf = few[4].double().requires_grad_()
    gradient = torch.autograd.grad(functional.gelu(leaf), leaf, few[0].double() @ fc2.double())[0]
    ours, theirs = (*forward(few), backward(few)), (*pytorch_forward(few), pytorch_backward(few))
    return {
        name: " against ".join(f"{(part - want).abs().max():.1e}" for part in (mine, other))
        for name, mine, other, want in zip(
            ("h", "GELU", "gradient"), ours, theirs, (exact, functional.gelu(exact), gradient), strict=True
        )
    }


if __name__ == "__main__":
    main()
