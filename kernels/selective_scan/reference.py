"""The selective scan, token after token (arXiv 2312.00752, equations 2a, 2b and 4, algorithm 2).

    h_t = exp(dt_t A) h_{t-1} + dt_t u_t B_t        y_t = h_t C_t + D u_t

Shapes: B batch, T time, E inner width (d_inner), N state size. The state is float32, or float64 where it is given so.
"""

import torch
from jaxtyping import Float
from torch import Tensor

# The discretised tensors [B, chunk, E, N] are made with at most this many elements: memory stays flat in T, and they stay
# in a core's cache.
_ELEMENTS = 1 << 18


def forward(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
) -> Float[Tensor, "B T E"]:
    """Outputs of whole sequences from h = 0; differentiable in every argument. dt is positive (after softplus)."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    return _scan(u, dt, a, b, c, d, u.new_zeros(u.shape[0], *a.shape, dtype=dtype))[0]


@torch.no_grad()
def prefill(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B T E"]:
    """Outputs of T further tokens; advances ``state`` in place."""
    y, last = _scan(u, dt, a, b, c, d, state)
    state.copy_(last)
    return y


@torch.no_grad()
def step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    a: Float[Tensor, "E N"],
    b: Float[Tensor, "B N"],
    c: Float[Tensor, "B N"],
    d: Float[Tensor, " E"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B E"]:
    """Outputs of one further token per row; advances ``state`` in place."""
    u32, dt32, b32, c32 = (x.to(state.dtype) for x in (u, dt, b, c))
    decay = torch.exp(dt32[..., None] * a)
    state.copy_(torch.addcmul((dt32 * u32)[..., None] * b32[:, None], decay, state))
    return ((state @ c32[..., None])[..., 0] + d * u32).to(u.dtype)


def _scan(
    u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor, h: Tensor
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E N"]]:
    dtype, outs = h.dtype, []
    chunk = max(1, _ELEMENTS // h.numel())
    for us, dts, bs, cs in zip(*(x.to(dtype).split(chunk, dim=1) for x in (u, dt, b, c)), strict=True):
        decay = (dts[..., None] * a.to(dtype)).exp_()
        driven = (dts * us)[..., None] * bs[:, :, None]
        # unbind, not slicing: its backward is one stack instead of T zero-filled additions
        pairs = zip(decay.unbind(1), driven.unbind(1), strict=True)
        if torch.is_grad_enabled():
            states = torch.stack([h := torch.addcmul(driven_t, decay_t, h) for decay_t, driven_t in pairs], 1)
        else:  # each state overwrites what drove it
            states = driven
            for decay_t, driven_t in pairs:
                h = driven_t.addcmul_(decay_t, h)
        outs.append((states @ cs[..., None])[..., 0] + d.to(dtype) * us)
    return torch.cat(outs, 1).to(u.dtype), h
