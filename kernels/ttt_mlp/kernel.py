"""TTT-MLP in Triton: forward and backward, prefill of any length from any state, one step.

Forward and prefill are the same two kernels, ``chain`` and ``answer``, or one where weights lie in memory. Where gradients
will be asked for the weights before every chunk are kept, and ``backward`` starts from those; a forward without gradients
keeps nothing.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.flops import register_flops
from kernels.ttt.launch import CHUNK, gradient_scale, operand_dtype
from kernels.ttt.state import InnerState, LayerNorm
from kernels.ttt.views import views
from kernels.ttt_mlp import tiled_chain
from kernels.ttt_mlp.forward import Forward, chunk_weights
from kernels.ttt_mlp.held import Held
from kernels.ttt_mlp.launch import IN_REGISTERS, tiles_of
from kernels.ttt_mlp.panels import Backward
from kernels.ttt_mlp.step import step

__all__ = ["forward", "init_state", "prefill", "step", "views"]

Tensors = tuple[Tensor, ...]


def init_state(weights: Tensors, biases: Tensors, batch: int, mini_batch: int, dtype: torch.dtype) -> InnerState:
    """The state before the first token, for activations of ``dtype``: split for 16-bit ones, exact for float32."""
    return InnerState.fresh(weights, biases, batch, mini_batch, split=dtype.itemsize == 2)


def forward(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    rho: Float[Tensor, "B T H"],
    tau: Float[Tensor, " C"],
    weights: tuple[Float[Tensor, "H F N"], Float[Tensor, "H N F"]],
    biases: tuple[Float[Tensor, "H N"], Float[Tensor, "H F"]],
    norm: LayerNorm,
) -> Float[Tensor, "B T H F"]:
    """Outputs of whole sequences that start from W0, b0, in the dtype of q; differentiable in every argument. N = 4 F.

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
    pairs = (*state.inputs, *state.grads, state.rho, state.position)
    lo = list(state.remainders)
    return _prefill(q, k, v, rho, tau, norm.weight, norm.bias, norm.eps, *state.weights, lo, *state.biases, *pairs)


@torch.library.custom_op("ttt_bench::ttt_mlp_forward", mutates_args=())
def _forward(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, b2: Tensor,
    gamma: Tensor, beta: Tensor, eps: float, save: bool,
) -> list[Tensor]:  # fmt: skip
    """out, and if ``save`` w1 (transposed), w2, b1 and b2 before every chunk (else empty); with weights in memory z2, too."""
    tiles, out, kept = tiles_of(q, tau), q.new_empty(q.shape), _kept(q, save)
    q, k, v, rho, tau, gamma, beta = (x.contiguous() for x in (q, k, v, rho, tau, gamma, beta))
    w1, w2, b1, b2 = (x.contiguous() for x in (w1, w2, b1, b2))
    moved, _ = Held(tiles, (w1, w2), (b1, b2)).start(q.shape[0])
    _walk(Forward(tiles, eps, (q, k, v, rho, tau), (gamma, beta), moved, out, kept if save else None))
    return [out, *kept]


@_forward.register_fake
def _(q: Tensor, *rest: object) -> list[Tensor]:
    return [q.new_empty(q.shape), *_kept(q, bool(rest[-1]))]


