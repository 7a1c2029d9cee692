"""The oracle of the TTT layers, for an inner model of any depth: TTT-Linear has one layer, TTT-MLP two.

    f(x) = x + LN(g(x)),  g(x) = GELU(... GELU(x W1 + b1) ...) WL + bL          (paper, section 2.7)
    loss per token  1/2 |f(K) - V|^2 = 1/2 |LN(g(K)) - (V - K)|^2

All gradients of a mini-batch of C tokens are taken at the weights of its start. With eta[i, j] = tau_i rho_j the weights
after token i are W - sum_{j<=i} eta[i, j] X_j' D_j, so that a layer applied to its query x_i is (dual form, appendix A)

    x_i W + b - sum_{j<=i} eta[i, j] (x_i X_j' + 1) D_j .

Shapes: B batch, T time, H heads, F head dim, C mini-batch, I and O in- and output width of an inner layer.
The arithmetic is float32, or float64 where q or the weights are.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kernels.causal_conv.reference import advance, convolve
from kernels.opaque import opaque
from kernels.rotary import rotate
from kernels.ttt.state import InnerState, LayerNorm

Tensors = tuple[Tensor, ...]
Convolution = tuple[Float[Tensor, "E 1 K"], Float[Tensor, " E"]]


def init_state(weights: Tensors, biases: Tensors, batch: int, mini_batch: int, dtype: torch.dtype) -> InnerState:  # noqa: ARG001
    """The state before the first token, exact whatever the ``dtype`` of activations."""
    return InnerState.fresh(weights, biases, batch, mini_batch)


def views(
    x: Float[Tensor, "B T E"],
    conv_q: Convolution,
    conv_k: Convolution,
    tables: tuple[Float[Tensor, "C G"], Float[Tensor, "C G"]],
    past: Float[Tensor, "B S E"] | None = None,
    start: Int[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B T H F"], Float[Tensor, "B T H F"]]:
    """q and k of the Mamba backbone, of tokens that share ``x``: convolved, then rotated by their place in the mini-batch.

    F = 2 G.
    conv_q, conv_k: weight [E 1 K] and bias [E]. tables: cos and sin of each place, rounded to the dtype of x.
    start: the position of each row; None: the tokens are the first, and past holds zeros.
    past: the S = K - 1 inputs before, moved on in place; None: none are kept.
    """
    position = torch.arange(x.shape[1], device=x.device) + (0 if start is None else start[:, None])
    cos, sin = (table[position % len(table)].to(x.dtype) for table in tables)
    before = None if start is None else past
    q, k = (convolve(x, *conv, before).unflatten(-1, (-1, 2 * cos.shape[-1])) for conv in (conv_q, conv_k))
    if past is not None:
        advance(past, x)
    return rotate(q, (cos, sin)), rotate(k, (cos, sin))


def forward(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    rho: Float[Tensor, "B T H"],
    tau: Float[Tensor, " C"],
    weights: tuple[Float[Tensor, "H _ _"], ...],
    biases: tuple[Float[Tensor, "H _"], ...],
    norm: LayerNorm,
) -> Float[Tensor, "B T H F"]:
    """Outputs of whole sequences that start from W0, b0; differentiable in every argument."""
    batch, dtype = q.shape[0], _compute_dtype(q, weights[0])
    moving = tuple(w.to(dtype).expand(batch, *w.shape) for w in weights)
    shifting = tuple(b.to(dtype).expand(batch, *b.shape) for b in biases)
    n, size = q.shape[1], tau.shape[0]
    tiles = [_tiles(_pad(x.to(dtype).transpose(1, 2), size), size) for x in (q, k, v, rho[..., None])]
    answers = _Answers(norm)
    for query, key, value, gate in zip(*tiles, strict=True):
        eta = tau.to(dtype)[:, None] * gate.transpose(2, 3)
        inputs, grads = _gradients(key, value - key, moving, shifting, norm)
        answers.add(query, eta, inputs, grads, moving, shifting)
        moving, shifting = _commit(eta[:, :, -1:], inputs, grads, moving, shifting)
    return answers.all()[:, :, :n].transpose(1, 2).to(q.dtype)


@opaque
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
    """Outputs of T >= 1 further tokens; advances ``state`` in place. Rows may stand at different positions.

    Row b is laid out in tiles aligned to its own position mod C: the open pairs keep their slots before the first new
    token, and slots after the last one hold rho = 0, which contributes nothing.
    """
    dtype, size, n = state.weights[0].dtype, tau.shape[0], q.shape[1]
    first = (state.position % size).long()
    end = first + n
    length = math.ceil(int(end.max()) / size) * size
    slots = first[:, None] + torch.arange(n, device=q.device)

    def aligned(x: Tensor) -> Tensor:
        x = x.to(dtype).transpose(1, 2)
        laid = x.new_zeros(*x.shape[:2], length, x.shape[3])
        return laid.scatter_(2, slots[:, None, :, None].expand(x.shape), x)

    tiles = [_tiles(aligned(x), size) for x in (q, k, v, rho[..., None])]
    is_open = (torch.arange(size, device=q.device) < first[:, None])[:, None, :, None]
    weights, biases, answers = state.weights, state.biases, _Answers(norm)
    for m, (query, key, value, gate) in enumerate(zip(*tiles, strict=True)):
        inputs, grads = _gradients(key, value - key, weights, biases, norm)
        if m == 0:
            inputs, grads = _where(is_open, state.inputs, inputs), _where(is_open, state.grads, grads)
            gate = torch.where(is_open, state.rho[..., None], gate)
        eta = tau.to(dtype)[:, None] * gate.transpose(2, 3)
        answers.add(query, eta, inputs, grads, weights, biases)
        full = (end >= (m + 1) * size)[:, None, None, None]
        left_open = (end > m * size)[:, None, None, None] & ~full
        moved, shifted = _commit(eta[:, :, -1:], inputs, grads, weights, biases)
        weights, biases = _where(full, moved, weights), _where(full[..., 0], shifted, biases)
        _assign(state.inputs, _where(left_open, inputs, state.inputs))
        _assign(state.grads, _where(left_open, grads, state.grads))
        state.rho.copy_(torch.where(left_open[..., 0], gate[..., 0], state.rho))
    out = answers.all()  # before the state moves: the first tile reads it
    _assign(state.weights, weights)
    _assign(state.biases, biases)
    state.position += n
    return out.gather(2, slots[:, None, :, None].expand(-1, out.shape[1], -1, out.shape[3])).transpose(1, 2).to(q.dtype)


@opaque
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
    """Outputs of one further token per row; advances ``state`` in place, with static shapes and no host synchronisation."""
    dtype, size = state.weights[0].dtype, tau.shape[0]
    tau, slot = tau.to(dtype), (state.position % size).long()
    query, key, value = (x.to(dtype)[:, :, None] for x in (q, k, v))
    inputs, grads = _gradients(key, value - key, state.weights, state.biases, norm)
    rows = torch.arange(q.shape[0], device=q.device)
    for held, new in zip(state.inputs + state.grads, inputs + grads, strict=True):
        held[rows, :, slot] = new[:, :, 0]
    state.rho[rows, :, slot] = rho.to(dtype)
    seen = torch.arange(size, device=q.device) <= slot[:, None]
    gates = torch.where(seen[:, None], state.rho, 0.0)[:, :, None]
    out = _answer(query, tau[slot][:, None, None, None] * gates, state.inputs, state.grads, state.weights, state.biases, norm)
    last = (slot == size - 1)[:, None, None, None]
    weights, biases = _commit(tau[-1] * gates, state.inputs, state.grads, state.weights, state.biases)
    _assign(state.weights, _where(last, weights, state.weights))
    _assign(state.biases, _where(last[..., 0], biases, state.biases))
    state.position += 1
    return out[:, :, 0].to(q.dtype)


def inner_loss(
    k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"], weights: Tensors, biases: Tensors, norm: LayerNorm
) -> Float[Tensor, "B T H"]:
    """1/2 |f(K) - V|^2 of each token and head at given weights [B, H, I, O], biases [B, H, O] (paper, equation 4)."""
    key, value = k.transpose(1, 2), v.transpose(1, 2)
    _, prediction = _hidden(key.to(weights[0].dtype), weights, biases)
    return (0.5 * (_layer_norm(prediction, norm) - (value - key)).square().sum(-1)).transpose(1, 2)


def _compute_dtype(q: Tensor, weight: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(q.dtype, weight.dtype), torch.float32)


def _pad(x: Float[Tensor, "B H T F"], size: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, 0, 0, -x.shape[2] % size))


def _tiles(x: Float[Tensor, "B H T F"], size: int) -> Tensors:
    return x.unflatten(2, (-1, size)).unbind(2)


def _where(mask: Tensor, new: Tensors, old: Tensors) -> Tensors:
    return tuple(torch.where(mask, n, o) for n, o in zip(new, old, strict=True))


def _assign(targets: Tensors, values: Tensors) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _hidden(x: Float[Tensor, "B H C I"], weights: Tensors, biases: Tensors) -> tuple[list[Tensor], Tensor]:
    """Pre-activations Z of the hidden layers and the output g(x) of the inner model."""
    hidden: list[Tensor] = []
    z = x @ weights[0] + biases[0][:, :, None]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        hidden.append(z)
        z = gelu(z) @ weight + bias[:, :, None]
    return hidden, z


def _gradients(key: Tensor, target: Tensor, weights: Tensors, biases: Tensors, norm: LayerNorm) -> tuple[Tensors, Tensors]:
    """Inputs X and output gradients D of every inner layer, at the given weights; target = V - K."""
    hidden, z = _hidden(key, weights, biases)
    grads = [_norm_l2_gradient(z, target, norm)]
    for weight, pre in zip(reversed(weights[1:]), reversed(hidden), strict=True):
        grads.insert(0, (grads[0] @ weight.transpose(2, 3)) * gelu_gradient(pre))
    return (key, *map(gelu, hidden)), tuple(grads)


def _answer(
    query: Tensor, eta: Tensor, inputs: Tensors, grads: Tensors, weights: Tensors, biases: Tensors, norm: LayerNorm
) -> Float[Tensor, "B H C F"]:
    """f(Q) with row i at the weights after token i: the dual form, layer by layer. eta [B, H, rows, C]."""
    causal = torch.tril(eta) if eta.shape[2] > 1 else eta
    x = query
    for n, (held, grad, weight, bias) in enumerate(zip(inputs, grads, weights, biases, strict=True)):
        x = gelu(x) if n else x
        moved_bias = bias[:, :, None] - causal @ grad
        x = x @ weight - (causal * (x @ held.transpose(2, 3))) @ grad + moved_bias
    return query + _layer_norm(x, norm)


class _Answers:
    """Answers of tiles one after another, worked out for many tiles at a time: only the weights form a chain."""

    group = 16

    def __init__(self, norm: LayerNorm) -> None:
        self.norm = norm
        self.open: list[tuple[Tensor, Tensor, Tensors, Tensors, Tensors, Tensors]] = []
        self.done: list[Tensor] = []

    def add(self, query: Tensor, eta: Tensor, inputs: Tensors, grads: Tensors, weights: Tensors, biases: Tensors) -> None:
        """One tile, in the arguments of ``_answer``."""
        self.open.append((query, eta, inputs, grads, weights, biases))
        if len(self.open) == self.group:
            self._close()

    def all(self) -> Float[Tensor, "B H T F"]:
        """Answers of all tiles, in their order."""
        if self.open:
            self._close()
        return torch.cat(self.done, dim=2)

    def _close(self) -> None:
        queries, etas, inputs, grads, weights, biases = zip(*self.open, strict=True)
        inputs, grads, weights, biases = (
            tuple(torch.cat(tiles) for tiles in zip(*parts, strict=True)) for parts in (inputs, grads, weights, biases)
        )
        out = _answer(torch.cat(queries), torch.cat(etas), inputs, grads, weights, biases, self.norm)
        self.done.append(torch.cat(out.chunk(len(self.open)), dim=2))
        self.open = []


def _commit(
    last_eta: Float[Tensor, "B H 1 C"], inputs: Tensors, grads: Tensors, weights: Tensors, biases: Tensors
) -> tuple[Tensors, Tensors]:
    """Weights and biases after the whole mini-batch: W - (diag(eta) X)' D, b - eta D."""
    gate = last_eta.transpose(2, 3)
    moved = tuple(w - (gate * x).transpose(2, 3) @ d for w, x, d in zip(weights, inputs, grads, strict=True))
    shifted = tuple(b - (gate * d).sum(2) for b, d in zip(biases, grads, strict=True))
    return moved, shifted


