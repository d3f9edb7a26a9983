"""The fused step's attention alone against PyTorch's, forward and backward, and which way to cut it up is fastest.

Inputs lie as in a step: q, k and v side by side in rows of tokens. Ten calls are captured as one CUDA graph, as a step
is, so that starting them from Python doesn't count; times are of the fastest of several replays. TFLOP/s count what
softmax(q kᵀ) v needs, 4 · tokens² · size a head forward and 10 backward, so nothing that is done twice or in vain.
Errors are distances from float32's result over its length. Configurations are block, piece, warps, stages; ``programs``
is attention.ENOUGH. All kernels are compiled first, side by side.

    PYTHONPATH=src python benchmarks/attention.py --out benchmarks/results/attention.json
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from common import host
from torch import Tensor
from torch.nn import functional

from vitlora.model.fused import attention
from vitlora.model.fused.attention import TUNINGS, Parts, Tuning, Tunings, attend, attend_backward
from vitlora.model.fused.launch import only_compiling

SHAPES = [(512, 12, 197), (32, 12, 197), (512, 6, 257), (32, 6, 257)]  # images, heads, tokens
SIZE = 64
DEVICE = "cuda"
CALLS = 10
TRIED = {
    "forward": [
        *[(64, 64, 4, 1), (64, 64, 4, 2), (64, 128, 4, 1), (64, 128, 4, 2), (64, 128, 4, 3)],
        *[(128, 64, 8, 1), (128, 128, 8, 1), (128, 128, 8, 2)],
    ],
    "grad_q": [(64, 64, 4, 2), (64, 128, 4, 1), (64, 128, 4, 2), (128, 128, 8, 2)],
    "grad_kv": [(64, 64, 4, 1), (64, 32, 4, 1), (64, 64, 4, 2), (128, 64, 8, 1)],
}
PROGRAMS = [512, 1024, 2048]  # differ only where images are few
PRODUCTS = {"forward": 4, "backward": 10, "both": 14}  # · tokens² · size


def main() -> None:
    """Measure every shape, print, and write all rows after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with only_compiling():
        for _, heads, tokens in SHAPES:
            compile_all(Case.of(1, heads, tokens))  # the number of images changes no kernel
    rows: list[dict[str, object]] = []
    for images, heads, tokens in SHAPES:
        rows += measure(Case.of(images, heads, tokens), args.repeats)
        if args.out:
            args.out.write_text(json.dumps({"rows": rows, **host()}, indent=1) + "\n")


@dataclass(frozen=True)
class Case:
    """Inputs of attention, float16, and room for gradients.

    Attributes:
        q_k_v: Each (images · tokens, heads · SIZE), in one row of three.
        into: Likewise, for their gradients.
        grad: The result's gradient.
        out: A result, which the way back needs, and ``lse`` its sums.
        parts: q, k and v as PyTorch takes them, (images, heads, tokens, SIZE).
    """

    images: int
    heads: int
    tokens: int
    q_k_v: Parts
    into: Parts
    grad: Tensor
    out: Tensor
    lse: Tensor
    parts: list[Tensor]

    @classmethod
    def of(cls, images: int, heads: int, tokens: int) -> "Case":
        """Make one of random numbers."""
        torch.manual_seed(0)
        rows, width = images * tokens, heads * SIZE
        kind = {"dtype": torch.float16, "device": DEVICE}
        q, k, v = torch.randn(rows, 3 * width, **kind).chunk(3, 1)
        dq, dk, dv = torch.empty(rows, 3 * width, **kind).chunk(3, 1)
        out, lse = attend(q, k, v, images, heads)
        parts = [part.view(images, tokens, heads, SIZE).transpose(1, 2).detach().requires_grad_() for part in (q, k, v)]
        grad = torch.randn(rows, width, **kind)
        return cls(images, heads, tokens, (q, k, v), (dq, dk, dv), grad, out, lse, parts)

    def forward(self, tunings: Tunings = TUNINGS) -> None:
        """Go there by the kernels."""
        attend(*self.q_k_v, self.images, self.heads, tunings)

    def backward(self, tunings: Tunings = TUNINGS) -> None:
        """Go back by the kernels."""
        attend_backward(*self.q_k_v, self.out, self.lse, self.grad, self.into, tunings)

    def both(self) -> None:
        """Go there and back by the kernels."""
        self.forward()
        self.backward()

    def heads_of(self, rows: Tensor) -> Tensor:
        """Return rows of tokens as (images, heads, tokens, SIZE)."""
        return rows.view(self.images, self.tokens, self.heads, SIZE).transpose(1, 2)

    def pytorch_forward(self) -> Tensor:
        """Go there by PyTorch's attention."""
        return functional.scaled_dot_product_attention(*self.parts)

    def pytorch_both(self) -> tuple[Tensor, ...]:
        """Go there and back by PyTorch's attention; return the result and the gradients."""
        mixed = self.pytorch_forward()
        return mixed, *torch.autograd.grad(mixed, self.parts, self.heads_of(self.grad))


