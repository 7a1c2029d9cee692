"""q and k of the Mamba backbone from what they share, without gradients: two causal convolutions and the rotation in one pass.

What is shared is read once, and q and k are written once: 6 bytes a token and channel in 16 bits, of about 20 where each of
the four steps reads what the last one wrote. Sums and products are float32, rounded at the end. A step is one launch: it takes
the tables as they are kept, in float64, and moves the inputs that the next token needs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from kernels.causal_conv.reference import advance

TOKENS = 32
TILES = 4  # of a program, where angles come again in each


@triton.jit
def _rotated(acc, cos, sin, ROWS: tl.constexpr, BF: tl.constexpr):
    """Dims 2m and 2m + 1 of acc [ROWS, BF] rotated together, by cos and sin [ROWS, BF / 2]."""
    u, v = tl.split(tl.reshape(acc, [ROWS, BF // 2, 2]))
    return tl.reshape(tl.join(u * cos - v * sin, u * sin + v * cos), [ROWS, BF])


@triton.jit
def _views(
    x_ptr, past_ptr, wq_ptr, bq_ptr, wk_ptr, bk_ptr, cos_ptr, sin_ptr, start_ptr, q_ptr, k_ptr, T, stride_b, stride_t,
    H: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, TAPS: tl.constexpr, ROWS: tl.constexpr,
    TILES: tl.constexpr, STARTED: tl.constexpr, MOVES: tl.constexpr,
):  # fmt: skip
    """TILES times ROWS tokens of one head of one sequence, with the same angles each time.

    STARTED: ``past`` has the inputs before. MOVES: it gets the last ones.
    """
    first, head, batch = tl.program_id(0) * (TILES * ROWS), tl.program_id(1), tl.program_id(2)
    f, half, t = tl.arange(0, BF)[None, :], tl.arange(0, BF // 2)[None, :], first + tl.arange(0, ROWS)[:, None]
    channel, kept, row = head * F + f, TAPS - 1, batch.to(tl.int64)
    is_feature = f < F
    place = t % C
    if STARTED:
        place = (t + tl.load(start_ptr + batch)) % C
    angle = place * (F // 2) + half
    cos = tl.load(cos_ptr + angle, mask=half < F // 2, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=half < F // 2, other=0.0).to(x_ptr.dtype.element_ty).to(tl.float32)
    for _ in range(TILES):
        q = tl.zeros([ROWS, BF], tl.float32) + tl.load(bq_ptr + channel, mask=is_feature, other=0.0).to(tl.float32)
        k = tl.zeros([ROWS, BF], tl.float32) + tl.load(bk_ptr + channel, mask=is_feature, other=0.0).to(tl.float32)
        for tap in tl.static_range(TAPS):
            at = t + tap - kept
            x = tl.load(x_ptr + row * stride_b + at * stride_t + channel, mask=(at >= 0) & (at < T) & is_feature, other=0.0)
            x = x.to(tl.float32)
            if STARTED:
                before = past_ptr + (row * kept + at + kept) * (H * F) + channel
                x += tl.load(before, mask=(at < 0) & is_feature, other=0.0).to(tl.float32)
            q += x * tl.load(wq_ptr + channel * TAPS + tap, mask=is_feature, other=0.0).to(tl.float32)
            k += x * tl.load(wk_ptr + channel * TAPS + tap, mask=is_feature, other=0.0).to(tl.float32)
        out, mask = (row * T + t) * (H * F) + channel, (t < T) & is_feature
        tl.store(q_ptr + out, _rotated(q, cos, sin, ROWS, BF).to(q_ptr.dtype.element_ty), mask=mask)
        tl.store(k_ptr + out, _rotated(k, cos, sin, ROWS, BF).to(k_ptr.dtype.element_ty), mask=mask)
        t += ROWS
    if MOVES:
        slot = tl.arange(0, triton.next_power_of_2(TAPS))[:, None]
        at, inside = T - kept + slot, (slot < kept) & is_feature
        last = tl.load(x_ptr + row * stride_b + at * stride_t + channel, mask=(at >= 0) & inside, other=0.0)
        if STARTED:
            older = past_ptr + (row * kept + at + kept) * (H * F) + channel
            last += tl.load(older, mask=(at < 0) & inside, other=0.0)
        tl.debug_barrier()  # all is read before it is written over
        tl.store(past_ptr + (row * kept + slot) * (H * F) + channel, last, mask=inside)


@torch.no_grad()
def views(
    x: Float[Tensor, "B T E"],
    conv_q: tuple[Float[Tensor, "E 1 K"], Float[Tensor, " E"]],
    conv_k: tuple[Float[Tensor, "E 1 K"], Float[Tensor, " E"]],
    tables: tuple[Float[Tensor, "C G"], Float[Tensor, "C G"]],
    past: Float[Tensor, "B S E"] | None = None,
    start: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H F"], Float[Tensor, "B T H F"]]:
    """As the reference, in the dtype of ``x``.

    Raises:
        ValueError: ``past`` is not contiguous, so that it could not be moved on in place.
    """
    if past is not None and not past.is_contiguous():
        raise ValueError(f"past has strides {past.stride()}; make it contiguous")
    return _run(x, *conv_q, *conv_k, *tables, [] if past is None else [past], [] if start is None else [start])


@torch.library.custom_op("ttt_bench::ttt_views", mutates_args=("past",))
def _run(
    x: Tensor, wq: Tensor, bq: Tensor, wk: Tensor, bk: Tensor, cos: Tensor, sin: Tensor, past: list[Tensor], start: list[Tensor]
) -> tuple[Tensor, Tensor]:
    x = x if x.stride(-1) == 1 else x.contiguous()
    q, k = _like(x, cos)
    batch, length, heads, head_dim = q.shape
    rows = min(TOKENS, triton.next_power_of_2(length))
    tiles = TILES if length >= TILES * rows and rows % len(cos) == 0 else 1
    _views[-(-length // (tiles * rows)), heads, batch](
        x, *(past or [x]), wq.contiguous(), bq, wk.contiguous(), bk, cos.contiguous(), sin.contiguous(), *(start or [cos]),
        q, k, length, *x.stride()[:2],
        H=heads, F=head_dim, BF=triton.next_power_of_2(head_dim), C=len(cos), TAPS=wq.shape[-1], ROWS=rows,
        TILES=tiles, STARTED=bool(start), MOVES=bool(past) and length <= rows, num_warps=4 if rows == TOKENS else 1,
    )  # fmt: skip
    if past and length > rows:  # other programs read it
        advance(past[0], x)
    return q, k


@_run.register_fake
def _(x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _like(x, others[4])


def _like(x: Tensor, cos: Tensor) -> tuple[Tensor, Tensor]:
    heads, head_dim = x.shape[2] // (2 * cos.shape[1]), 2 * cos.shape[1]
    return x.new_empty(*x.shape[:2], heads, head_dim), x.new_empty(*x.shape[:2], heads, head_dim)
