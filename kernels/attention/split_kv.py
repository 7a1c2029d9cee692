"""A decode step over the filled part of the cache, whose length stays on the device: two launches, no host synchronisation.

The cache of one head of one row is cut in slices, one program each, so that few rows fill the GPU too (as Flash-Decoding,
https://crfm.stanford.edu/2023/10/12/flashdecoding.html). Keys and values are read once, and nothing after the position.
Every one of BLOCK slots keeps a softmax of its own (arXiv 1805.02867, algorithm 3) over the keys that pass through it: no
slot waits for another until the end. Tiles come by asynchronous copies into shared memory, STAGES - 1 at a time: loads into
registers wait in turn, as the compiler puts each just before its use.

Bytes: 2 x position x F of the cache's dtype for each head; partial results of F + 2 float32 for each slice.
"""

import math

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kernels.attention.reference import Cache, begin, forward, prefill
from kernels.opaque import opaque

__all__ = ["begin", "forward", "prefill", "step"]

TILE = 8192  # bytes of the keys that one iteration takes, and of the values
STAGES = 3
PROGRAMS = 4096  # about so many slices in all: several for each multiprocessor, of at least SLICE tokens
SLICE = 512
LOWEST = tl.constexpr(-1e30)


@opaque
@torch.no_grad()
def step(
    q: Float[Tensor, "B H F"], k: Float[Tensor, "B H F"], v: Float[Tensor, "B H F"], cache: Cache
) -> Float[Tensor, "B H F"]:
    """Outputs of one further token per row; writes it to ``cache``, in place. A row whose cache is full becomes NaN."""
    rows, heads, width = q.shape
    length = cache.key.shape[2]
    slices = max(1, min(PROGRAMS // (rows * heads), triton.cdiv(length, SLICE)))
    partial = q.new_empty(rows * heads, slices, width, dtype=torch.float32)
    top, total = (q.new_empty(rows * heads, slices, dtype=torch.float32) for _ in range(2))
    views = [x.contiguous() for x in (q, k, v)]
    scale = math.log2(math.e) / math.sqrt(width)
    sizes = {"WIDTH": width, "PADDED": triton.next_power_of_2(width)}
    block = max(1, TILE // (sizes["PADDED"] * cache.key.element_size()))
    _attend[(rows * heads * slices,)](
        *(*views, cache.key, cache.value, cache.position, partial, top, total, scale, heads, length, slices),
        **sizes,
        BLOCK=block,
        STAGES=STAGES,
    )
    out = torch.empty_like(views[0])
    padded = triton.next_power_of_2(slices)
    _combine[(rows * heads,)](partial, top, total, cache.position, out, heads, slices, SLICES=padded, **sizes)
    return out


@triton.jit
def _attend(
    p_q,
    p_k,
    p_v,
    p_keys,
    p_values,
    p_position,
    p_partial,
    p_top,
    p_total,
    scale,
    heads,
    length,
    slices,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One slice of one head; the first one also takes the new token, and writes it to the cache."""
    i_head, i_slice = (tl.program_id(0) // slices).to(tl.int64), tl.program_id(0) % slices
    i_f, i_t = tl.arange(0, PADDED), tl.arange(0, BLOCK)
    m_f = i_f < WIDTH
    position = tl.load(p_position + i_head // heads)
    share = tl.cdiv(tl.cdiv(position, BLOCK), slices) * BLOCK
    start, end = i_slice * share, tl.minimum(tl.minimum((i_slice + 1) * share, position), length)
    p_keys += i_head * length * WIDTH
    p_values += i_head * length * WIDTH
    q = tl.load(p_q + i_head * WIDTH + i_f, mask=m_f, other=0.0).to(tl.float32) * scale
    top = tl.full([BLOCK], LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    out = tl.zeros([BLOCK, PADDED], tl.float32)
    for t in tl.range(start, end, BLOCK, num_stages=STAGES):
        at = tl.minimum(t + i_t, end - 1)[:, None] * WIDTH + i_f[None, :]  # the last token again, not a mask
        key = tl.load(p_keys + at, mask=m_f[None, :], other=0.0).to(tl.float32)
        value = tl.load(p_values + at, mask=m_f[None, :], other=0.0).to(tl.float32)
        score = tl.where(t + i_t < end, tl.sum(q[None, :] * key, axis=1), -float("inf"))
        higher = tl.maximum(top, score)
        kept, weight = tl.exp2(top - higher), tl.exp2(score - higher)
        total = total * kept + weight
        out = out * kept[:, None] + weight[:, None] * value
        top = higher
    key = tl.load(p_k + i_head * WIDTH + i_f, mask=m_f, other=0.0)
    value = tl.load(p_v + i_head * WIDTH + i_f, mask=m_f, other=0.0)
    is_first, has_room = i_slice == 0, position < length
    m_new = m_f & is_first & has_room
    tl.store(p_keys + position * WIDTH + i_f, key, mask=m_new)
    tl.store(p_values + position * WIDTH + i_f, value, mask=m_new)
    own = tl.where(has_room, tl.sum(q * key.to(tl.float32), axis=0), float("nan"))
    own = tl.where(is_first, own, -float("inf"))
    highest = tl.maximum(tl.max(top, axis=0), own)
    kept, weight = tl.exp2(top - highest), tl.exp2(own - highest)
    at = i_head * slices + i_slice
    tl.store(p_top + at, highest)
    tl.store(p_total + at, tl.sum(total * kept, axis=0) + weight)
    tl.store(p_partial + at * WIDTH + i_f, tl.sum(out * kept[:, None], axis=0) + weight * value.to(tl.float32), mask=m_f)


@triton.jit
def _combine(
    p_partial,
    p_top,
    p_total,
    p_position,
    p_out,
    heads,
    slices,
    SLICES: tl.constexpr,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
):
    """The slices of one head, in a fixed order; the first head moves its row's position on, which nobody reads any more."""
    i_head = tl.program_id(0).to(tl.int64)
    i_s, i_f = tl.arange(0, SLICES), tl.arange(0, PADDED)
    m_s, m_f = i_s < slices, i_f < WIDTH
    at = i_head * slices + i_s
    top = tl.load(p_top + at, mask=m_s, other=LOWEST)
    weight = tl.exp2(top - tl.max(top, axis=0))
    total = tl.sum(weight * tl.load(p_total + at, mask=m_s, other=0.0), axis=0)
    partial = tl.load(p_partial + at[:, None] * WIDTH + i_f[None, :], mask=m_s[:, None] & m_f[None, :], other=0.0)
    out = tl.sum(weight[:, None] * partial, axis=0) / total
    tl.store(p_out + i_head * WIDTH + i_f, out.to(p_out.dtype.element_ty), mask=m_f)
    if i_head % heads == 0:
        p_row = p_position + i_head // heads
        tl.store(p_row, tl.load(p_row) + 1)
