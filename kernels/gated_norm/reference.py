"""RMSNorm(y SiLU(z)) weight, the gate before the norm (arXiv 2405.21060, section 7.1)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu


def forward(
    y: Float[Tensor, "*B E"], z: Float[Tensor, "*B E"], weight: Float[Tensor, " E"], eps: float = 1e-5
) -> Float[Tensor, "*B E"]:
    """Worked out in float32 or wider, returned in the dtype of ``y``; differentiable in y, z and weight."""
    dtype = torch.promote_types(y.dtype, torch.float32)
    gated = y.to(dtype) * silu(z.to(dtype))
    return (gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + eps) * weight.to(dtype)).to(y.dtype)
