"""The selective scan, token after token (arXiv 2312.00752, equations 2a, 2b and 4, algorithm 2), and Mamba's gate.

    delta_t = softplus(dt_t + dt_bias)
    h_t = exp(delta_t A) h_{t-1} + delta_t u_t B_t        y_t = (h_t C_t + D u_t) SiLU(z_t)

Shapes: B batch, T time, E inner width (d_inner), N state size, R rank of dt. The state is float32, or float64 where it is
given so. Without z there is no gate.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu, softplus

from kernels.opaque import opaque

# The discretised tensors [B, chunk, E, N] are made with at most this many elements: memory stays flat in T, and they stay
# in a core's cache.
_ELEMENTS = 1 << 18


def forward(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    z: Float[Tensor, "B T E"] | None = None,
) -> Float[Tensor, "B T E"]:
    """Outputs of whole sequences from h = 0; differentiable in every argument."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    return _scan(u, dt, dt_bias, a, b, c, d, z, u.new_zeros(u.shape[0], *a.shape, dtype=dtype))[0]


@opaque
@torch.no_grad()
def prefill(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
    z: Float[Tensor, "B T E"] | None = None,
) -> Float[Tensor, "B T E"]:
    """Outputs of T further tokens; advances ``state`` in place."""
    y, last = _scan(u, dt, dt_bias, a, b, c, d, z, state)
    state.copy_(last)
    return y


@opaque
@torch.no_grad()
def step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    dt_bias: Float[Tensor, " E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
    z: Float[Tensor, "B E"] | None = None,
) -> Float[Tensor, "B E"]:
    """Outputs of one further token per row; advances ``state`` in place."""
    wide, dt, b, c = (x.to(state.dtype) for x in (u, dt, b, c))
    delta = softplus(dt + dt_bias)
    decay = torch.exp(delta[..., None] * a)
    state.copy_(torch.addcmul((delta * wide)[..., None] * b[:, None], decay, state))
    return _gated((state @ c[..., None])[..., 0] + d * wide, z).to(u.dtype)


def project(x: Float[Tensor, "*B R"], weight: Float[Tensor, "E R"]) -> Float[Tensor, "*B E"]:
    """x W', laid out as this scan reads its inputs best."""
    return linear(x, weight)


def _gated(y: Tensor, z: Tensor | None) -> Tensor:
    return y if z is None else y * silu(z.to(y.dtype))


def _scan(
    u: Tensor, dt: Tensor, dt_bias: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, z: Tensor | None, h: Tensor
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E N"]]:
    dtype, outs = h.dtype, []
    chunk = max(1, _ELEMENTS // h.numel())
    for us, dts, bs, cs in zip(*(x.to(dtype).split(chunk, dim=1) for x in (u, dt, b, c)), strict=True):
        deltas = softplus(dts + dt_bias.to(dtype))
        decay = (deltas[..., None] * a.to(dtype)).exp_()
        driven = (deltas * us)[..., None] * bs[:, :, None]
        # unbind, not slicing: its backward is one stack instead of T zero-filled additions
        pairs = zip(decay.unbind(1), driven.unbind(1), strict=True)
        if torch.is_grad_enabled():
            states = torch.stack([h := torch.addcmul(driven_t, decay_t, h) for decay_t, driven_t in pairs], 1)
        else:  # each state overwrites what drove it
            states = driven
            for decay_t, driven_t in pairs:
                h = driven_t.addcmul_(decay_t, h)
        outs.append((states @ cs[..., None])[..., 0] + d.to(dtype) * us)
    return _gated(torch.cat(outs, 1), z).to(u.dtype), h
