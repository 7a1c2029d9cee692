"""The scan of Mamba-2 by its block decomposition (arXiv 2405.21060, section 6), one group of B and C for all heads.

    h_t = exp(dt_t a) h_{t-1} + dt_t x_t B_t'        y_t = h_t C_t + d x_t

Shapes: B batch, T time, H heads, P head dim, N state size. Within a chunk, with s the running sum of dt a,
y_i = sum_{j<=i} exp(s_i - s_j) (C_i B_j') dt_j x_j + exp(s_i) h C_i; only h goes from chunk to chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK = 64


def forward(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    a: Float[Tensor, " H"],
    b: Float[Tensor, "B T N"],
    c: Float[Tensor, "B T N"],
    d: Float[Tensor, " H"],
) -> Float[Tensor, "B T H P"]:
    """Outputs of whole sequences from h = 0, in float32 or wider; differentiable in every argument. dt > 0, a < 0."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    a, d = a.to(dtype), d.to(dtype)
    h = x.new_zeros(x.shape[0], *x.shape[2:], b.shape[2], dtype=dtype)
    outs = []
    for xs, dts, bs, cs in zip(*(tensor.to(dtype).split(CHUNK, dim=1) for tensor in (x, dt, b, c)), strict=True):
        sums = (dts * a).cumsum(1).transpose(1, 2)
        causal = torch.ones(sums.shape[2], sums.shape[2], dtype=torch.bool, device=x.device).tril()
        decay = (sums[..., None] - sums[..., None, :]).masked_fill(~causal, -torch.inf).exp()
        driven = (dts[..., None] * xs).transpose(1, 2)
        inside = (decay * (cs @ bs.transpose(1, 2))[:, None]) @ driven
        carried = sums.exp()[..., None] * (cs[:, None] @ h.transpose(2, 3))
        outs.append((inside + carried).transpose(1, 2) + d[:, None] * xs)
        left = (sums[..., -1:] - sums).exp()[..., None] * driven
        h = sums[..., -1].exp()[..., None, None] * h + left.transpose(2, 3) @ bs[:, None]
    return torch.cat(outs, dim=1).to(x.dtype)
