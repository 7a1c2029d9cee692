"""TTT-Linear in Triton: forward and backward, prefill of any length from any state, one step.

``chain`` walks the mini-batches and leaves D of every token and W of every chunk; ``answer`` follows, for all chunks at once.
Backward starts from what they left, so that no chain is walked twice; a forward without gradients keeps none of it.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.flops import register_flops
from kernels.ttt.launch import CHUNK, PRECISION, Operands, Tiles, multiprocessors, triton_dtype
from kernels.ttt.state import InnerState, LayerNorm
from kernels.ttt_linear import backward as grad
from kernels.ttt_linear.chain import chain
from kernels.ttt_linear.chunks import answer
from kernels.ttt_linear.step import step

Tensors = tuple[Tensor, ...]

__all__ = ["forward", "init_state", "prefill", "step"]


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """out, and if ``save`` D of every token, W and b before every chunk (else empty)."""
    tiles, out, left = Tiles.of(q.shape[-1], tau.shape[0]), q.new_empty(q.shape), _left_behind(q)
    q, k, v, rho, tau, w, b, gamma, beta = _start((q, k, v, rho, tau, w, b, gamma, beta))
    _chain(tiles, (q, k, v, rho, tau, gamma, beta), (w, w, b, w, w, w, w), (out, *left), eps, is_state=False)
    _answer(tiles, (q, k, rho, tau, gamma, beta, *left, rho, out), eps, is_state=False)
    return out, *(left if save else _left_behind(q, chunks=0))


@_forward.register_fake
def _(*inputs: Any) -> Tensors:
    q, save = inputs[0], inputs[-1]
    return q.new_empty(q.shape), *(_left_behind(q) if save else _left_behind(q, chunks=0))


def _left_behind(q: Tensor, chunks: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """D of every token, W and b before every chunk; with no chunks, empty."""
    (batch, length, heads, head_dim), dtype = q.shape, Operands.of(q).forward
    chunks = -(-length // CHUNK) if chunks is None else chunks
    wc = q.new_empty(batch, chunks, heads, head_dim, head_dim, dtype=dtype)
    bc = q.new_empty(batch, chunks, heads, head_dim, dtype=torch.float32)
    return q.new_empty(q.shape if chunks else (0,), dtype=dtype), wc, bc


def _chain(tiles: Tiles, inputs: Tensors, state: Tensors, outputs: Tensors, eps: float, *, is_state: bool) -> None:
    q = inputs[0]
    (batch, length, heads, _), operand = q.shape, triton_dtype(Operands.of(q).forward)
    size = {"F": tiles.F, "BF": tiles.BF, "C": tiles.C, "BC": tiles.BC, "CHUNK": tiles.CHUNK}
    switches = {"STATEFUL": is_state, "SPLIT": is_state and state[0].dtype == torch.float16}
    even = tiles.are_even(length) and not is_state
    grid = (batch * heads,)
    chain[grid](
        *inputs, *state, *outputs, length, heads,
        EPS=eps, **size, **switches, EVEN=even, OPERAND=operand, PRECISION=PRECISION, STAGES=3, num_warps=_warps(q),
    )  # fmt: skip


def _answer(tiles: Tiles, tensors: Tensors, eps: float, is_state: bool) -> None:
    q = tensors[0]
    batch, length, heads, _ = q.shape
    answer[(batch * -(-length // tiles.CHUNK) * heads,)](
        *tensors, length, heads,
        EPS=eps, F=tiles.F, BF=tiles.BF, C=tiles.C, CHUNK=tiles.CHUNK, STATEFUL=is_state,
        OPERAND=triton_dtype(Operands.of(q).forward), PRECISION=PRECISION, num_warps=4,
    )  # fmt: skip


@torch.library.custom_op("ttt_bench::ttt_linear_backward", mutates_args=())
def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, w: Tensor, b: Tensor, gamma: Tensor, beta: Tensor,
    d: Tensor, wc: Tensor, bc: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, v, rho, tau, w, b, gamma, beta."""
    (batch, length, heads, head_dim), tiles = q.shape, Tiles.of(q.shape[-1], tau.shape[0])
    shapes = [x.shape for x in (rho, tau, w, b, gamma, beta)]
    dtypes = [x.dtype for x in (rho, tau, w, b, gamma, beta)]
    dout, q, k, v, rho, tau, gamma, beta = _start((dout, q, k, v, rho, tau, gamma, beta))
    operands, chunks = Operands.of(q), wc.shape[1]
    operand, gradient = triton_dtype(operands.forward), triton_dtype(operands.backward)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return q.new_empty(shape, dtype=dtype)

    dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
    g, dz = (torch.empty_like(q, dtype=operands.backward) for _ in range(2))
    zh = torch.empty_like(q, dtype=operands.forward)
    stats, drho = empty(4, batch, length, heads), empty(batch, length, heads)
    m, dwc = (torch.empty_like(wc, dtype=operands.backward) for _ in range(2))
    mb, dbc, dgamma, dbeta = (torch.empty_like(bc) for _ in range(4))
    dtau, dtau_last = empty(batch, chunks, heads, tiles.CHUNK), empty(batch, chunks, heads)
    dw, db = empty(batch, heads, head_dim, head_dim), empty(batch, heads, head_dim)
    size = {"F": tiles.F, "BF": tiles.BF, "C": tiles.C, "CHUNK": tiles.CHUNK, "GRAD": gradient, "PRECISION": PRECISION}
    grid = (batch * chunks * heads,)
    grad.queries[grid](
        q, k, v, rho, tau, gamma, beta, d, wc, bc, dout, dq, dk, g, zh, stats, m, mb, drho, dtau, dgamma, dbeta,
        length, heads, EPS=eps, OPERAND=operand, **size, num_warps=8,
    )  # fmt: skip
    grad.reverse[(batch * heads,)](
        k, rho, tau, gamma, d, g, zh, stats, m, mb, dz, dv, dwc, dbc, dw, db,
        length, heads, BC=tiles.BC, EVEN=tiles.are_even(length), STAGES=2, **size, num_warps=4,
    )  # fmt: skip
    grad.keys[grid](
        k, v, rho, tau, gamma, beta, d, wc, zh, dz, dwc, dbc, dk, dv, drho, dtau_last, dgamma, dbeta,
        length, heads, **size, num_warps=4,
    )  # fmt: skip
    dtau = dtau.unflatten(-1, (-1, tiles.C)).sum((0, 1, 2, 3))
    dtau[-1] += dtau_last.sum()
    found = [drho, dtau, dw.sum(0), db.sum(0), dgamma.sum((0, 1)), dbeta.sum((0, 1))]
    found = [x.reshape(s).to(t) for x, s, t in zip(found, shapes, dtypes, strict=True)]
    return (dq, dk, dv, *found)


