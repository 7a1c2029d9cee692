"""One token of TTT-MLP: one program a sequence and head, which moves each byte of its state once.

As in ``kernels.ttt_linear.step``, through two layers: W1, W2 stay as they are until the mini-batch is full, a token adds its
pairs (K, D1), (X2, D2) and its gate, and the answer takes what the open pairs would have changed,

    X2 = GELU(K W1 + b1)    D2 = gradient of 1/2 |LN(X2 W2 + b2) - (V - K)|^2    D1 = (D2 W2') * GELU'(K W1 + b1)
    Y2 = GELU(Q W1 + b1 - tau_i sum rho_j (Q K_j' + 1) D1_j)
    out = Q + LN(Y2 W2 + b2 - tau_i sum rho_j (Y2 X2_j' + 1) D2_j).

Products are of the matrix units, a part of the hidden units a warp, so that only z and the answer are summed across warps: a
vector is 16 equal rows, or 8 equal columns, which are dropped at once, so that what is not a product is done once, not 8 times.
W1 and W2 lie in shared memory, W2 for three products; W1's place is the pairs' once K and Q went through it, so that three
programs fit a multiprocessor of an H100, and the loads of one go on beside the sums of two. Where shared memory is too small,
products are sums.

Bytes a head and token, split form: W1 and W2 16 F^2, biases 20 F, q, k, v, out 8 F; pairs, 20 F + 4 each, i read and one
written. A commit adds 48 F^2 and biases 20 F. Mean over a cycle with F = 64, C = 16: 90.6 KB, of which weights are 65.5.
Operations a head and token: 20 F^2 multiply-adds, as often as there are equal rows: K W1, Q W1, X2 W2, D2 W2', Y2 W2.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.blocks import IS_INTERPRETED, guarded, layer_norm, norm_l2_gradient, total
from kernels.ttt.launch import PRECISION, Tiles, operand_dtype, shared_memory
from kernels.ttt.state import InnerState, LayerNorm
from kernels.ttt_linear.step import commit, warps
from kernels.ttt_mlp.gelu import gelu

PARTS = 4
"""Of the hidden units: one a warp, where products are of the matrix units."""
AROUND = 8192
"""Bytes of shared memory for vectors, beside W and pairs."""


class Shape(NamedTuple):
    """Of a launch: by matrix units or not, parts, warps of a program, most registers of a thread (None: no limit)."""

    matrix: bool
    parts: int
    warps: int
    registers: int | None


def _shape(hidden: int, tiles: Tiles, w: Tensor, shared: int) -> Shape:
    """By matrix units where 16-bit weights fit ``shared`` bytes of shared memory; three to a multiprocessor if they can be."""
    weight, pairs = (n * w.itemsize for n in (hidden * tiles.BF, 2 * tiles.BC * (hidden + tiles.BF)))
    needed = weight + max(weight, pairs) + AROUND
    if w.itemsize > 2 or needed > shared:
        return Shape(False, 1, max(4, warps(hidden * max(tiles.BF // 2, tiles.C), w)), None)
    return Shape(True, PARTS, PARTS, 168 if 3 * needed <= shared else None)


@triton.jit
def _pinned(x):
    """x, written to shared memory here and no earlier, fetched from there as an operand where it is used and no earlier."""
    if not IS_INTERPRETED:
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=x.dtype, is_pure=False, pack=2)
    return x


@triton.jit
def _one(x):
    """One of the 8 equal rows of x [P, 8, M], its n-th eighth from row n: a thread adds what it has, and keeps no copy."""
    P: tl.constexpr = x.shape[0]
    M: tl.constexpr = x.shape[2]
    n = tl.arange(0, 8)
    x = tl.where(n[None, :, None, None] == n[None, None, :, None], tl.reshape(x, (P, 8, 8, M // 8)), 0.0)
    return tl.reshape(tl.sum(x, 2), (P, M))


@triton.jit
def _halves(x):
    """Rows 0 to 7 and 8 to 15 of x [P, 16, M]."""
    return tl.split(tl.permute(tl.reshape(x, (x.shape[0], 2, 8, x.shape[2])), (0, 2, 3, 1)))


@triton.jit
def _down(x, w, MATRIX: tl.constexpr, PRECISION: tl.constexpr):
    """x w of x [P, K] and w [P, K, M]."""
    if MATRIX:
        x = tl.broadcast_to(x[:, None, :], (w.shape[0], 16, w.shape[1]))
        y, _ = _halves(tl.dot(x, w, input_precision=PRECISION))
        y = _one(y)
    else:
        y = tl.sum(w.to(tl.float32) * x.to(tl.float32)[:, :, None], 1)
    return y


@triton.jit
def _down2(x, y, w, MATRIX: tl.constexpr, PRECISION: tl.constexpr):
    """x w and y w of x, y [1, K] and w [P, K, M], by one product of both."""
    if MATRIX:
        both = tl.where(tl.arange(0, 16)[None, :, None] < 8, x[:, None, :], y[:, None, :])
        x, y = _halves(tl.dot(tl.broadcast_to(both, (w.shape[0], 16, w.shape[1])), w, input_precision=PRECISION))
        x, y = _one(x), _one(y)
    else:
        x, y = _down(x, w, MATRIX, PRECISION), _down(y, w, MATRIX, PRECISION)
    return x, y


@triton.jit
def _along(w, x, MATRIX: tl.constexpr, PRECISION: tl.constexpr):
    """w x of w [P, M, K] and x [P, K]."""
    if MATRIX:
        x = tl.broadcast_to(x[:, :, None], (w.shape[0], w.shape[2], 8))
        y = _one(tl.permute(tl.dot(w, x, input_precision=PRECISION), (0, 2, 1)))
    else:
        y = tl.sum(w.to(tl.float32) * x.to(tl.float32)[:, None, :], 2)
    return y


@triton.jit
def _token(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr,
    weight1_ptr, weight2_ptr, rest1_ptr, rest2_ptr, bias1_ptr, bias2_ptr,
    gates_ptr, keys_ptr, hidden_ptr, grads1_ptr, grads2_ptr, position_ptr, out_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, rho_row, rho_head,
    H: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, G: tl.constexpr, BG: tl.constexpr, C: tl.constexpr, SLOTS: tl.constexpr,
    PARTS: tl.constexpr, MATRIX: tl.constexpr, EPS: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid [B H]. Features are padded to BF, the G hidden ones to BG; vectors are [1, BF] and [PARTS, BG / PARTS]."""
    cell = tl.program_id(0).to(tl.int64)
    i_b, i_h = cell // H, cell % H
    slot = tl.load(position_ptr + i_b) % C
    f, j = tl.arange(0, BF)[None, :], tl.arange(0, SLOTS)[None, :]
    part = tl.arange(0, PARTS)[:, None]
    g = part * (BG // PARTS) + tl.arange(0, BG // PARTS)[None, :]
    row, feature, wide, unit, pair = f[:, None, :], f[:, :, None], g[:, None, :], g[:, :, None], j[:, :, None]
    here, there = f < F, g < G
    weight1_ptr += cell * F * G
    weight2_ptr += cell * F * G
    rest1_ptr += cell * F * G
    rest2_ptr += cell * F * G
    bias1_ptr += cell * G
    bias2_ptr += cell * F
    gates_ptr += cell * C
    keys_ptr += cell * C * F
    hidden_ptr += cell * C * G
    grads1_ptr += cell * C * G
    grads2_ptr += cell * C * F
    dtype: tl.constexpr = keys_ptr.dtype.element_ty
    w1 = tl.load(weight1_ptr + feature * G + wide, mask=(feature < F) & (wide < G), other=0.0)
    w2 = tl.load(weight2_ptr + unit * F + row, mask=(unit < G) & (row < F), other=0.0)
    bias1 = tl.load(bias1_ptr + g, mask=there, other=0.0)
    bias2 = tl.load(bias2_ptr + f, mask=here, other=0.0)
    v = tl.load(v_ptr + i_b * v_row + i_h * v_head + f, mask=here, other=0.0).to(tl.float32)
    rho = tl.load(rho_ptr + i_b * rho_row + i_h * rho_head).to(tl.float32)
    tl.debug_barrier()  # else the assembler lets all loads wait for the slot
    gates = tl.load(gates_ptr + j, mask=j < slot, other=0.0)
    tau = tl.load(tau_ptr + slot).to(tl.float32)
    k = tl.load(k_ptr + i_b * k_row + i_h * k_head + f, mask=here, other=0.0).to(tl.float32)
    q = tl.load(q_ptr + i_b * q_row + i_h * q_head + f, mask=here, other=0.0).to(tl.float32)
    gamma = tl.load(gamma_ptr + i_h * F + f, mask=here, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + f, mask=here, other=0.0).to(tl.float32)

    if MATRIX:
        w1, w2 = _pinned(w1), _pinned(w2)
    key, query = guarded(k, dtype), guarded(q, dtype)
    x2, y = _down2(key, query, w1, MATRIX, PRECISION)
    near, far = (pair < slot) & (row < F) & (part[:, :, None] >= 0), (pair < slot) & (wide < G)
    keys = tl.load(keys_ptr + pair * F + row, mask=(pair < slot) & (row < F), other=0.0)
    grads1 = tl.load(grads1_ptr + pair * G + wide, mask=far, other=0.0)
    hidden = tl.load(hidden_ptr + pair * G + wide, mask=far, other=0.0)
    grads2 = tl.load(grads2_ptr + pair * F + row + 0 * part[:, :, None], mask=near, other=0.0)
    x2, slope = gelu(x2 + bias1, False)
    x2 = guarded(x2, dtype)
    z = total(_down(x2, w2, MATRIX, PRECISION), 0) + bias2
    d2 = norm_l2_gradient(z, gamma * (beta - v + k), gamma * gamma, tl.where(here, 1.0, 0.0), 1, F, EPS)
    d2 = guarded(d2, dtype)
    d1 = guarded(_along(w2, d2, MATRIX, PRECISION) * slope, dtype)
    tl.store(keys_ptr + slot * F + f, key, mask=here)
    tl.store(hidden_ptr + slot * G + g, x2, mask=there)
    tl.store(grads1_ptr + slot * G + g, d1, mask=there)
    tl.store(grads2_ptr + slot * F + f, d2, mask=here)
    tl.store(gates_ptr + slot, rho)

    share = guarded(gates * (_along(keys, query, MATRIX, PRECISION) + 1), dtype)
    own = rho * (total(key.to(tl.float32) * q, 1) + 1)
    y, _ = gelu(y + bias1 - tau * (_down(share, grads1, MATRIX, PRECISION) + own * d1.to(tl.float32)), False)
    hot = guarded(y, dtype)
    share = guarded(gates * (_along(hidden, hot, MATRIX, PRECISION) + 1.0 / PARTS), dtype)
    own = rho * (total(x2.to(tl.float32) * y, 1) + 1.0 / PARTS)
    answer = _down(hot, w2, MATRIX, PRECISION) - tau * (_down(share, grads2, MATRIX, PRECISION) + own * d2.to(tl.float32))
    answer = total(answer, 0) + bias2
    answer = tl.where(here, answer - total(answer, 1) / F, 0.0)
    tl.store(out_ptr + cell * F + f, q + layer_norm(answer, gamma, beta, 1, F, EPS), mask=here)
    if slot == C - 1:
        tl.debug_barrier()  # the pairs just stored are read again
        commit(
            weight1_ptr, rest1_ptr, bias1_ptr, keys_ptr, grads1_ptr, gates_ptr, tau, F, G, BG, C, SLOTS, 16, SPLIT, PRECISION
        )
        commit(
            weight2_ptr, rest2_ptr, bias2_ptr, hidden_ptr, grads2_ptr, gates_ptr, tau, G, F, BF, C, SLOTS, 64, SPLIT, PRECISION
        )


@torch.no_grad()
def step(
    q: Float[Tensor, "B H F"],
    k: Float[Tensor, "B H F"],
    v: Float[Tensor, "B H F"],
    rho: Float[Tensor, "B H"],
    tau: Float[Tensor, " C"],
    norm: LayerNorm,
    state: InnerState,
) -> Float[Tensor, "B H F"]:
    """Outputs of one further token per row; advances ``state`` in place, with static shapes and no host synchronisation.

    Raises:
        ValueError, TypeError: a head dim, mini-batch or dtype without kernel; names ``impl: reference``.
    """
    weights = (list(state.weights), list(state.remainders), list(state.biases))
    pairs = (state.rho, list(state.inputs), list(state.grads), state.position)
    return _step(q, k, v, rho, tau, norm.weight, norm.bias, norm.eps, *weights, *pairs)


@torch.library.custom_op("ttt_bench::ttt_mlp_step", mutates_args=("w", "lo", "b", "gates", "inputs", "grads", "position"))
def _step(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, gamma: Tensor, beta: Tensor, eps: float,
    w: list[Tensor], lo: list[Tensor], b: list[Tensor],
    gates: Tensor, inputs: list[Tensor], grads: list[Tensor], position: Tensor,
) -> Tensor:  # fmt: skip
    (batch, heads, head_dim), tiles, hidden = q.shape, Tiles.of(q.shape[-1], tau.shape[0]), b[0].shape[-1]
    operand_dtype(q)  # or raise
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, padded = q.new_empty(q.shape), triton.next_power_of_2(hidden)
    strides = [n for x in (q, k, v, rho) for n in x.stride()[:2]]
    shape = _shape(padded, tiles, w[0], shared_memory(q.device))
    _token[(batch * heads,)](
        q, k, v, rho, tau.contiguous(), gamma.contiguous(), beta.contiguous(),
        *w, *(lo or w), *b, gates, *inputs, *grads, position, out, *strides,
        H=heads, F=head_dim, BF=tiles.BF, G=hidden, BG=padded, C=tiles.C, SLOTS=tiles.BC,
        PARTS=shape.parts, MATRIX=shape.matrix, EPS=eps, SPLIT=bool(lo), PRECISION=PRECISION,
        num_warps=shape.warps, num_stages=1, maxnreg=shape.registers,
    )  # fmt: skip
    position += 1
    return out


@_step.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)
