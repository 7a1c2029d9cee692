"""The public state of a TTT layer: weights at the start of the open mini-batch, its open pairs, the position.

The update of a mini-batch is a sum of at most C rank-one terms, so instead of a dense gradient sum the state keeps
the *pairs* that make it up: for each inner layer its input X and the gradient D of its output, with the gate rho.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass
class LayerNorm:
    """Inner layer norm, separate per head (paper, appendix A; gamma, beta of ttt_norm)."""

    weight: Float[Tensor, "H F"]
    bias: Float[Tensor, "H F"]
    eps: float = 1e-6


@dataclass
class InnerState:
    """State of a batch of sequences; row b stands at ``position[b]``, slot i = position mod C of its mini-batch.

    weights: per inner layer [B, H, I, O], at the start of the open mini-batch (W of the paper)
    biases:  per inner layer [B, H, O], float32 or wider
    rho:     [B, H, C] gate of each open pair, without the token factor tau; slots from i on are undefined; dtype of biases
    inputs:  per inner layer [B, H, C, I] inputs of the open pairs (K, and X2 = GELU(Z1) for an MLP)
    grads:   per inner layer [B, H, C, O] gradients of the inner loss by that layer's output (D1, D2)
    position: [B] int32, tokens read

    Two forms. *Exact*: weights and pairs in float32 or wider, ``remainders`` empty. *Split*: ``weights`` hold W rounded to
    float16, the operand of the matrix units and all that a token reads; ``remainders`` hold W - weights in bfloat16, which
    only a commit touches, once in C tokens (together 22 bits of W's mantissa); pairs are float16.
    """

    weights: tuple[Float[Tensor, "B H _ _"], ...]
    biases: tuple[Float[Tensor, "B H _"], ...]
    rho: Float[Tensor, "B H C"]
    inputs: tuple[Float[Tensor, "B H C _"], ...]
    grads: tuple[Float[Tensor, "B H C _"], ...]
    position: Int[Tensor, " B"]
    remainders: tuple[Float[Tensor, "B H _ _"], ...] = ()

    @classmethod
    def fresh(
        cls,
        weights: tuple[Float[Tensor, "H _ _"], ...],
        biases: tuple[Float[Tensor, "H _"], ...],
        batch: int,
        mini_batch: int,
        *,
        split: bool = False,
    ) -> "InnerState":
        """The state before the first token of ``batch`` sequences: every row starts from W0, b0 (copied)."""
        dtype = torch.promote_types(weights[0].dtype, torch.float32)

        def start(x: Tensor) -> Tensor:
            return x.detach().to(dtype).repeat(batch, *(1 for _ in x.shape))

        def empty(*width: int, of: torch.dtype = dtype) -> Tensor:
            return weights[0].new_zeros(batch, weights[0].shape[0], mini_batch, *width, dtype=of)

        pairs = torch.float16 if split else dtype
        halves = [split_weight(start(w)) for w in weights] if split else []
        return cls(
            weights=tuple(hi for hi, _ in halves) if split else tuple(start(w) for w in weights),
            biases=tuple(start(b) for b in biases),
            rho=empty(),
            inputs=tuple(empty(w.shape[1], of=pairs) for w in weights),
            grads=tuple(empty(w.shape[2], of=pairs) for w in weights),
            position=weights[0].new_zeros(batch, dtype=torch.int32),
            remainders=tuple(lo for _, lo in halves),
        )

    def dense(self) -> tuple[Float[Tensor, "B H _ _"], ...]:
        """Weights of every inner layer in float32 or wider, whichever the form."""
        if not self.remainders:
            return self.weights
        return tuple(hi.float() + lo.float() for hi, lo in zip(self.weights, self.remainders, strict=True))


def split_weight(weight: Float[Tensor, "*_"]) -> tuple[Float[Tensor, "*_"], Float[Tensor, "*_"]]:
    """W rounded to float16 (saturated at its largest value) and the remainder in bfloat16."""
    largest = torch.finfo(torch.float16).max
    hi = weight.clamp(-largest, largest).to(torch.float16)
    return hi, (weight - hi.to(weight.dtype)).to(torch.bfloat16)
