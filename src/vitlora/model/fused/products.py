"""The MLP's two wide products, with GELU, or its slope, done where the result is made.

By itself GELU reads and writes the widest tensors of a step once more. Here each program makes tile after tile of the
result; operands and results travel by Hopper's tensor memory accelerator, which also minds the borders. Nothing is
added up by two programs: equal inputs give equal bits. Where the kernel doesn't fit, PyTorch's two passes take its
place. (Gluon's warp-specialised kernels were up to a tenth faster on a Hopper card, but its interface is experimental.)
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# ruff: noqa: RET505
# What Triton compiles has no Python types; of constant conditions it skips a branch, but never what follows a return.

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional
from triton.tools.tensor_descriptor import TensorDescriptor

from vitlora.model.fused.launch import Kernel, is_measured, is_only_compiling

STEP = 8  # numbers in half precision of 16 bytes, by which rows must lie apart for the accelerator
MANY_ROWS = 32_768  # between 8,224 rows, where FEW is faster, and 100,864, where MANY is


@dataclass(frozen=True)
class Tuning:
    """How the result is cut up.

    Attributes:
        columns: Of a tile; it has 128 rows, and 64 of the common side are multiplied at a time.
        piece: Columns that are finished and stored at a time.
        programs: For each multiprocessor of the card.
        flat: Whether the next tile's first loads start while this one is finished.
    """

    columns: int
    piece: int
    programs: int
    flat: bool


MANY = Tuning(columns=256, piece=128, programs=1, flat=True)
FEW = Tuning(columns=128, piece=64, programs=2, flat=False)
ROWS, DEPTH, WARPS, STAGES = 128, 64, 8, 3  # in both


def fits(width: int, hidden: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether the kernel takes a product between as many numbers, on a card it was measured on."""
    half = dtype in (torch.float16, torch.bfloat16) or device.type == "cpu"
    return half and width % STEP == 0 and hidden % STEP == 0 and is_measured(device)


@triton.jit
def _below(t):
    """Return the normal distribution's part below -t: exp2 of a polynomial, within 4e-6 of it for t of 0 to 5.75."""
    p = t * -4.72640782e-08 - 8.33487327e-07
    p = p * t + 5.31164443e-05
    p = p * t - 0.000893879353
    p = p * t + 0.00842258212
    p = p * t - 0.0538563418
    p = p * t - 0.458522832
    p = p * t - 1.15123965
    return tl.exp2(p * t - 0.999995597)


@triton.jit
def _gelu(h):
    # Beyond 5.75, GELU lies within 3e-8 of 0 or h. NaN and infinities pass through the first term.
    t = tl.minimum(tl.abs(h), 5.75)
    return 0.5 * (h + tl.abs(h)) - t * _below(t)


@triton.jit
def _slope(h):
    # The density's factor is not clamped: NaN stays NaN, and an infinity gives NaN, as PyTorch's does.
    t = tl.abs(h)
    r = _below(tl.minimum(t, 5.75)) - t * tl.exp2(h * h * -0.7213475204444817 - 1.3257480647361593)
    return tl.where(h < 0, r, 1.0 - r)


@triton.jit
def _place(tile, rows, columns, block_m: tl.constexpr, block_n: tl.constexpr):
    """Return where a tile starts. Eight rows of tiles are walked together, so that both operands stay in L2."""
    wide = 8 * tl.cdiv(columns, block_n)
    first = tile // wide * 8
    high = tl.minimum(tl.cdiv(rows, block_m) - first, 8)
    inside = tile % wide
    return (first + inside % high) * block_m, inside // high * block_n


