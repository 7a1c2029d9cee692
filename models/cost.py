"""What a layer costs: arithmetic and bytes, in closed form. No torch here.

One FLOP is one scalar addition, subtraction, multiplication, division, comparison, exponential, logarithm, tanh or root; a
multiply-add is two. Matrix products are counted apart from everything else (convolutions, scans, norms, softmax,
activations, elementwise work). Signs are free, and so is what depends on parameters or positions alone (exp(A_log), the
token factor, rotary tables): it is made once, not for every token. Training is 3x the forward pass by convention;
recomputation never counts.
"""

from dataclasses import dataclass, fields
from typing import Literal

Phase = Literal["train", "prefill", "step"]
Convention = Literal["causal", "full"]

# FLOPs of one element, and of one vector of n elements, by the formulas that the layers use.
SIGMOID = 3  # 1 / (1 + exp(-x)), the sign for free
SILU = 3  # x / (1 + exp(-x))
GELU = 9  # 1/2 z (1 + t), t = tanh(c (z + a z z z))
GELU_GRADIENT = 11  # 1/2 (1 + t) + 1/2 z (1 - t t) (c + d z z), beside GELU of the same z, whose t it takes
SOFTPLUS = 3  # log(1 + exp(x))


def rms_norm(n: int) -> int:
    """x / sqrt(mean(x^2) + eps) * weight: n squares, n - 1 additions, /n, + eps, root, n quotients, n products."""
    return 4 * n + 2


def layer_norm(n: int) -> int:
    """(x - mean) / sqrt(var + eps) * weight + bias: mean n, centre n, var 2n, + eps, root, 3n."""
    return 7 * n + 2


def norm_l2_gradient(n: int) -> int:
    """Gradient of 1/2 |LN(z) - target|^2 by z (ttt-lm-jax's fused form), with y the normalised z and s its deviation.

    u = weight (weight y + bias - target), then (u - mean(u) - y mean(u y)) / s: y 5n + 2, u 4n, means n and 2n, the rest 4n.
    """
    return 16 * n + 2


def softmax(queries: int, pairs: int, width: int) -> int:
    """Of queries with ``pairs`` keys in all: scale, maximum, minus it, exp and sum; each output of ``width`` over its sum."""
    return 5 * pairs + queries * (width - 2)


def causal_conv(n: int, taps: int) -> int:
    """bias + sum of ``taps`` products, in each of n channels."""
    return 2 * taps * n


def rope(n: int) -> int:
    """(u cos - v sin, u sin + v cos) for n/2 pairs; the tables depend on the position alone and are not counted."""
    return 3 * n


@dataclass(frozen=True)
class Cost:
    """FLOPs of one sequence (train, prefill) or of one token (step); bytes of the weights read and of the state held.

    state_traffic: bytes of the state that must be read and written: by a prefill, which begins it, all of it written; by a
    step what its form needs, in the mean over a mini-batch. Costs add up field by field. Bytes are those of the dtype that the
    layer's parameters have.
    """

    matmul_flops: int = 0
    other_flops: int = 0
    weight_bytes: int = 0
    state_bytes: int = 0
    state_traffic: int = 0

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return self.matmul_flops + self.other_flops

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))


def sequence_cost(
    phase: Phase, tokens: int, *, matmul: int, other: int, weights: int = 0, state: int = 0, traffic: int | None = None
) -> Cost:
    """Cost from FLOPs that every token has alike: ``matmul`` and ``other`` are forward FLOPs of one token.

    traffic: bytes of the state that a step reads and writes; all of it, once each, if not given.
    """
    factor = {"train": 3 * tokens, "prefill": tokens, "step": 1}[phase]
    moved = {"train": 0, "prefill": state, "step": 2 * state if traffic is None else traffic}[phase]
    return Cost(factor * matmul, factor * other, weights, 0 if phase == "train" else state, moved)
