"""Attention over few tokens: all keys of a head fit beside one another, so that softmax is done in one go.

q, k and v are read where the product before left them, side by side in rows of tokens, and their gradients are written
likewise, so that one product takes them on. Nothing is added up by two programs: equal inputs give equal bits.
Where they don't fit, PyTorch's attention takes their place.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,assignment"
# ruff: noqa: RUF005
# What Triton compiles has no Python types, and tuples grow by + only.

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional

from vitlora.model.fused.launch import Kernel, is_measured

HEAD_SIZES = (16, 32, 64)
MOST_TOKENS = 320  # a head's keys and values have to stay on one processor of the card
Parts = tuple[Tensor, Tensor, Tensor]  # q, k and v, or their gradients
ENOUGH = 512  # programs; where images and heads are fewer, several share a head's rows


@dataclass(frozen=True)
class Tuning:
    """How a kernel is cut up.

    Attributes:
        block: Rows that a program goes through at a time.
        piece: Rows of the other side that are multiplied with them at a time.
        warps: 32 threads each.
        stages: Of Triton's pipeline.
    """

    block: int = 64
    piece: int = 64
    warps: int = 4
    stages: int = 1


@dataclass(frozen=True)
class Tunings:
    """How all kernels are cut up."""

    forward: Tuning = Tuning(piece=128, stages=2)
    grad_q: Tuning = Tuning(stages=2)
    grad_kv: Tuning = Tuning()


TUNINGS = Tunings()


def fits(tokens: int, head_size: int, device: torch.device) -> bool:
    """Return whether the kernels take as many tokens an image and numbers a head, on a card they were measured on."""
    return tokens <= MOST_TOKENS and head_size in HEAD_SIZES and is_measured(device)


def pieces(rows: int, largest: int) -> tuple[int, ...]:
    """Cut rows into pieces of ``largest``, and a power of two from 16 that holds the rest.

    >>> pieces(197, 64)
    (64, 64, 64, 16)
    """
    rest = rows % largest
    return (largest,) * (rows // largest) + ((max(16, triton.next_power_of_2(rest)),) if rest else ())


@triton.jit
def _head(pointer, stride, tokens: tl.constexpr, heads: tl.constexpr, size: tl.constexpr):
    """Return where this program's head of its image starts."""
    number = tl.program_id(0).to(tl.int64)
    return pointer + number // heads * tokens * stride + number % heads * size


@triton.jit
def _load(pointer, stride, start, rows: tl.constexpr, count: tl.constexpr, size: tl.constexpr):
    """Load rows of a head, (count, size); zeros where there are none."""
    row = start + tl.arange(0, count)
    return tl.load(pointer + row[:, None] * stride + tl.arange(0, size)[None, :], row[:, None] < rows, 0.0)


@triton.jit
def _store(pointer, stride, start, value, rows: tl.constexpr, count: tl.constexpr, size: tl.constexpr):
    row = start + tl.arange(0, count)
    tl.store(pointer + row[:, None] * stride + tl.arange(0, size)[None, :], value, row[:, None] < rows)


@triton.jit
def _load_all(pointer, stride, rows: tl.constexpr, cuts: tl.constexpr, size: tl.constexpr):
    """Load all rows of a head, in pieces."""
    tiles = ()
    for i in tl.static_range(len(cuts)):
        tiles = tiles + (_load(pointer, stride, i * cuts[0], rows, cuts[i], size),)
    return tiles


@triton.jit
def _scores(x, tile_k, scale, start: tl.constexpr, keys: tl.constexpr, count: tl.constexpr):
    """Multiply rows with a piece of the keys, (rows, count); -inf behind the last key."""
    s = tl.dot(x, tl.trans(tile_k)) * scale
    if start + count > keys:
        s = tl.where((start + tl.arange(0, count))[None, :] < keys, s, float("-inf"))
    return s


@Kernel
def _attend(
    q,
    k,
    v,
    out,
    lse,
    q_stride,
    kv_stride,
    scale,
    queries: tl.constexpr,
    keys: tl.constexpr,
    heads: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    cuts: tl.constexpr,
):
    q, out = _head(q, q_stride, queries, heads, size), _head(out, heads * size, queries, heads, size)
    tile_k = _load_all(_head(k, kv_stride, keys, heads, size), kv_stride, keys, cuts, size)
    tile_v = _load_all(_head(v, kv_stride, keys, heads, size), kv_stride, keys, cuts, size)
    lse = _head(lse, 1, queries, 1, 1)
    for start in range(tl.program_id(1) * block, queries, tl.num_programs(1) * block):
        x = _load(q, q_stride, start, queries, block, size)
        top = tl.full([block], float("-inf"), tl.float32)
        scores = ()
        for i in tl.static_range(len(cuts)):
            s = _scores(x, tile_k[i], scale, i * cuts[0], keys, cuts[i])
            top = tl.maximum(top, tl.max(s, 1))
            scores = scores + (s,)
        total = tl.zeros([block], tl.float32)
        mixed = tl.zeros([block, size], tl.float32)
        for i in tl.static_range(len(cuts)):
            p = tl.exp2(scores[i] - top[:, None])
            total += tl.sum(p, 1)
            mixed = tl.dot(p.to(x.dtype), tile_v[i], mixed)
        _store(out, heads * size, start, mixed / total[:, None], queries, block, size)
        row = start + tl.arange(0, block)
        tl.store(lse + row, top + tl.log2(total), row < queries)


