"""Causal softmax attention by torch's scaled_dot_product_attention; scale 1/sqrt(F), no dropout.

prefill and step ask the device how much of the cache is filled, which a CUDA graph cannot hold: kernels/attention/split_kv.py
has a step that does not.

Shapes: B batch, T time, H heads, F head dim, M length of the preallocated cache.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from kernels.opaque import opaque


@dataclass
class Cache:
    """Keys and values of the tokens seen so far, [B, H, M, F]; row b holds ``position[b]`` of them."""

    key: Float[Tensor, "B H M F"]
    value: Float[Tensor, "B H M F"]
    position: Int[Tensor, " B"]


def forward(q: Float[Tensor, "B T H F"], k: Float[Tensor, "B T H F"], v: Float[Tensor, "B T H F"]) -> Float[Tensor, "B T H F"]:
    """Token t attends to tokens 0..t."""
    query, key, value = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2)


@torch.no_grad()
def begin(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    cache: Cache,
    whole: Callable[[Tensor, Tensor, Tensor], Tensor] = forward,
) -> Float[Tensor, "B T H F"]:
    """``prefill`` into a cache whose rows are all empty, as the caller knows: nothing asks the device, so a graph holds it.

    ``whole`` is the ``forward`` that takes sequences from their start.

    Raises:
        ValueError: the cache is too short for the tokens.
    """
    n = q.shape[1]
    _check_room(cache, n)
    cache.key[:, :, :n] = k.transpose(1, 2)
    cache.value[:, :, :n] = v.transpose(1, 2)
    cache.position += n
    return whole(q, k, v)


@opaque
@torch.no_grad()
def prefill(
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    cache: Cache,
    whole: Callable[[Tensor, Tensor, Tensor], Tensor] = forward,
) -> Float[Tensor, "B T H F"]:
    """Outputs of T further tokens after each row's position; writes them to ``cache``, in place. ``whole``: see ``begin``.

    Raises:
        ValueError: the cache is too short for the new tokens.
    """
    n = q.shape[1]
    end = int(cache.position.max()) + n
    if end == n:
        return begin(q, k, v, cache, whole)
    _check_room(cache, end)
    slots = cache.position.long()[:, None] + torch.arange(n, device=q.device)
    rows = torch.arange(q.shape[0], device=q.device)[:, None]
    cache.key.transpose(1, 2)[rows, slots] = k
    cache.value.transpose(1, 2)[rows, slots] = v
    cache.position += n
    seen = torch.arange(end, device=q.device) <= slots[:, :, None]
    keys, values = cache.key[:, :, :end], cache.value[:, :, :end]
    return scaled_dot_product_attention(q.transpose(1, 2), keys, values, attn_mask=seen[:, None]).transpose(1, 2)


@opaque
@torch.no_grad()
def step(
    q: Float[Tensor, "B H F"], k: Float[Tensor, "B H F"], v: Float[Tensor, "B H F"], cache: Cache
) -> Float[Tensor, "B H F"]:
    """Outputs of one further token per row; writes it to ``cache``, in place. Reads the filled part of the cache.

    Raises:
        ValueError: the cache is full.
    """
    return prefill(q[:, None], k[:, None], v[:, None], cache)[:, 0]


def _check_room(cache: Cache, tokens: int) -> None:
    if tokens > cache.key.shape[2]:
        raise ValueError(f"the cache holds {cache.key.shape[2]} tokens, {tokens} are needed; init_state with a larger max_len")
