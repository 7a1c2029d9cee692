"""Gate and norm by one Triton kernel of mamba-ssm, whose offsets have 32 bits: more tokens go through in pieces."""

import torch
from jaxtyping import Float
from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn
from torch import Tensor

from kernels.opaque import opaque
from kernels.pieces import pieces


@opaque
def forward(
    y: Float[Tensor, "*B E"], z: Float[Tensor, "*B E"], weight: Float[Tensor, " E"], eps: float = 1e-5
) -> Float[Tensor, "*B E"]:
    """As the reference."""
    tokens, gates = y.flatten(0, -2), z.flatten(0, -2)
    parts: list[Tensor] = [
        rmsnorm_fn(tokens[at], weight, None, z=gates[at], eps=eps, norm_before_gate=False)
        for at in pieces(len(tokens), max(tokens.stride(0), gates.stride(0)))
    ]
    return (torch.cat(parts) if len(parts) > 1 else parts[0]).view(y.shape)
