"""What a layer costs: arithmetic and bytes, in closed form. No torch here.

One FLOP is one scalar addition, subtraction, multiplication, division, comparison, exponential, logarithm, tanh or root; a
multiply-add is two. Matrix products are counted apart from everything else (convolutions, scans, norms, softmax,
activations, elementwise work). Training is 3x the forward pass by convention; recomputation never counts.
"""

from dataclasses import dataclass, fields
from typing import Literal

Phase = Literal["train", "prefill", "step"]
Convention = Literal["causal", "full"]

# FLOPs of one element, and of one vector of n elements, by the formulas that the layers use.
SIGMOID = 3  # 1 / (1 + exp(-x)), the sign for free
SILU = SIGMOID + 1
GELU = 9  # 1/2 z (1 + tanh(c (z + a z z z)))
GELU_GRADIENT = 16  # of the same z, tanh included
SOFTPLUS = 3  # log(1 + exp(x))


def rms_norm(n: int) -> int:
    """x * rsqrt(mean(x^2) + eps) * weight: n squares, n - 1 additions, /n, + eps, rsqrt, 2n products."""
    return 4 * n + 2


def layer_norm(n: int) -> int:
    """(x - mean) * rsqrt(var + eps) * weight + bias: mean n, centre n, var 2n, + eps, rsqrt, 3n."""
    return 7 * n + 2


def causal_conv(n: int, taps: int) -> int:
    """bias + sum of ``taps`` products, in each of n channels."""
    return 2 * taps * n


def rope(n: int) -> int:
    """(u cos - v sin, u sin + v cos) for n/2 pairs."""
    return 3 * n


@dataclass(frozen=True)
class Cost:
    """FLOPs of one sequence (train, prefill) or of one token (step); bytes of the weights read and of the state held.

    Adds and multiplies elementwise; dtype of the bytes is what ``cost`` was asked for.
    """

    matmul_flops: int = 0
    other_flops: int = 0
    weight_bytes: int = 0
    state_bytes: int = 0

    @property
    def flops(self) -> int:
        """All FLOPs."""
        return self.matmul_flops + self.other_flops

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)))


def sequence_cost(
    phase: Phase, tokens: int, *, matmul: int, other: int, weights: int = 0, state: int = 0
) -> Cost:
    """Cost from FLOPs that every token has alike: ``matmul`` and ``other`` are forward FLOPs of one token."""
    factor = {"train": 3 * tokens, "prefill": tokens, "step": 1}[phase]
    return Cost(factor * matmul, factor * other, weights, 0 if phase == "train" else state)