def _layer_norm(z: Float[Tensor, "B H C F"], norm: LayerNorm) -> Tensor:
    normed = torch.nn.functional.layer_norm(z, z.shape[-1:], eps=norm.eps)
    return normed * norm.weight[:, None].to(z.dtype) + norm.bias[:, None].to(z.dtype)


def _norm_l2_gradient(z: Float[Tensor, "B H C F"], target: Tensor, norm: LayerNorm) -> Tensor:
    """Gradient of 1/2 |LN(z) - target|^2 by z, biased variance."""
    weight, bias = norm.weight[:, None].to(z.dtype), norm.bias[:, None].to(z.dtype)
    centred = z - z.mean(-1, keepdim=True)
    inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + norm.eps)
    normed = centred * inverse
    u = weight * (weight * normed + bias - target)
    return (u - u.mean(-1, keepdim=True) - normed * (u * normed).mean(-1, keepdim=True)) * inverse


_GELU_SLOPE = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715


def gelu(z: Tensor) -> Tensor:
    """GELU by tanh, elementwise: 1/2 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))."""
    return torch.nn.functional.gelu(z, approximate="tanh")


def gelu_gradient(z: Tensor) -> Tensor:
    """Derivative of ``gelu``, elementwise."""
    t = torch.tanh(_GELU_SLOPE * (z + _GELU_CUBIC * z**3))
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * _GELU_SLOPE * (1 + 3 * _GELU_CUBIC * z * z)
