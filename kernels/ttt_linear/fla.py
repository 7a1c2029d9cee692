"""TTT-Linear of flash-linear-attention (PyPI fla-core), for timing: the work is the same, the function is not.

Its learning rate multiplies the query's row, eta[i, j] = eta_i, where the paper's is tau_i rho_j, and its output adds LN to
z, where the paper adds it to q. It has no state to go on from, so neither prefill nor step.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.ttt.state import LayerNorm


def run(
    function: Callable[..., tuple[Any, ...]],
    q: Float[Tensor, "B T H F"],
    k: Float[Tensor, "B T H F"],
    v: Float[Tensor, "B T H F"],
    rho: Float[Tensor, "B T H"],
    tau: Float[Tensor, " C"],
    weights: tuple[Float[Tensor, "H F F"], ...],
    biases: tuple[Float[Tensor, "H F"], ...],
    norm: LayerNorm,
) -> Float[Tensor, "B T H F"]:
    """Outputs of ``function`` (chunk_ttt_linear or fused_chunk_ttt_linear of fla.ops.ttt); eta_i = tau_i rho_i.

    eta and the norm are in q's dtype, which its kernels need.
    """
    batch, time = q.shape[:2]
    rates = tau.repeat(-(-time // tau.shape[0]))[:time, None]
    options = {
        "eta": (rho * rates).to(q.dtype)[..., None],
        "scale": 1.0,
        "eps": norm.eps,
        "chunk_size": tau.shape[0],
        "initial_state": weights[0].to(torch.float32).repeat(batch, 1, 1, 1),
        "initial_state_bias": biases[0].to(torch.float32).repeat(batch, 1, 1)[:, :, None],
    }
    out: Tensor = function(q, k, v, norm.weight.to(q.dtype), norm.bias.to(q.dtype), **options)[0]
    return out
