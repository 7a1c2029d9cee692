"""Two sequence layers that are test-time training in disguise (arXiv 2407.04620, theorems 1 and 2).

1. A linear inner model f(x) = W x, trained from W = 0 by batch gradient descent with eta = 1/2 on the reconstruction loss,
   gives the outputs of causal linear attention (no feature map, no normaliser).
2. The Nadaraya-Watson estimator, an inner model without parameters that averages the labels v with the kernel
   exp(k.q / sqrt(F)), gives the outputs of causal self-attention.

Each side is written on its own, from its own definition; models/tests/test_theory.py compares them. For understanding, not for
speed. Shapes: T time, F head dim; one head of one sequence.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad


def batch_gradient_ttt(
    q: Float[Tensor, "T F"], k: Float[Tensor, "T F"], v: Float[Tensor, "T F"], eta: float = 0.5
) -> Float[Tensor, "T F"]:
    """Output t is W_t q_t with W_t = W_0 - eta grad(sum_{s<=t} |W k_s - v_s|^2)(W_0), W_0 = 0, and autograd's gradient."""
    start = q.new_zeros(v.shape[1], k.shape[1])

    def loss(weight: Float[Tensor, "F F"], tokens: int) -> Float[Tensor, ""]:
        return (k[:tokens] @ weight.T - v[:tokens]).square().sum()

    return torch.stack([(start - eta * grad(loss)(start, t + 1)) @ q[t] for t in range(q.shape[0])])


def linear_attention(q: Float[Tensor, "T F"], k: Float[Tensor, "T F"], v: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """Output t is sum_{s<=t} (q_t . k_s) v_s (arXiv 2006.16236, without feature map and normaliser)."""
    return torch.tril(q @ k.T) @ v


def nadaraya_watson(q: Float[Tensor, "T F"], k: Float[Tensor, "T F"], v: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """Output t is the average of v_s, s <= t, by the kernel exp(k_s . q_t / sqrt(F)): a regression of v on k, asked at q_t."""

    def estimate(query: Float[Tensor, " F"], keys: Float[Tensor, "S F"], labels: Float[Tensor, "S F"]) -> Float[Tensor, " F"]:
        kernel = torch.exp((keys * query).sum(-1) / math.sqrt(query.shape[0]))
        return (kernel[:, None] * labels).sum(0) / kernel.sum()

    return torch.stack([estimate(q[t], k[: t + 1], v[: t + 1]) for t in range(q.shape[0])])
