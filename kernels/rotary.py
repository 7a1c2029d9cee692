"""Rotary position embedding (arXiv 2104.09864)."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotate(
    x: Float[Tensor, "*batch H F"], tables: tuple[Float[Tensor, "*tables G"], Float[Tensor, "*tables G"]]
) -> Float[Tensor, "*batch H F"]:
    """Rotates dims 2m and 2m + 1 together (interleaved, as EasyLM) by cos and sin: (u cos - v sin, u sin + v cos)."""
    cos, sin = (t[..., None, :] for t in tables)
    u, v = x[..., ::2], x[..., 1::2]
    return torch.stack((u * cos - v * sin, u * sin + v * cos), dim=-1).flatten(-2)
