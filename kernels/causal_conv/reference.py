"""Depthwise causal convolution and SiLU: y_t = SiLU(bias + sum_j w_j x_{t-S+j}), zeros before the start.

Shapes: B batch, T time, E channels, K taps, S = K - 1. The state is the last S inputs, [B, S, E].
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu


def forward(x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]) -> Float[Tensor, "B T E"]:
    """Outputs of whole sequences; differentiable in every argument."""
    return silu(convolve(x, weight, bias))


@torch.no_grad()
def begin(
    x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B T E"]:
    """``prefill`` of the first tokens, before which ``past`` holds zeros."""
    advance(past, x)
    return forward(x, weight, bias)


@torch.no_grad()
def prefill(
    x: Float[Tensor, "B T E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B T E"]:
    """Outputs of T further tokens; advances ``past`` in place."""
    out = silu(convolve(x, weight, bias, past))
    advance(past, x)
    return out


@torch.no_grad()
def step(
    x: Float[Tensor, "B E"], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"], past: Float[Tensor, "B S E"]
) -> Float[Tensor, "B E"]:
    """Outputs of one further token per row; advances ``past`` in place."""
    return prefill(x[:, None], weight, bias, past)[:, 0]


def convolve(
    x: Float[Tensor, "B T E"],
    weight: Float[Tensor, "E 1 K"],
    bias: Float[Tensor, " E"],
    past: Float[Tensor, "B S E"] | None = None,
) -> Float[Tensor, "B T E"]:
    """The convolution alone, after ``past`` (zeros if not given), which is left as it is.

    Compiled it is a sum, fused with what is around it.
    """
    kept, length = weight.shape[2] - 1, x.shape[1]
    if torch.compiler.is_compiling():
        joined = pad(x, (0, 0, kept, 0))
        if past is not None:
            joined = joined + pad(past, (0, 0, 0, length))  # not torch.cat, which is stored before it is read
        return weigh([joined[:, j : j + length] for j in range(kept + 1)], weight, bias)
    joined = pad(x, (0, 0, kept, 0)) if past is None else torch.cat((past, x), dim=1)
    return conv1d(joined.transpose(1, 2), weight, bias, groups=x.shape[2]).transpose(1, 2)


def weigh(
    inputs: Sequence[Float[Tensor, "*B E"]], weight: Float[Tensor, "E 1 K"], bias: Float[Tensor, " E"]
) -> Float[Tensor, "*B E"]:
    """bias + sum_j w_j x_j of the K inputs of an output, the oldest first, summed in float32 at least."""
    wide = torch.promote_types(inputs[0].dtype, torch.float32)
    moved = (x.to(wide) * weight[:, 0, j].to(wide) for j, x in enumerate(inputs))
    return sum(moved, bias.to(wide)).to(inputs[0].dtype)


def advance(past: Float[Tensor, "B S E"], x: Float[Tensor, "B T E"]) -> None:
    """Makes ``past`` the last S inputs after ``x``, in place."""
    kept = past.shape[1]
    past.copy_(torch.cat((past, x[:, -kept:]), dim=1)[:, -kept:])
