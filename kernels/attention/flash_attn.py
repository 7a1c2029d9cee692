"""Causal attention by flash-attn 2, in 16 bits: over a cache it reads the filled part, whose length stays on the device."""

import torch
from flash_attn import flash_attn_func, flash_attn_with_kvcache
from jaxtyping import Float
from torch import Tensor

from kernels.attention import reference
from kernels.attention.reference import Cache
from kernels.opaque import opaque


def forward(q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"]) -> Float[Tensor, "B T H F"]:
    """Token t attends to tokens 0..t."""
    out: Tensor = flash_attn_func(q, k, v, causal=True)
    return out


@opaque
@torch.no_grad()
def begin(
    q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"], cache: Cache
) -> Float[Tensor, "B T H F"]:
    """As the reference."""
    return reference.begin(q, k, v, cache, whole=forward)


@opaque
@torch.no_grad()
def prefill(
    q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"], cache: Cache
) -> Float[Tensor, "B T H F"]:
    """As the reference. A cache too short is a failed assertion on the device, which alone knows the positions."""
    torch._assert_async(cache.position.max() + q.shape[1] <= cache.key.shape[2], "too short a cache; a larger max_len")  # noqa: SLF001
    return _attend(q, k, v, cache)


@opaque
@torch.no_grad()
def step(
    q: Float[Tensor, "B H F"], k: Float[Tensor, "B H F"], v: Float[Tensor, "B H F"], cache: Cache
) -> Float[Tensor, "B H F"]:
    """As the reference; that the cache is not full the caller sees to."""
    return _attend(q[:, None], k[:, None], v[:, None], cache)[:, 0]


def _attend(q: Tensor, k: Tensor, v: Tensor, cache: Cache) -> Tensor:
    keys, values = cache.key.transpose(1, 2), cache.value.transpose(1, 2)  # it takes any strides but the last
    out: Tensor = flash_attn_with_kvcache(q, keys, values, k, v, cache_seqlens=cache.position, causal=True)
    cache.position += q.shape[1]
    return out