@Kernel
def _grad_q(
    q,
    k,
    v,
    out,
    grad,
    lse,
    delta,
    dq,
    q_stride,
    kv_stride,
    dq_stride,
    scale,
    factor,
    queries: tl.constexpr,
    keys: tl.constexpr,
    heads: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    cuts: tl.constexpr,
):
    q, dq = _head(q, q_stride, queries, heads, size), _head(dq, dq_stride, queries, heads, size)
    out, grad = _head(out, heads * size, queries, heads, size), _head(grad, heads * size, queries, heads, size)
    tile_k = _load_all(_head(k, kv_stride, keys, heads, size), kv_stride, keys, cuts, size)
    tile_v = _load_all(_head(v, kv_stride, keys, heads, size), kv_stride, keys, cuts, size)
    lse, delta = _head(lse, 1, queries, 1, 1), _head(delta, 1, queries, 1, 1)
    for start in range(tl.program_id(1) * block, queries, tl.num_programs(1) * block):
        row = start + tl.arange(0, block)
        x = _load(q, q_stride, start, queries, block, size)
        g = _load(grad, heads * size, start, queries, block, size)
        y = _load(out, heads * size, start, queries, block, size)
        level = tl.sum(g.to(tl.float32) * y.to(tl.float32), 1)
        away = tl.load(lse + row, row < queries, float("inf"))  # so that p is 0 where there is no query
        change = tl.zeros([block, size], tl.float32)
        for i in tl.static_range(len(cuts)):
            p = tl.exp2(_scores(x, tile_k[i], scale, i * cuts[0], keys, cuts[i]) - away[:, None])
            ds = p * (tl.dot(g, tl.trans(tile_v[i])) - level[:, None])
            change = tl.dot(ds.to(x.dtype), tile_k[i], change)
        tl.store(delta + row, level, row < queries)
        _store(dq, dq_stride, start, change * factor, queries, block, size)


@triton.jit
def _add_queries(
    sums,
    tiles,
    q,
    grad,
    lse,
    delta,
    q_stride,
    grad_stride,
    scale,
    start,
    queries: tl.constexpr,
    count: tl.constexpr,
    size: tl.constexpr,
):
    """Add what some queries give to dk and dv, twice (block, size); scores lie turned, keys by queries.

    Rows behind the last key hold anything; they are not stored.
    """
    row = start + tl.arange(0, count)
    x = _load(q, q_stride, start, queries, count, size)
    g = _load(grad, grad_stride, start, queries, count, size)
    away = tl.load(lse + row, row < queries, float("inf"))
    level = tl.load(delta + row, row < queries, 0.0)
    p = tl.exp2(tl.dot(tiles[0], tl.trans(x)) * scale - away[None, :])
    sum_v = tl.dot(p.to(x.dtype), g, sums[1])
    ds = p * (tl.dot(tiles[1], tl.trans(g)) - level[None, :])
    return tl.dot(ds.to(x.dtype), x, sums[0]), sum_v


@Kernel
def _grad_kv(
    q,
    k,
    v,
    grad,
    lse,
    delta,
    dk,
    dv,
    q_stride,
    kv_stride,
    dkv_stride,
    scale,
    factor,
    queries: tl.constexpr,
    keys: tl.constexpr,
    heads: tl.constexpr,
    size: tl.constexpr,
    block: tl.constexpr,
    cuts: tl.constexpr,
):
    q, grad = _head(q, q_stride, queries, heads, size), _head(grad, heads * size, queries, heads, size)
    k, v = _head(k, kv_stride, keys, heads, size), _head(v, kv_stride, keys, heads, size)
    dk, dv = _head(dk, dkv_stride, keys, heads, size), _head(dv, dkv_stride, keys, heads, size)
    lse, delta = _head(lse, 1, queries, 1, 1), _head(delta, 1, queries, 1, 1)
    whole: tl.constexpr = queries // cuts[0] * cuts[0]
    for start in range(tl.program_id(1) * block, keys, tl.num_programs(1) * block):
        tiles = _load(k, kv_stride, start, keys, block, size), _load(v, kv_stride, start, keys, block, size)
        sums = tl.zeros([block, size], tl.float32), tl.zeros([block, size], tl.float32)
        for first in range(0, whole, cuts[0]):
            sums = _add_queries(
                sums, tiles, q, grad, lse, delta, q_stride, heads * size, scale, first, queries, cuts[0], size
            )
        if whole < queries:
            sums = _add_queries(
                sums, tiles, q, grad, lse, delta, q_stride, heads * size, scale, whole, queries, cuts[len(cuts) - 1],
                size,
            )  # fmt: skip
        _store(dk, dkv_stride, start, sums[0] * factor, keys, block, size)
        _store(dv, dkv_stride, start, sums[1], keys, block, size)


