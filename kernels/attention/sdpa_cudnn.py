"""Causal attention by one backend of torch's scaled_dot_product_attention, CUDNN_ATTENTION: where it cannot run, an error.

It takes sequences from their start. What goes on from a cache is the reference's for pieces, split_kv's for steps.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import reference
from kernels.attention.reference import Cache
from kernels.attention.split_kv import step

__all__ = ["begin", "forward", "prefill", "step"]


def forward(q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"]) -> Float[Tensor, "B T H F"]:
    """Token t attends to tokens 0..t."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return reference.forward(q, k, v)


@torch.no_grad()
def begin(
    q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"], cache: Cache
) -> Float[Tensor, "B T H F"]:
    """As the reference."""
    return reference.begin(q, k, v, cache, whole=forward)


@torch.no_grad()
def prefill(
    q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"], cache: Cache
) -> Float[Tensor, "B T H F"]:
    """As the reference."""
    return reference.prefill(q, k, v, cache, whole=forward)
