"""The scan of Mamba-2 by its block decomposition (arXiv 2405.21060, section 6), one group of B and C for all heads.

    delta_t = softplus(dt_t + dt_bias)
    h_t = exp(delta_t a) h_{t-1} + delta_t x_t B_t'        y_t = h_t C_t + d x_t

Shapes: B batch, T time, H heads, P head dim, N state size. Within a chunk, with s the running sum of delta a,
y_i = sum_{j<=i} exp(s_i - s_j) (C_i B_j') delta_j x_j + exp(s_i) h C_i; only h goes from chunk to chunk. The state is
float32, or float64 where it is given so.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from kernels.opaque import opaque

CHUNK = 64


def forward(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
) -> Float[Tensor, "B T H P"]:
    """Outputs of whole sequences from h = 0, in float32 or wider; differentiable in every argument. a < 0."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    return _scan(x, dt, dt_bias, a, b, c, d, x.new_zeros(x.shape[0], *x.shape[2:], b.shape[2], dtype=dtype))[0]


@opaque
@torch.no_grad()
def prefill(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
    state: Float[Tensor, "B H P N"],
) -> Float[Tensor, "B T H P"]:
    """Outputs of T further tokens; advances ``state`` in place."""
    y, last = _scan(x, dt, dt_bias, a, b, c, d, state)
    state.copy_(last)
    return y


@opaque
@torch.no_grad()
def step(
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    dt_bias: Float[Tensor, " H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " H"],
    state: Float[Tensor, "B H P N"],
) -> Float[Tensor, "B H P"]:
    """Outputs of one further token per row; advances ``state`` in place."""
    wide, dt, b, c = (tensor.to(state.dtype) for tensor in (x, dt, b, c))
    delta = softplus(dt + dt_bias)[..., None]
    decay = torch.exp(delta * a[:, None])[..., None]
    state.copy_(torch.addcmul((delta * wide)[..., None] * b[:, None, None], decay, state))
    return ((state @ c[:, None, :, None])[..., 0] + d[:, None] * wide).to(x.dtype)


def _scan(
    x: Tensor, dt: Tensor, dt_bias: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h: Tensor
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    dtype, outs = h.dtype, []
    dt_bias, a, d = (tensor.to(dtype) for tensor in (dt_bias, a, d))
    for xs, dts, bs, cs in zip(*(tensor.to(dtype).split(CHUNK, dim=1) for tensor in (x, dt, b, c)), strict=True):
        deltas = softplus(dts + dt_bias)
        sums = (deltas * a).cumsum(1).transpose(1, 2)
        causal = torch.ones(sums.shape[2], sums.shape[2], dtype=torch.bool, device=x.device).tril()
        decay = (sums[..., None] - sums[..., None, :]).masked_fill(~causal, -torch.inf).exp()
        driven = (deltas[..., None] * xs).transpose(1, 2)
        inside = (decay * (cs @ bs.transpose(1, 2))[:, None]) @ driven
        carried = sums.exp()[..., None] * (cs[:, None] @ h.transpose(2, 3))
        outs.append((inside + carried).transpose(1, 2) + d[:, None] * xs)
        left = (sums[..., -1:] - sums).exp()[..., None] * driven
        h = sums[..., -1].exp()[..., None, None] * h + left.transpose(2, 3) @ bs[:, None]
    return torch.cat(outs, dim=1).to(x.dtype), h