@_backward.register_fake
def _(dout: Tensor, *inputs: Any) -> Tensors:  # noqa: ARG001
    return tuple(x.new_empty(x.shape) for x in inputs[:9])


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensors) -> None:
    *tensors, eps, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])  # type: ignore[arg-type]
    ctx.eps = eps  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dout: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return (*_backward(dout, *ctx.saved_tensors, ctx.eps), None, None)  # type: ignore[attr-defined]


_forward.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op(
    "ttt_bench::ttt_linear_prefill", mutates_args=("w", "lo", "b", "slot_k", "slot_d", "slot_rho", "position")
)
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, gamma: Tensor, beta: Tensor, eps: float,
    w: Tensor, lo: list[Tensor], b: Tensor, slot_k: Tensor, slot_d: Tensor, slot_rho: Tensor, position: Tensor,
) -> Tensor:  # fmt: skip
    """out; the state moves by T tokens. ``lo``: the remainder of w, or nothing where w is float32."""
    tiles, out, left = Tiles.of(q.shape[-1], tau.shape[0]), q.new_empty(q.shape), _left_behind(q)
    q, k, v, rho, tau, gamma, beta = _start((q, k, v, rho, tau, gamma, beta))
    state = (w, lo[0] if lo else w, b, slot_k, slot_d, slot_rho, position)
    _chain(tiles, (q, k, v, rho, tau, gamma, beta), state, (out, *left), eps, is_state=True)
    _answer(tiles, (q, k, rho, tau, gamma, beta, *left, position, out), eps, is_state=True)
    position += q.shape[1]
    return out


@_prefill.register_fake
def _(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty(q.shape)


register_flops("ttt_linear", (1, 1))
