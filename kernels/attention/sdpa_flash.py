"""Causal attention by one backend of torch's scaled_dot_product_attention, FLASH_ATTENTION: where it cannot run, an error.

Whole sequences only: a cache needs kernels/attention/reference.py.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.attention import reference


def forward(q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"]) -> Float[Tensor, "B T H F"]:
    """Token t attends to tokens 0..t."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return reference.forward(q, k, v)
