"""Small parts that several layers share: linear maps, RMSNorm, SwiGLU, tables of rotary embedding, causal convolution.

They compute in the dtype of their input, to which they cast their parameters, so that float32 parameters train in bfloat16.
Not by autocast, which makes residuals, norms and rotated q, k float32: twice the bytes, and other numbers than inference.
"""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear as product
from torch.nn.functional import silu

from kernels.causal_conv.reference import convolve
from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.mixer import Size, Stateless


class Linear(nn.Linear):
    """x W' + b in the dtype of x."""

    def forward(self, x: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        bias = cast("Tensor | None", self.bias)
        return product(x, self.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def linear(inputs: int, outputs: int, std: float = 0.02) -> Linear:
    """A projection without bias, N(0, std^2) (ttt-lm-jax's initializer_range)."""
    layer = Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


@torch.no_grad()
def side_by_side(weights: Sequence[Tensor]) -> Float[Tensor, "O D"]:
    """Their rows in one tensor, of which each becomes a part; as many as keep rows of a product aligned."""
    rows = sum(len(weight) for weight in weights)
    united = weights[0].new_zeros(-(-rows // 64) * 64, weights[0].shape[1])
    parts = united.split([*map(len, weights), len(united) - rows])
    for weight, part in zip(weights, parts, strict=False):
        weight.data = part.copy_(weight)
    return united


def products(
    x: Float[Tensor, "*batch D"], weights: Sequence[Tensor], united: Float[Tensor, "O D"] | None
) -> list[Float[Tensor, "*batch _"]]:
    """x W' for each W [O, D], by one product where they lie side by side: of few tokens, whose time is that of reading W.

    Parts of it are not contiguous. Gradients are those of each W, so that where they are wanted each has its own product.
    """
    if united is None or torch.is_grad_enabled():
        return [product(x, weight.to(x.dtype)) for weight in weights]
    return list(product(x, united).split([*map(len, weights), len(united) - sum(map(len, weights))], dim=-1)[: len(weights)])


class RMSNorm(nn.Module):
    """x / rms(x), in float32 at least; the weight multiplies after the cast back (as Llama)."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return self.weight.to(x.dtype) * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


class SwiGLU(Stateless):
    """down(SiLU(gate x) * up x), the feed-forward layer of Llama (arXiv 2002.05202)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.gate, self.up = linear(size.width, size.ffn), linear(size.width, size.ffn)
        self.down = linear(size.ffn, size.width)

    def parallel(self) -> list[Tensor]:
        return [self.gate.weight, self.up.weight]

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        gate, up = products(x, self.parallel(), self.united)
        return self.down(silu(gate) * up)

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        ffn, width = self.gate.weight.shape
        other = ffn * (cost.SILU + 1)
        return sequence_cost(phase, context, matmul=2 * 3 * width * ffn, other=other, weights=self.parameter_bytes())


class Rope(nn.Module):
    """cos and sin of position * theta^(-2m/width), m = 0 .. width/2 - 1, for positions below ``length``.

    They are looked up: torch.compile would work out an angle anew, in float64, for each number that it rotates. Longer tables
    are two, as cos and sin of a sum are products: of a position's last STEP and of what is left.
    """

    STEP = 512
    cos: Tensor
    sin: Tensor
    far_cos: Tensor
    far_sin: Tensor

    def __init__(self, width: int, theta: float, length: int) -> None:
        super().__init__()
        self.theta, self.length = theta, length
        turn = theta ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
        near, far = torch.arange(min(length, self.STEP)), torch.arange(-(-length // self.STEP)) * self.STEP
        for name, position in (("", near), ("far_", far)):
            angle = position[:, None] * turn
            self.register_buffer(f"{name}cos", angle.cos(), persistent=False)
            self.register_buffer(f"{name}sin", angle.sin(), persistent=False)

    def tables(self) -> tuple[Float[Tensor, "M _"], Float[Tensor, "M _"]]:
        """Of all positions, in float64, as they are kept."""
        if self.length <= self.STEP:
            return self.cos, self.sin
        return self(torch.arange(self.length, device=self.cos.device), self.cos.dtype)

    def forward(
        self, position: Int[Tensor, "*batch T"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "*batch T _"], Float[Tensor, "*batch T _"]]:
        """Tables of such positions in ``dtype``, worked out in float64."""
        if self.length <= self.STEP:
            return self.cos[position].to(dtype), self.sin[position].to(dtype)
        near, far = position % self.STEP, position // self.STEP
        a, b, c, d = self.cos[near], self.sin[near], self.far_cos[far], self.far_sin[far]
        return (a * c - b * d).to(dtype), (b * c + a * d).to(dtype)


class CausalConv(nn.Module):
    """Depthwise causal convolution with bias: y_t = bias + sum_j w_j x_{t-3+j}, zeros before the start.

    Its state is the last ``taps - 1`` inputs, [B, taps - 1, D].
    """

    def __init__(self, width: int, taps: int = 4) -> None:
        super().__init__()
        self.taps = taps
        self.weight = nn.Parameter(torch.empty(width, 1, taps).normal_(std=taps**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def init_state(self, batch: int) -> Float[Tensor, "B S D"]:
        """The inputs before the start: zeros."""
        return self.weight.new_zeros(batch, self.taps - 1, self.weight.shape[0])

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Outputs of whole sequences."""
        return convolve(x, *self.parameters_in(x.dtype))

    def parameters_in(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Weight and bias as operands of ``dtype``."""
        return self.weight.to(dtype), self.bias.to(dtype)

    def flops(self) -> int:
        """FLOPs of one token."""
        return cost.causal_conv(self.weight.shape[0], self.taps)
