"""TTT-Linear in Triton: forward and backward, prefill of any length from any state, one step.

``chain`` walks the mini-batches and leaves D of every token and W of every chunk; ``answer`` follows, for all chunks at once.
Backward starts from what they left, so that no chain is walked twice; a forward without gradients keeps none of it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.flops import register_flops
from kernels.ttt.launch import CHUNK, PRECISION, Tiles, gradient_scale, multiprocessors, operand_dtype, triton_dtype
from kernels.ttt.state import InnerState, LayerNorm
from kernels.ttt.views import views
from kernels.ttt_linear import backward as grad
from kernels.ttt_linear.chain import chain
from kernels.ttt_linear.chunks import answer
from kernels.ttt_linear.step import step

Tensors = tuple[Tensor, ...]

__all__ = ["forward", "init_state", "prefill", "step", "views"]


def init_state(weights: Tensors, biases: Tensors, batch: int, mini_batch: int, dtype: torch.dtype) -> InnerState:
    """The state before the first token, for activations of ``dtype``: split for 16-bit ones, exact for float32."""
    return InnerState.fresh(weights, biases, batch, mini_batch, split=dtype.itemsize == 2)


def forward(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    rho: Float[Tensor, "B T H"],
    tau: Float[Tensor, " C"],
    weights: tuple[Float[Tensor, "H F F"], ...],
    biases: tuple[Float[Tensor, "H F"], ...],
    norm: LayerNorm,
) -> Float[Tensor, "B T H F"]:
    """Outputs of whole sequences that start from W0, b0, in the dtype of q; differentiable in every argument.

    Raises:
        ValueError, TypeError: a head dim, mini-batch or dtype without kernel; names ``impl: reference``.
    """
    tensors = (q, k, v, rho, tau, *weights, *biases, norm.weight, norm.bias)
    save = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return _forward(*tensors, norm.eps, save)[0]


@torch.no_grad()
def prefill(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    rho: Float[Tensor, "B T H"],
    tau: Float[Tensor, " C"],
    norm: LayerNorm,
    state: InnerState,
) -> Float[Tensor, "B T H F"]:
    """Outputs of T >= 1 further tokens; advances ``state`` in place. Rows may stand at different positions."""
    lo = list(state.remainders)
    pairs = (state.inputs[0], state.grads[0], state.rho, state.position)
    return _prefill(q, k, v, rho, tau, norm.weight, norm.bias, norm.eps, state.weights[0], lo, state.biases[0], *pairs)


def _warps(q: Tensor) -> int:
    """Warps of a chain: a few chains are quick one by one, many that share a multiprocessor are small."""
    return 4 if q.shape[0] * q.shape[2] <= 2 * multiprocessors(q.device) else 2


def _start(tensors: Tensors) -> list[Tensor]:
    return [x.contiguous() for x in tensors]


@torch.library.custom_op("ttt_bench::ttt_linear_forward", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, w: Tensor, b: Tensor, gamma: Tensor, beta: Tensor,
    eps: float, save: bool,
) -> list[Tensor]:  # fmt: skip
    """out, and if ``save`` what ``_left_behind`` tells (else empty)."""
    tiles, out, left = Tiles.of(q.shape[-1], tau.shape[0]), q.new_empty(q.shape), _left_behind(q, save)
    q, k, v, rho, tau, w, b, gamma, beta = _start((q, k, v, rho, tau, w, b, gamma, beta))
    state = (w, w, b, w, w, w, w)
    _chain(tiles, (q, k, v, rho, tau, gamma, beta), state, (out, *left), eps, is_state=False, save=save)
    _answer(tiles, (q, k, rho, tau, gamma, beta, *left[:3], rho, out), eps, is_state=False)
    return [out, *(left if save else _empty(left))]


@_forward.register_fake
def _(*inputs: Any) -> list[Tensor]:
    q, save = inputs[0], inputs[-1]
    left = _left_behind(q, save)
    return [q.new_empty(q.shape), *(left if save else _empty(left))]


def _left_behind(q: Tensor, save: bool) -> Tensors:
    """D of every token, W and b before every chunk; if ``save``, z_hat of every token, and 1/std and means (else empty)."""
    (batch, length, heads, head_dim), dtype, chunks = q.shape, operand_dtype(q), -(-q.shape[1] // CHUNK)
    d, zh = (q.new_empty(batch, n, heads, head_dim, dtype=dtype) for n in (length, length * save))
    wc = q.new_empty(batch, chunks, heads, head_dim, head_dim, dtype=dtype)
    bc = q.new_empty(batch, chunks, heads, head_dim, dtype=torch.float32)
    return d, wc, bc, zh, q.new_empty(batch, length * save, heads, 4, dtype=torch.float32)


def _empty(tensors: Tensors) -> Tensors:
    return tuple(x.new_empty(0) for x in tensors)


def _chain(tiles: Tiles, inputs: Tensors, state: Tensors, outputs: Tensors, eps: float, *, is_state: bool, save: bool) -> None:
    q = inputs[0]
    (batch, length, heads, _), operand = q.shape, triton_dtype(operand_dtype(q))
    size = {"F": tiles.F, "BF": tiles.BF, "C": tiles.C, "BC": tiles.BC, "CHUNK": tiles.CHUNK}
    switches = {"STATEFUL": is_state, "SPLIT": is_state and state[0].dtype == torch.float16}
    even = tiles.are_even(length) and not is_state
    grid = (batch * heads,)
    chain[grid](
        *inputs, *state, *outputs, length, heads,
        EPS=eps, **size, **switches, EVEN=even, SAVE=save, OPERAND=operand, PRECISION=PRECISION, STAGES=3, num_warps=_warps(q),
    )  # fmt: skip


def _answer(tiles: Tiles, tensors: Tensors, eps: float, is_state: bool) -> None:
    q = tensors[0]
    batch, length, heads, _ = q.shape
    answer[(batch * -(-length // tiles.CHUNK) * heads,)](
        *tensors, length, heads,
        EPS=eps, F=tiles.F, BF=tiles.BF, C=tiles.C, CHUNK=tiles.CHUNK, STATEFUL=is_state,
        EVEN=tiles.are_even(length) and not is_state,
        OPERAND=triton_dtype(operand_dtype(q)), PRECISION=PRECISION, num_warps=4,
    )  # fmt: skip


@torch.library.custom_op("ttt_bench::ttt_linear_backward", mutates_args=())
def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, w: Tensor, b: Tensor, gamma: Tensor, beta: Tensor,
    d: Tensor, wc: Tensor, bc: Tensor, zh: Tensor, stats: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, rho, tau, w, b, gamma, beta."""
    (batch, length, heads, head_dim), tiles = q.shape, Tiles.of(q.shape[-1], tau.shape[0])
    shapes = [x.shape for x in (rho, tau, w, b, gamma, beta)]
    dtypes = [x.dtype for x in (rho, tau, w, b, gamma, beta)]
    dout, q, k, v, rho, tau, gamma, beta = _start((dout, q, k, v, rho, tau, gamma, beta))
    operand, chunks = operand_dtype(q), wc.shape[1]

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return q.new_empty(shape, dtype=dtype)

    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    g, dz = (torch.empty_like(q, dtype=operand) for _ in range(2))
    m, dwc = (torch.empty_like(wc, dtype=operand) for _ in range(2))
    mb, dbc, dgamma, dbeta = (torch.empty_like(bc) for _ in range(4))
    drho, dtau_last = empty(batch, length, heads), empty(batch, chunks, heads)
    dtau = empty(batch, chunks, heads, 2, tiles.CHUNK)
    dw, db = empty(batch, heads, head_dim, head_dim), empty(batch, heads, head_dim)
    dgamma_inner, dbeta_inner = empty(batch, heads, head_dim), empty(batch, heads, head_dim)
    size = {"F": tiles.F, "BF": tiles.BF, "C": tiles.C, "CHUNK": tiles.CHUNK, "EVEN": tiles.are_even(length)}
    modes = {"OPERAND": triton_dtype(operand), "PRECISION": PRECISION}
    grid, where, scale = (batch * chunks * heads,), (length, heads), gradient_scale(dout)
    grad.queries[grid](
        q, k, rho, tau, gamma, d, wc, bc, dout, scale, dq, dk, g, m, mb, drho, dtau, dgamma, dbeta, *where,
        EPS=eps, **size, **modes, num_warps=4,
    )  # fmt: skip
    grad.reverse[(batch * heads,)](
        k, v, rho, tau, gamma, beta, scale, d, g, zh, stats, m, mb, dz, dv, dwc, dbc, dw, db, dgamma_inner, dbeta_inner, *where,
        BC=tiles.BC, STAGES=1 if q.itemsize == 4 and tiles.BF > 64 else 2, **size, **modes, num_warps=4,
    )  # fmt: skip
    grad.keys[grid](k, rho, tau, scale, d, wc, dz, dv, dwc, dbc, dk, drho, dtau_last, *where, **size, **modes, num_warps=4)
    slots, last = dtau.sum((0, 1, 2))
    dtau = slots.unflatten(0, (-1, tiles.C)).sum(0)
    dtau[-1] += last.sum() + dtau_last.sum()
    dgamma, dbeta = dgamma.sum((0, 1)) + dgamma_inner.sum(0), dbeta.sum((0, 1)) + dbeta_inner.sum(0)
    found = [drho, dtau, dw.sum(0), db.sum(0), dgamma, dbeta]
    found = [x.reshape(s).to(t) for x, s, t in zip(found, shapes, dtypes, strict=True)]
    return (dq, dk, dv, *found)


