"""Gate and norm by one Triton kernel of mamba-ssm."""

from jaxtyping import Float
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from torch import Tensor


def forward(
    y: Float[Tensor, "*B E"], z: Float[Tensor, "*B E"], weight: Float[Tensor, " E"], eps: float = 1e-5
) -> Float[Tensor, "*B E"]:
    """As the reference."""
    out: Tensor = rmsnorm_fn(y, weight, None, z=z, eps=eps, norm_before_gate=False)
    return out
