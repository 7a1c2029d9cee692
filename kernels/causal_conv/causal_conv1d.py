"""The convolution and SiLU by the CUDA kernels of causal-conv1d; one token by ours.

They read [B, E, T] with either E or T densest in memory, the former with strides in multiples of 8; inputs laid out
otherwise are copied.
"""

import torch
from causal_conv1d import causal_conv1d_fn
from jaxtyping import Float
from torch import Tensor

from kernels.causal_conv.reference import advance
from kernels.causal_conv.step import step
from kernels.opaque import opaque

__all__ = ["begin", "forward", "prefill", "step"]


@opaque
def forward(x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]) -> Float[Tensor, "B T E"]:
    """As the reference, laid out as ``x`` is."""
    if x.stride(1) != 1 and (x.stride(0) % 8 or x.stride(1) % 8):
        x = x.contiguous()
    out: Tensor = causal_conv1d_fn(x.transpose(1, 2), weight[:, 0], bias, activation="silu")
    return out.transpose(1, 2)


@opaque
@torch.no_grad()
def begin(
    x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B T E"]:
    """``prefill`` of the first tokens, before which ``past`` holds zeros."""
    advance(past, x)
    return forward(x, weight, bias)


@opaque
@torch.no_grad()
def prefill(
    x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B T E"]:
    """As the reference. The first S outputs are made anew: only one of the two layouts can be given a state."""
    kept, out = past.shape[1], forward(x, weight, bias)
    out[:, :kept] = forward(torch.cat((past, x[:, :kept]), dim=1), weight, bias)[:, kept:]
    advance(past, x)
    return out