@triton.jit
def _piece(x, number: tl.constexpr, count: tl.constexpr):
    """Return one of ``count`` (a power of two) equal runs of columns."""
    if count == 1:
        return x
    else:
        height: tl.constexpr = x.shape[0]
        half: tl.constexpr = x.shape[1] // 2
        low, high = tl.split(tl.permute(tl.reshape(x, (height, 2, half)), (0, 2, 1)))
        if number < count // 2:
            return _piece(low, number, count // 2)
        else:
            return _piece(high, number - count // 2, count // 2)


@triton.jit
def _finish(value, row, column, h, out, bias, columns, forward: tl.constexpr, keep: tl.constexpr, piece: tl.constexpr):
    """Store a piece of the result, given the product."""
    if forward:
        cols = column + tl.arange(0, piece)
        value += tl.load(bias + cols, cols < columns, 0.0).to(tl.float32)[None, :]
        before = value.to(out.dtype)
        if keep:
            h.store([row, column], before)
        out.store([row, column], _gelu(before.to(tl.float32)).to(out.dtype))
    else:
        slope = _slope(h.load([row, column]).to(tl.float32))
        out.store([row, column], (value * slope).to(out.dtype))


@Kernel
def _multiply(
    x,
    weight,
    h,
    out,
    bias,
    rows,
    columns,
    depth,
    forward: tl.constexpr,
    keep: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    piece: tl.constexpr,
    flat: tl.constexpr,
):
    tiles = tl.cdiv(rows, block_m) * tl.cdiv(columns, block_n)
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=flat):
        row, column = _place(tile, rows, columns, block_m, block_n)
        total = tl.zeros((block_m, block_n), tl.float32)
        for k in range(0, depth, block_k):
            if forward:
                total = tl.dot(x.load([row, k]), weight.load([column, k]).T, total)
            else:
                total = tl.dot(x.load([row, k]), weight.load([k, column]), total)
        for i in tl.static_range(block_n // piece):
            _finish(
                _piece(total, i, block_n // piece), row, column + i * piece, h, out, bias, columns, forward, keep, piece
            )


@cache
def _multiprocessors(device: torch.device) -> int:
    return 2 if device.type == "cpu" else torch.cuda.get_device_properties(device).multi_processor_count


def _start(x: Tensor, weight: Tensor, h: Tensor, out: Tensor, bias: Tensor | None, keep: bool) -> None:
    (rows, depth), columns = x.shape, out.shape[1]
    # A last batch may have fewer rows, so both ways are compiled before the first step.
    for tuning in (MANY, FEW) if is_only_compiling() else (MANY if rows >= MANY_ROWS else FEW,):
        of_weight = [tuning.columns, DEPTH] if bias is not None else [DEPTH, tuning.columns]
        blocks = ([ROWS, DEPTH], of_weight, [ROWS, tuning.piece], [ROWS, tuning.piece])
        described = map(TensorDescriptor.from_tensor, (x, weight, h, out), blocks)
        tiles = triton.cdiv(rows, ROWS) * triton.cdiv(columns, tuning.columns)
        _multiply[(min(tiles, tuning.programs * _multiprocessors(x.device)),)](
            *described, out if bias is None else bias, rows, columns, depth, bias is not None, keep, ROWS,
            tuning.columns, DEPTH, tuning.piece, tuning.flat, num_warps=WARPS, num_stages=STAGES,
        )  # fmt: skip


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor, keep: bool) -> tuple[Tensor | None, Tensor]:
    """Return h = x weightᵀ + bias, (M, H), and GELU of h as it is stored, (M, H).

    Args:
        x: (M, D).
        weight: (H, D).
        bias: (H,).
        keep: Whether there will be a way back; otherwise h may be None.
    """
    hidden, width = weight.shape
    if not fits(width, hidden, x.dtype, x.device):
        h = functional.linear(x, weight, bias)
        return h, functional.gelu(h)
    out = x.new_empty(len(x), hidden)
    h = torch.empty_like(out) if keep else out
    _start(x, weight, h, out, bias, keep)
    return h if keep else None, out


def times_slope(grad: Tensor, weight: Tensor, h: Tensor) -> Tensor:
    """Return GELU's gradient (M, H) where a product follows it: (grad weight) · gelu'(h).

    The product is not rounded before it is multiplied, as it is in two passes.

    Args:
        grad: Of the product, (M, D).
        weight: The product's, (D, H).
        h: What GELU was taken of, (M, H).
    """
    width, hidden = weight.shape
    if not fits(width, hidden, grad.dtype, grad.device):
        product = grad @ weight
        return torch.ops.aten.gelu_backward.grad_input(product, h, grad_input=product)  # type: ignore[no-any-return]
    out = torch.empty_like(h)
    _start(grad, weight, h, out, None, keep=False)
    return out
