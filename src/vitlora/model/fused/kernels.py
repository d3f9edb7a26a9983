"""Triton kernels of the fused training step: what moves memory between the large matrix products.

Rows are tokens: a batch of B images of S tokens is M = B·S rows of D numbers. Sums are in float32 whatever the storage.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# What Triton compiles has no Python types.

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from vitlora.model.fused.launch import Kernel

RANK_STEP = 16  # tl.dot's smallest side; ranks are padded to it with zeros
GROUPS = 48  # row groups of a tall product, at most; summed at the end in a fixed order
LINES = 4  # rows that a program of the norm kernels takes


@triton.jit
def _mix(x):
    """Scatter 32 bits: Mueller's hash with the constants of Wellons' prospector."""
    x = x.to(tl.uint32) * 0x9E3779B1
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    x *= 0x735A2D97
    x ^= x >> 15
    return x


@triton.jit
def _bits(rows, cols, seed, pair):
    """Return 32 random bits for every row and column: two adapters' masks, 16 bits each.

    Rows and columns are scattered by themselves, once each; what is left to do for every element is a short mix.
    """
    x = (_mix(rows + seed) ^ _mix(cols + 0x3C6EF372 * (pair + 1))) * 0x9E3779B1
    x ^= x >> 16
    x *= 0x21F0AAAD
    x ^= x >> 15
    return x


@Kernel
def _add_norm(
    x,
    delta,
    total,
    y,
    mean,
    rstd,
    weight,
    bias,
    rows,
    y_stride,
    eps,
    width: tl.constexpr,
    block: tl.constexpr,
    lines: tl.constexpr,
    add: tl.constexpr,
):
    row = (tl.program_id(0) * lines + tl.arange(0, lines)).to(tl.int64)  # offsets pass 2**31
    col = tl.arange(0, block)
    inside = (row[:, None] < rows) & (col[None, :] < width)
    place = row[:, None] * width + col[None, :]
    value = tl.load(x + place, inside, 0.0)
    if add:
        value = (value.to(tl.float32) + tl.load(delta + place, inside, 0.0).to(tl.float32)).to(value.dtype)
        tl.store(total + place, value, inside)
    value = value.to(tl.float32)
    middle = tl.sum(value, 1) / width
    centred = tl.where(inside, value - middle[:, None], 0.0)
    spread = tl.rsqrt(tl.sum(centred * centred, 1) / width + eps)
    w = tl.load(weight + col, col < width, 0.0).to(tl.float32)
    b = tl.load(bias + col, col < width, 0.0).to(tl.float32)
    tl.store(y + row[:, None] * y_stride + col[None, :], centred * spread[:, None] * w + b, inside)
    tl.store(mean + row, middle, row < rows)
    tl.store(rstd + row, spread, row < rows)


def add_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, y: Tensor
) -> tuple[Tensor, ...]:
    """Add a branch to the residual stream and normalise each row.

    Args:
        x: (M, D), the stream.
        delta: (M, D), what to add, or None.
        weight: (D,).
        bias: (D,).
        eps: Added to the variance.
        y: (M, >= D), gets the normalised rows in its first D columns.

    Returns:
        The new stream (M, D), and mean and reciprocal standard deviation of its rows, float32 (M,).
    """
    rows, width = x.shape
    total = x if delta is None else torch.empty_like(x)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    block = triton.next_power_of_2(width)
    _add_norm[(triton.cdiv(rows, LINES),)](
        x, x if delta is None else delta, total, y, mean, rstd, weight, bias, rows, y.stride(0), eps, width, block,
        LINES, delta is not None,
    )  # fmt: skip
    return total, mean, rstd


@Kernel
def _norm_backward(
    dy, dy_stride, x, mean, rstd, weight, grad, rows, width: tl.constexpr, block: tl.constexpr, lines: tl.constexpr
):
    row = (tl.program_id(0) * lines + tl.arange(0, lines)).to(tl.int64)
    col = tl.arange(0, block)
    inside = (row[:, None] < rows) & (col[None, :] < width)
    place = row[:, None] * width + col[None, :]
    g = tl.load(dy + row[:, None] * dy_stride + col[None, :], inside, 0.0).to(tl.float32)
    g *= tl.load(weight + col, col < width, 0.0).to(tl.float32)
    spread = tl.load(rstd + row, row < rows, 0.0)[:, None]
    middle = tl.load(mean + row, row < rows, 0.0)[:, None]
    unit = tl.where(inside, (tl.load(x + place, inside, 0.0).to(tl.float32) - middle) * spread, 0.0)
    along, level = tl.sum(g * unit, 1) / width, tl.sum(g, 1) / width
    change = spread * (g - level[:, None] - unit * along[:, None])
    tl.store(grad + place, tl.load(grad + place, inside, 0.0).to(tl.float32) + change, inside)


def norm_backward(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, grad: Tensor) -> None:
    """Add to ``grad`` (M, D), in place, the gradient of ``add_norm``'s stream that comes through its y.

    Args:
        dy: (M, >= D), gradient of y.
        x: (M, D), the stream that ``add_norm`` returned.
        mean: float32 (M,).
        rstd: float32 (M,).
        weight: (D,).
        grad: (M, D), what reaches the stream from elsewhere.
    """
    rows, width = x.shape
    block = triton.next_power_of_2(width)
    _norm_backward[(triton.cdiv(rows, LINES),)](
        dy, dy.stride(0), x, mean, rstd, weight, grad, rows, width, block, LINES
    )  # fmt: skip


class Dropout:
    """Dropout of LoRA's inputs, drawn where it is used and drawn again in the backward pass, never stored.

    Each of the adapters on one input has its own mask, as PEFT's have.

    Attributes:
        seeds: int32, one a layer, on the device.
        threshold: Of 65,536; an input is dropped where its 16 random bits are below.
        scale: Of what is kept.
    """

    def __init__(self, p: float, seeds: Tensor) -> None:
        self.seeds = seeds
        self.threshold = round(p * 65536)
        self.scale = 1 / (1 - self.threshold / 65536)

    def kept(self, layer: int, slot: int, rows: int, width: int) -> Tensor:
        """Return the mask, bool (rows, width), as the kernels draw it; for tests and to look at."""
        numbers = torch.arange(max(rows, width), dtype=torch.int64, device=self.seeds.device)
        row = _mix_reference(numbers[:rows] + self.seeds[layer])
        col = _mix_reference(numbers[:width] + 0x3C6EF372 * (slot // 2 + 1))
        x = _times(row[:, None] ^ col[None, :], 0x9E3779B1)
        x = _times(x ^ (x >> 16), 0x21F0AAAD)
        return ((x ^ (x >> 15)) >> 16 * (slot % 2) & 0xFFFF) >= self.threshold


def _times(x: Tensor, factor: int) -> Tensor:
    return (x & 0xFFFFFFFF) * factor & 0xFFFFFFFF


def _mix_reference(x: Tensor) -> Tensor:
    x = _times(x, 0x9E3779B1)
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):
        x = _times(x ^ (x >> shift), factor)
    return x ^ (x >> 15)


@Kernel
def _lora_down(
    xh,
    stride,
    a,
    seeds,
    layer,
    rows,
    threshold,
    scale,
    width: tl.constexpr,
    rank: tl.constexpr,
    slots: tl.constexpr,
    drop: tl.constexpr,
    block_m: tl.constexpr,
    block_k: tl.constexpr,
):
    pair = tl.program_id(0)
    row = tl.program_id(1) * block_m + tl.arange(0, block_m)
    far = row[:, None].to(tl.int64) * stride
    r = tl.arange(0, rank)
    seed = tl.load(seeds + layer)
    high = threshold.to(tl.uint32) << 16  # comparing whole words compares their upper halves
    first = tl.zeros((block_m, rank), tl.float32)
    second = tl.zeros((block_m, rank), tl.float32)
    for start in range(0, width, block_k):
        col = start + tl.arange(0, block_k)
        x = tl.load(xh + far + col[None, :], (row[:, None] < rows) & (col[None, :] < width), 0.0)
        kept = x
        if drop:
            bits = _bits(row[:, None], col[None, :], seed, pair)
            kept = tl.where((bits & 0xFFFF) >= threshold, x, 0.0)
        down = a + (2 * pair * rank + r[None, :]) * width + col[:, None]
        first = tl.dot(kept, tl.load(down, col[:, None] < width, 0.0), first)
        if slots > 1:
            if drop:
                kept = tl.where(bits >= high, x, 0.0)
            there = (col[:, None] < width) & (2 * pair + 1 < slots)
            second = tl.dot(kept, tl.load(down + rank * width, there, 0.0), second)
    place = far + width + 2 * pair * rank + r[None, :]
    tl.store(xh + place, first * scale, row[:, None] < rows)
    if slots > 1:
        tl.store(xh + place + rank, second * scale, (row[:, None] < rows) & (2 * pair + 1 < slots))


def lora_down(xh: Tensor, a: Tensor, dropout: Dropout, layer: int) -> None:
    """Write ``dropout(x) @ a[slot].T`` for every slot into the columns of ``xh`` behind x.

    Args:
        xh: (M, D + slots · R); its first D columns are x.
        a: (slots, R, D), R a multiple of ``RANK_STEP``.
        dropout: Of this step.
        layer: Which of its seeds.
    """
    slots, rank, width = a.shape
    _lora_down[((slots + 1) // 2, triton.cdiv(len(xh), 128))](
        xh, xh.stride(0), a, dropout.seeds, layer, len(xh), dropout.threshold, dropout.scale, width, rank, slots,
        dropout.threshold > 0, 128, 64,
    )  # fmt: skip


@Kernel
def _lora_input_grad(
    dxh,
    stride,
    a,
    seeds,
    layer,
    rows,
    threshold,
    scale,
    width: tl.constexpr,
    rank: tl.constexpr,
    slots: tl.constexpr,
    drop: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    row = tl.program_id(1) * block_m + tl.arange(0, block_m)
    col = tl.program_id(0) * block_n + tl.arange(0, block_n)
    r = tl.arange(0, rank)
    inside = (row[:, None] < rows) & (col[None, :] < width)
    place = row[:, None].to(tl.int64) * stride
    seed = tl.load(seeds + layer)
    total = tl.zeros((block_m, block_n), tl.float32)
    for slot in tl.static_range(slots):
        dh = tl.load(dxh + place + width + slot * rank + r[None, :], row[:, None] < rows, 0.0)
        down = tl.load(a + (slot * rank + r[:, None]) * width + col[None, :], col[None, :] < width, 0.0)
        change = tl.dot(dh, down)
        if drop:
            if slot % 2 == 0:
                bits = _bits(row[:, None], col[None, :], seed, slot // 2)
                change = tl.where((bits & 0xFFFF) >= threshold, change, 0.0)
            else:
                change = tl.where(bits >= (threshold.to(tl.uint32) << 16), change, 0.0)
        total += change
    dx = tl.load(dxh + place + col[None, :], inside, 0.0).to(tl.float32)
    tl.store(dxh + place + col[None, :], dx + total * scale, inside)


def lora_input_grad(dxh: Tensor, a: Tensor, dropout: Dropout, layer: int) -> None:
    """Add to the first D columns of ``dxh`` (tokens, D + ranks), in place, what reaches x through those behind them."""
    slots, rank, width = a.shape
    _lora_input_grad[(triton.cdiv(width, 128), triton.cdiv(len(dxh), 64))](
        dxh, dxh.stride(0), a, dropout.seeds, layer, len(dxh), dropout.threshold, dropout.scale, width, rank, slots,
        dropout.threshold > 0, 64, 128,
    )  # fmt: skip


@Kernel
def _tall_product(
    h,
    h_stride,
    y,
    y_stride,
    out,
    seeds,
    layer,
    rows,
    threshold,
    groups,
    width: tl.constexpr,
    rank: tl.constexpr,
    slots: tl.constexpr,
    drop: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
):
    group, pair = tl.program_id(1), tl.program_id(2)
    col = tl.program_id(0) * block_n + tl.arange(0, block_n)
    r = tl.arange(0, rank)
    first = tl.zeros((rank, block_n), tl.float32)
    second = tl.zeros((rank, block_n), tl.float32)
    seed, high = 0, 0
    if drop:
        seed, high = tl.load(seeds + layer), threshold.to(tl.uint32) << 16
    for start in range(group * block_m, rows, groups * block_m):
        row = start + tl.arange(0, block_m)
        inside = (row[:, None] < rows) & (col[None, :] < width)
        value = tl.load(y + row[:, None].to(tl.int64) * y_stride + col[None, :], inside, 0.0)
        left = h + row[None, :].to(tl.int64) * h_stride + 2 * pair * rank + r[:, None]
        kept = value
        if drop:
            bits = _bits(row[:, None], col[None, :], seed, pair)
            kept = tl.where((bits & 0xFFFF) >= threshold, value, 0.0)
        first = tl.dot(tl.load(left, row[None, :] < rows, 0.0), kept, first)
        if slots > 1:
            if drop:
                kept = tl.where(bits >= high, value, 0.0)
            there = (row[None, :] < rows) & (2 * pair + 1 < slots)
            second = tl.dot(tl.load(left + rank, there, 0.0), kept, second)
    place = ((group * slots + 2 * pair) * rank + r[:, None]) * width + col[None, :]
    tl.store(out + place, first, col[None, :] < width)
    if slots > 1:
        tl.store(out + place + rank * width, second, (col[None, :] < width) & (2 * pair + 1 < slots))


def tall_product(h: Tensor, y: Tensor, slots: int, rank: int, dropout: Dropout | None = None, layer: int = 0) -> Tensor:
    """Return ``h[slot].T @ y`` for every slot, summed over all rows in a fixed order.

    Args:
        h: (M, slots · R).
        y: (M, D).
        slots: How many products.
        rank: R.
        dropout: If given, it is applied to y, each slot's own mask.
        layer: Which of its seeds.

    Returns:
        float32 (slots, R, D).
    """
    rows, width = y.shape
    groups = min(GROUPS, triton.cdiv(rows, 64))
    out = torch.empty(groups, slots, rank, width, dtype=torch.float32, device=y.device)
    seeds, threshold, scale = (out, 0, 1.0) if dropout is None else (dropout.seeds, dropout.threshold, dropout.scale)
    _tall_product[(triton.cdiv(width, 128), groups, (slots + 1) // 2)](
        h, h.stride(0), y, y.stride(0), out, seeds, layer, rows, threshold, groups, width, rank, slots, threshold > 0,
        64, 128,
    )  # fmt: skip
    return out.sum(0).mul_(scale)


@Kernel
def _patches(
    images,
    by_image,
    by_channel,
    by_row,
    by_column,
    out,
    mean,
    std,
    height,
    width,
    out_stride,
    patch: tl.constexpr,
    block: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)  # of (image, channel, y)
    y = line % height
    channel = line // height % 3
    image = line // (height * 3)
    x = tl.arange(0, block)
    pixel = image * by_image + channel * by_channel + y * by_row + x * by_column
    value = tl.load(images + pixel, x < width, 0).to(tl.float32)
    value = (value / 255.0 - tl.load(mean + channel)) / tl.load(std + channel)
    place = image * (height // patch) * (width // patch) + y // patch * (width // patch) + x // patch
    column = channel * patch * patch + y % patch * patch + x % patch
    tl.store(out + place * out_stride + column, value, x < width)


def patches(images: Tensor, mean: Tensor, std: Tensor, patch: int, dtype: torch.dtype) -> Tensor:
    """Normalise images and lay their patches out as rows, so that the patch embedding is a matrix product.

    Args:
        images: uint8 (N, 3, H, W), in any memory order.
        mean: float32 (3,), of pixels scaled to 0..1.
        std: Likewise.
        patch: Side of a patch, px; H and W are multiples of it.
        dtype: Of the result.

    Returns:
        (N · patches, 3 · patch² padded with zeros to a multiple of 8), the order of a convolution's weight.
    """
    count, _, height, width = images.shape
    columns = 3 * patch * patch
    padded = -(-columns // 8) * 8
    rows = count * (height // patch) * (width // patch)
    make: Any = torch.empty if padded == columns else torch.zeros
    out: Tensor = make(rows, padded, dtype=dtype, device=images.device)
    _patches[(count * 3 * height,)](
        images, *images.stride(), out, mean, std, height, width, out.stride(0), patch, triton.next_power_of_2(width)
    )
    return out