def compile_all(case: Case) -> None:
    """Compile every configuration."""
    for kernel, cuts in TRIED.items():
        for cut in cuts:
            way(kernel, case)(tunings_of(kernel, cut))


def way(kernel: str, case: Case) -> Callable[[Tunings], None]:
    """Return what runs a kernel; those of the way back run together, so their times have each other's in them."""
    return case.forward if kernel == "forward" else case.backward


def tunings_of(kernel: str, cut: tuple[int, ...]) -> Tunings:
    """Return the defaults with one kernel cut up otherwise."""
    return replace(TUNINGS, **{kernel: Tuning(*cut)})


def measure(case: Case, repeats: int) -> list[dict[str, object]]:
    """Return rows for PyTorch's, for each configuration of each kernel, and for the numbers of programs."""
    work: list[tuple[str, object, Callable[[], object]]] = [
        ("PyTorch forward", None, case.pytorch_forward),
        ("PyTorch both", None, case.pytorch_both),
        ("both", None, case.both),
    ]
    for kernel, cuts in TRIED.items():
        work += [(kernel, cut, partial(way(kernel, case), tunings_of(kernel, cut))) for cut in cuts]
    rows = [note(case, kernel, {"cut": cut}, run, repeats) for kernel, cut, run in work]
    default = attention.ENOUGH
    for programs in PROGRAMS:
        attention.ENOUGH = programs
        rows.append(note(case, "forward", {"programs": programs}, case.forward, repeats))
        rows.append(note(case, "backward", {"programs": programs}, case.backward, repeats))
    attention.ENOUGH = default
    case.backward()
    print(json.dumps(errors(case)), flush=True)
    return rows


def note(
    case: Case, kernel: str, what: dict[str, object], run: Callable[[], object], repeats: int
) -> dict[str, object]:
    """Return one row, printed."""
    row = {"images": case.images, "heads": case.heads, "tokens": case.tokens, "kernel": kernel, **what}
    needed = case.images * case.heads * case.tokens**2 * SIZE / 1e9
    try:
        ms = timed(run, repeats)
        products = PRODUCTS.get(kernel.removeprefix("PyTorch "), PRODUCTS["backward"])
        row |= {"ms": round(ms, 4), "tflops": round(products * needed / ms)}
    except Exception as error:  # too much shared memory, for one; the next may fit
        row |= {"failed": str(error).splitlines()[0]}
    print(json.dumps(row), flush=True)
    return row


def timed(run: Callable[[], object], repeats: int) -> float:
    """Return ms that a call takes on the device, in the fastest replay of a CUDA graph of ten."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()  # what is loaded or chosen at a first call can't be captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        for _ in range(CALLS):
            run()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return min(times)


def errors(case: Case) -> dict[str, str]:
    """Return how far ours and PyTorch's lie from float32's, over the first eight images."""
    few = [part[:8].detach().float().requires_grad_() for part in case.parts]
    exact = functional.scaled_dot_product_attention(*few)
    wanted = [exact, *torch.autograd.grad(exact, few, case.heads_of(case.grad)[:8].float())]
    ours = [case.heads_of(part) for part in (case.out, *case.into)]
    return {
        name: " against ".join(f"{(part[:8] - want).norm() / want.norm():.1e}" for part in (mine, other))
        for name, mine, other, want in zip(("out", "dq", "dk", "dv"), ours, case.pytorch_both(), wanted, strict=True)
    }


if __name__ == "__main__":
    main()
