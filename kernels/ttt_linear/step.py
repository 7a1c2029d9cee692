"""One token of TTT-Linear: one program a sequence and head, which moves each byte of its state once.

W of the open mini-batch stays as it is until the mini-batch is full: a token adds its pair (K, D) and its gate to the state,
and its answer takes what the open pairs would have changed,

    D = gradient of 1/2 |LN(K W + b) - (V - K)|^2      out = Q + LN(Q W + b - tau_i sum_{j<=i} rho_j (Q K_j' + 1) D_j).

The last slot commits them all: W <- W - (tau rho K)' D, b <- b - tau rho D. The slot is read on the device, so that one CUDA
graph does for every token. Loads that need no slot are sent first, then those that do, then the sums begin.

Bytes a head and token, split form: W 2 F^2, biases 4 F, q, k, v, out 8 F; pairs, 4 F + 4 each, i read and one written. A commit
adds W written 2 F^2, its remainder read and written 4 F^2, biases 4 F; it reads W again, which the cache still has. Mean over a
cycle with F = 64, C = 16: 12.7 KB, of which W is 8.2.
Operations a head and token: 2 F^2 multiply-adds for K W and Q W, by the FMA units, where two rows would fill an eighth of a
matrix instruction: about 1,200 instructions of one warp, a third of what the memory's time allows.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.blocks import guarded, joined, layer_norm, norm_l2_gradient, store_split, totals2
from kernels.ttt.launch import PRECISION, Tiles, operand_dtype
from kernels.ttt.state import InnerState, LayerNorm


@triton.jit
def commit(
    weight_ptr, rest_ptr, bias_ptr, inputs_ptr, grads_ptr, gates_ptr, tau,
    INNER: tl.constexpr, OUTER: tl.constexpr, WIDTH: tl.constexpr, C: tl.constexpr, SLOTS: tl.constexpr,
    ROWS: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """W - (tau rho X)' D and b - tau rho D from all C pairs, W [INNER, OUTER] in ROWS rows at a time; OUTER padded to WIDTH."""
    j, o = tl.arange(0, SLOTS), tl.arange(0, WIDTH)[None, :]
    eta = tau * tl.load(gates_ptr + j, mask=j < C, other=0.0)[:, None]
    d = eta * tl.load(grads_ptr + j[:, None] * OUTER + o, mask=(j[:, None] < C) & (o < OUTER), other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + o, mask=o < OUTER, other=0.0)
    tl.store(bias_ptr + o, bias - tl.sum(d, 0)[None, :], mask=o < OUTER)
    d = guarded(d, grads_ptr.dtype.element_ty)
    for start in tl.range(0, INNER, ROWS, num_stages=3):
        i = start + tl.arange(0, ROWS)[:, None]
        x = tl.load(inputs_ptr + j[None, :] * INNER + i, mask=(j[None, :] < C) & (i < INNER), other=0.0)
        at, inside = i * OUTER + o, (i < INNER) & (o < OUTER)
        w = joined(weight_ptr, rest_ptr, at, inside, SPLIT) - tl.dot(x, d, input_precision=PRECISION)
        store_split(weight_ptr, rest_ptr, at, w, inside, SPLIT)


