"""The short convolution before the sequence layer, a residual branch of its own (pre_conv of the Mamba backbone)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.causal_conv.reference import advance
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv
from models.mixer import Mixer, Size, state_bytes


@dataclass
class ConvState:
    """The last inputs of the convolution."""

    past: Float[Tensor, "B S D"]


class ShortConv(Mixer):
    """Depthwise causal convolution, kernel 4, bias, no activation."""

    def __init__(self, size: Size, taps: int = 4) -> None:
        super().__init__()
        self.conv = CausalConv(size.width, taps)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.conv(x)

    def init_state(self, batch: int, max_len: int) -> ConvState:
        return ConvState(self.conv.init_state(batch))

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: ConvState) -> Float[Tensor, "B T D"]:
        advance(state.past, x)
        return self.conv(x)

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: ConvState) -> Float[Tensor, "B T D"]:
        out = self.conv(x, state.past)
        advance(state.past, x)
        return out

    def step(self, x: Float[Tensor, "B D"], state: ConvState) -> Float[Tensor, "B D"]:
        return self.prefill(x[:, None], state)[:, 0]

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(phase, context, matmul=0, other=self.conv.flops(), weights=self.parameter_bytes(), state=state)
