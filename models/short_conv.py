"""The short convolution before the sequence layer, a residual branch of its own (pre_conv of the Mamba backbone)."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.causal_conv.reference import convolve, weigh
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv
from models.mixer import Mixer, Size, state_bytes


@dataclass
class ConvState:
    """The last inputs of the convolution, the oldest first.

    A tensor each: a step moves every one of them, and compiled it does so in the launch that reads them.
    """

    past: tuple[Float[Tensor, "B D"], ...]


class ShortConv(Mixer):
    """Depthwise causal convolution, kernel 4, bias, no activation."""

    def __init__(self, size: Size, taps: int = 4) -> None:
        super().__init__()
        self.conv = CausalConv(size.width, taps)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.conv(x)

    def derived(self) -> Float[Tensor, "K 1 D"]:
        """The weights tap by tap: neighbours in memory are of neighbouring channels, as in the inputs that they weigh."""
        return self.conv.weight.transpose(0, 2).contiguous()

    def _operands(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.kept().transpose(0, 2).to(dtype), self.conv.bias.to(dtype)

    def init_state(self, batch: int, max_len: int) -> ConvState:
        return ConvState(tuple(past.contiguous() for past in self.conv.init_state(batch).unbind(1)))

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: ConvState) -> Float[Tensor, "B T D"]:
        self._advance(x, state)
        return convolve(x, *self._operands(x.dtype))

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: ConvState) -> Float[Tensor, "B T D"]:
        out = convolve(x, *self._operands(x.dtype), torch.stack(state.past, dim=1))
        self._advance(x, state)
        return out

    def _advance(self, x: Float[Tensor, "B T D"], state: ConvState) -> None:
        """Each takes what stands T places after it, from old to new: what is taken was not written yet."""
        inputs = [*state.past, *x[:, -len(state.past) :].unbind(1)]
        for past, later in zip(state.past, inputs[-len(state.past) :], strict=True):
            past.copy_(later)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: ConvState) -> Float[Tensor, "B D"]:
        inputs = (*state.past, x)
        out = weigh(inputs, *self._operands(x.dtype))
        for past, later in pairwise(inputs):
            past.copy_(later)
        return out

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(phase, context, matmul=0, other=self.conv.flops(), weights=self.parameter_bytes(), state=state)