def _shape(q: Tensor, k: Tensor, images: int, heads: int) -> tuple[int, int, int, int]:
    return len(q) // images, len(k) // images, heads, q.shape[1] // heads


def _programs(rows: int, tuning: Tuning, images: int, heads: int) -> tuple[int, int]:
    return images * heads, max(1, min(triton.cdiv(rows, tuning.block), ENOUGH // (images * heads)))


def attention(q_k_v: Parts, images: int, heads: int, grad: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return softmax(q kᵀ / √size) v of every image and head, (N · queries, D), and what the way back needs.

    Args:
        q_k_v: (N · queries, D) and twice (N · keys, D), heads side by side; rows may lie apart, in k and v equally far.
        images: N.
        heads: D / size.
        grad: Whether there will be a way back.
    """
    width, tokens = q_k_v[0].shape[1], len(q_k_v[1]) // images
    if fits(tokens, width // heads, q_k_v[0].device):
        out, lse = attend(*q_k_v, images, heads)
        return out, (*q_k_v, out, lse)
    q, k, v = (part.view(images, -1, heads, width // heads).transpose(1, 2).detach() for part in q_k_v)
    with torch.set_grad_enabled(grad):
        for part in (q, k, v):
            part.requires_grad_(grad)
        mixed = functional.scaled_dot_product_attention(q, k, v)
    return mixed.detach().transpose(1, 2).reshape(-1, width), (q, k, v, mixed)


def attention_backward(saved: tuple[Tensor, ...], grad: Tensor, into: Parts) -> None:
    """Write the gradients of q, k and v.

    Args:
        saved: What ``attention`` returned.
        grad: Of its result, (N · queries, D).
        into: Get dq, dk and dv, of the shapes of q, k and v; rows may lie apart, those of dk and dv equally.
    """
    if len(saved) == 5:
        q, k, v, out, lse = saved
        attend_backward(q, k, v, out, lse, grad, into)
        return
    *parts, mixed = saved
    images, heads, _, size = mixed.shape
    grads = torch.autograd.grad(mixed, parts, grad.view(images, -1, heads, size).transpose(1, 2))
    for target, value in zip(into, grads, strict=True):
        target.view(images, -1, heads, size).copy_(value.transpose(1, 2))


def attend(
    q: Tensor, k: Tensor, v: Tensor, images: int, heads: int, tunings: Tunings = TUNINGS
) -> tuple[Tensor, Tensor]:
    """Do ``attention`` by the kernels.

    Returns:
        (N · queries, D), and the logarithm of softmax's sums to base 2, float32 (N, heads, queries).
    """
    queries, keys, _, size = shape = _shape(q, k, images, heads)
    tuning = tunings.forward
    out = torch.empty(len(q), q.shape[1], dtype=q.dtype, device=q.device)
    lse = torch.empty(images, heads, queries, dtype=torch.float32, device=q.device)
    _attend[_programs(queries, tuning, images, heads)](
        q, k, v, out, lse, q.stride(0), k.stride(0), size**-0.5 / math.log(2), *shape, tuning.block,
        pieces(keys, tuning.piece), num_warps=tuning.warps, num_stages=tuning.stages,
    )  # fmt: skip
    return out, lse


def attend_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    into: Parts,
    tunings: Tunings = TUNINGS,
) -> None:
    """Do ``attention_backward`` by the kernels, given what ``attend`` took and returned, and ``out``'s gradient."""
    images, heads, queries = lse.shape
    dq, dk, dv = into
    _, keys, _, size = shape = _shape(q, k, images, heads)
    scale, factor = size**-0.5 / math.log(2), size**-0.5
    delta = torch.empty_like(lse)
    tuning = tunings.grad_q
    _grad_q[_programs(queries, tuning, images, heads)](
        q, k, v, out, grad, lse, delta, dq, q.stride(0), k.stride(0), dq.stride(0), scale, factor, *shape, tuning.block,
        pieces(keys, tuning.piece), num_warps=tuning.warps, num_stages=tuning.stages,
    )  # fmt: skip
    tuning = tunings.grad_kv
    _grad_kv[_programs(keys, tuning, images, heads)](
        q, k, v, grad, lse, delta, dk, dv, q.stride(0), k.stride(0), dk.stride(0), scale, factor, *shape, tuning.block,
        pieces(queries, tuning.piece), num_warps=tuning.warps, num_stages=tuning.stages,
    )  # fmt: skip