def _kept(q: Tensor, save: bool) -> Tensors:
    batch, length, heads, head_dim = q.shape
    kept = chunk_weights(q, -(-length // CHUNK) if save else 0)
    if head_dim in IN_REGISTERS:
        return kept
    return *kept, q.new_empty(batch, length if save else 0, heads, head_dim, dtype=operand_dtype(q))


def _walk(arguments: Forward) -> None:
    (Forward.walk if arguments.tiles.F in IN_REGISTERS else tiled_chain.walk)(arguments)


@torch.library.custom_op("ttt_bench::ttt_mlp_backward", mutates_args=())
def _backward(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, w1: Tensor, w2: Tensor, b1: Tensor, b2: Tensor,
    gamma: Tensor, beta: Tensor, kept: list[Tensor], eps: float,
) -> list[Tensor]:  # fmt: skip
    """Gradients of q, k, v, rho, tau, w1, w2, b1, b2, gamma, beta."""
    arguments = (q, k, v, rho, tau, w1, w2, b1, b2, gamma, beta)
    dout, q, k, v, rho, tau, gamma, beta = (x.contiguous() for x in (dout, q, k, v, rho, tau, gamma, beta))
    (batch, length, heads, head_dim), tiles, chunks = q.shape, tiles_of(q, tau), kept[0].shape[1]

    def zeros(*shape: int) -> Tensor:
        return q.new_zeros(shape, dtype=torch.float32)

    wide = 4 * head_dim
    dviews = tuple(torch.empty_like(x) for x in (q, k, v))
    shares = (zeros(batch, length, heads), zeros(batch, chunks, heads, tiles.CHUNK), zeros(batch, chunks, heads))
    dnorm = tuple(zeros(batch, chunks, heads, head_dim) for _ in range(2))
    shapes = [(wide, head_dim), (wide, head_dim), (wide,), (head_dim,)]
    dstart, scale = tuple(zeros(batch, heads, *shape) for shape in shapes), gradient_scale(dout)
    Backward(tiles, eps, (q, k, v, rho, tau), (gamma, beta), tuple(kept), dout, scale, dviews, shares, dnorm, dstart).walk()
    drho, dtau, dtau_last = shares
    dtau = dtau.unflatten(-1, (-1, tiles.C)).sum((0, 1, 2, 3))
    dtau[-1] += dtau_last.sum()
    dw1, dw2, db1, db2 = ((x / scale.view(*scale.shape, *[1] * (x.ndim - 2))).sum(0) for x in dstart)
    found = [*dviews, drho, dtau, dw1.transpose(1, 2), dw2, db1, db2, *(x.sum((0, 1)) for x in dnorm)]
    return [x.to(a.dtype).contiguous() for x, a in zip(found, arguments, strict=True)]


@_backward.register_fake
def _(*tensors: Tensor) -> list[Tensor]:
    return [x.new_empty(x.shape) for x in tensors[1:12]]


def _save(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: list[Tensor]) -> None:
    *tensors, eps, _ = inputs
    ctx.save_for_backward(*tensors, *output[1:])  # type: ignore[arg-type]
    ctx.eps = eps  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)


def _gradients(ctx: torch.autograd.function.FunctionCtx, dout: list[Tensor]) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # type: ignore[attr-defined]  # asked for twice, a checkpoint refuses
    return (*_backward(dout[0], *saved[:11], list(saved[11:]), ctx.eps), None, None)  # type: ignore[attr-defined]


_forward.register_autograd(_gradients, setup_context=_save)


@torch.library.custom_op(
    "ttt_bench::ttt_mlp_prefill",
    mutates_args=("w1", "w2", "lo", "b1", "b2", "slot_k", "slot_x", "slot_d1", "slot_d2", "slot_rho", "position"),
)
def _prefill(
    q: Tensor, k: Tensor, v: Tensor, rho: Tensor, tau: Tensor, gamma: Tensor, beta: Tensor, eps: float,
    w1: Tensor, w2: Tensor, lo: list[Tensor], b1: Tensor, b2: Tensor,
    slot_k: Tensor, slot_x: Tensor, slot_d1: Tensor, slot_d2: Tensor, slot_rho: Tensor, position: Tensor,
) -> Tensor:  # fmt: skip
    """out; the state moves by T tokens. ``lo``: the remainders of w1 and w2, or nothing where they are float32."""
    tiles, out = tiles_of(q, tau), q.new_empty(q.shape)
    q, k, v, rho, tau, gamma, beta = (x.contiguous() for x in (q, k, v, rho, tau, gamma, beta))
    held = Held(tiles, (w1, w2), (b1, b2), lo)
    moved, means = held.start(q.shape[0])
    slots = (slot_k, slot_x, slot_d1, slot_d2, slot_rho, position)
    _walk(Forward(tiles, eps, (q, k, v, rho, tau), (gamma, beta), moved, out, slots=slots))
    held.finish(moved, means, position, q.shape[1])
    return out


@_prefill.register_fake
def _(q: Tensor, *_: object) -> Tensor:
    return q.new_empty(q.shape)


register_flops("ttt_mlp", (1, 4, 1))