@triton.jit
def _token(
    q_ptr, k_ptr, v_ptr, rho_ptr, tau_ptr, gamma_ptr, beta_ptr,
    weight_ptr, rest_ptr, bias_ptr, gates_ptr, keys_ptr, grads_ptr, position_ptr, out_ptr,
    q_row, q_head, k_row, k_head, v_row, v_head, rho_row, rho_head,
    H: tl.constexpr, F: tl.constexpr, BF: tl.constexpr, C: tl.constexpr, SLOTS: tl.constexpr,
    EPS: tl.constexpr, SPLIT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid [B H]. Features are padded to BF; vectors of them are rows [1, BF]."""
    cell = tl.program_id(0).to(tl.int64)
    i_b, i_h = cell // H, cell % H
    slot = tl.load(position_ptr + i_b) % C
    f, j = tl.arange(0, BF), tl.arange(0, C)[:, None]
    row, here = f[None, :], f[None, :] < F
    weight_ptr += cell * F * F
    rest_ptr += cell * F * F
    bias_ptr += cell * F
    gates_ptr += cell * C
    keys_ptr += cell * C * F
    grads_ptr += cell * C * F
    w = tl.load(weight_ptr + f[:, None] * F + row, mask=(f[:, None] < F) & here, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + i_b * v_row + i_h * v_head + row, mask=here, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + row, mask=here, other=0.0)
    rho = tl.load(rho_ptr + i_b * rho_row + i_h * rho_head).to(tl.float32)
    tl.debug_barrier()  # else the assembler lets all loads wait for the slot
    keys = tl.load(keys_ptr + j * F + row, mask=(j < slot) & here, other=0.0).to(tl.float32)
    grads = tl.load(grads_ptr + j * F + row, mask=(j < slot) & here, other=0.0).to(tl.float32)
    gates = tl.load(gates_ptr + j, mask=j < slot, other=0.0)
    tau = tl.load(tau_ptr + slot).to(tl.float32)
    k = tl.load(k_ptr + i_b * k_row + i_h * k_head + f, mask=f < F, other=0.0).to(tl.float32)
    q = tl.load(q_ptr + i_b * q_row + i_h * q_head + f, mask=f < F, other=0.0).to(tl.float32)
    gamma = tl.load(gamma_ptr + i_h * F + row, mask=here, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + i_h * F + row, mask=here, other=0.0).to(tl.float32)

    z, answer = totals2(w * k[:, None], w * q[:, None], 0)
    z += bias
    answer += bias
    k, q = k[None, :], q[None, :]
    d = norm_l2_gradient(z, gamma * (beta - v + k), gamma * gamma, tl.where(here, 1.0, 0.0), 1, F, EPS)
    key, grad = guarded(k, keys_ptr.dtype.element_ty), guarded(d, grads_ptr.dtype.element_ty)
    tl.store(keys_ptr + slot * F + row, key, mask=here)
    tl.store(grads_ptr + slot * F + row, grad, mask=here)
    tl.store(gates_ptr + slot, rho)

    share = gates * (tl.sum(keys * q, 1)[:, None] + 1)
    own = rho * (tl.sum(key.to(tl.float32) * q) + 1)
    answer -= tau * (tl.sum(share * grads, 0)[None, :] + own * grad.to(tl.float32))
    answer = tl.where(here, answer - tl.sum(answer) / F, 0.0)
    tl.store(out_ptr + cell * F + row, q + layer_norm(answer, gamma, beta, 1, F, EPS), mask=here)
    if slot == C - 1:
        tl.debug_barrier()  # the pair just stored is read again
        commit(weight_ptr, rest_ptr, bias_ptr, keys_ptr, grads_ptr, gates_ptr, tau, F, F, BF, C, SLOTS, 16, SPLIT, PRECISION)


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
    pairs = (state.rho, state.inputs[0], state.grads[0], state.position)
    weights = (state.weights[0], list(state.remainders), state.biases[0])
    return _step(q, k, v, rho, tau, norm.weight, norm.bias, norm.eps, *weights, *pairs)


@torch.library.custom_op("ttt_bench::ttt_linear_step", mutates_args=("w", "lo", "b", "gates", "keys", "grads", "position"))
def _step(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, gamma: Tensor, beta: Tensor, eps: float,
    w: Tensor, lo: list[Tensor], b: Tensor, gates: Tensor, keys: Tensor, grads: Tensor, position: Tensor,
) -> Tensor:  # fmt: skip
    (batch, heads, head_dim), tiles = q.shape, Tiles.of(q.shape[-1], tau.shape[0])
    operand_dtype(q)  # or raise
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out = q.new_empty(q.shape)
    strides = [n for x in (q, k, v, rho) for n in x.stride()[:2]]
    _token[(batch * heads,)](
        q, k, v, rho, tau.contiguous(), gamma.contiguous(), beta.contiguous(),
        w, (lo or [w])[0], b, gates, keys, grads, position, out, *strides,
        H=heads, F=head_dim, BF=tiles.BF, C=tiles.C, SLOTS=tiles.BC, EPS=eps, SPLIT=bool(lo), PRECISION=PRECISION,
        num_warps=warps(tiles.BF * max(tiles.BF // 2, tiles.C), w), num_stages=1,
    )  # fmt: skip
    position += 1
    return out


@_step.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


def warps(size: int, w: Tensor) -> int:
    """Warps of a program whose largest tile has ``size`` elements twice, or once if it holds pairs: 64 elements a thread."""
    return min(16, max(1, size * w.itemsize // 4096))