@_backward.register_fake
def _(dout: Tensor, *inputs: Any) -> Tensors:  # noqa: ARG001
    return tuple(x.new_empty(x.shape) for x in inputs[:9])


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: list[Tensor]) -> None:
    *tensors, eps, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])  # type: ignore[arg-type]
    ctx.eps = eps  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dout: list[Tensor]) -> tuple[Tensor | None, ...]:
    return (*_backward(dout[0], *ctx.saved_tensors, ctx.eps), None, None)  # type: ignore[attr-defined]


_forward.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op(
    "ttt_bench::ttt_linear_prefill", mutates_args=("w", "lo", "b", "slot_k", "slot_d", "slot_rho", "position")
)
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, gamma: Tensor, beta: Tensor, eps: float,
    w: Tensor, lo: list[Tensor], b: Tensor, slot_k: Tensor, slot_d: Tensor, slot_rho: Tensor, position: Tensor,
) -> Tensor:  # fmt: skip
    """out; the state moves by T tokens. ``lo``: the remainder of w, or nothing where w is float32."""
    tiles, out, left = Tiles.of(q.shape[-1], tau.shape[0]), q.new_empty(q.shape), _left_behind(q, save=False)
    q, k, v, rho, tau, gamma, beta = _start((q, k, v, rho, tau, gamma, beta))
    state = (w, lo[0] if lo else w, b, slot_k, slot_d, slot_rho, position)
    _chain(tiles, (q, k, v, rho, tau, gamma, beta), state, (out, *left), eps, is_state=True, save=False)
    _answer(tiles, (q, k, rho, tau, gamma, beta, *left[:3], position, out), eps, is_state=True)
    position += q.shape[1]
    return out


@_prefill.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


register_flops("ttt_linear", (1, 1))
