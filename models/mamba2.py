"""Mamba-2 (arXiv 2405.21060, section 7.1, figure 6): in -> conv -> SiLU -> SSD -> gate -> RMSNorm -> out.

Symbols: E d_inner = expand D, H heads of P = head_dim channels, N d_state; one group of B and C for all heads. Initialised as
mamba-ssm does. P is 64, or the size's own head dim where that is less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels import causal_conv, gated_norm
from kernels.ssd import OP
from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv, Linear
from models.mamba import inverse_softplus
from models.mixer import Mixer, Size, SizeError, state_bytes


@dataclass
class Mamba2State:
    """The last inputs of the convolution and the state h of the scan.

    h is float32 for 16-bit weights too, though mamba-ssm's cache is then 16-bit: exp(-1e-3), a slow head's decay, moves a
    bfloat16 number by less than half a unit in its last place, and steps drift from what prefill gives.
    """

    past: Float[Tensor, "B S G"]
    h: Float[Tensor, "B H P N"]


class Mamba2(Mixer):
    """The Mamba-2 block; needs no feed-forward layer beside it."""

    def __init__(
        self, size: Size, d_state: int = 128, expand: int = 2, head_dim: int = 64, taps: int = 4, impl: str = "reference"
    ) -> None:
        super().__init__()
        self.op, self.conv_op, self.norm_op = (op.load(impl) for op in (OP, causal_conv.OP, gated_norm.OP))
        self.inner, self.d_state = expand * size.width, d_state
        self.head_dim = min(head_dim, size.head_dim)
        self.heads = self.inner // self.head_dim
        if self.heads * self.head_dim != self.inner:
            raise SizeError(f"heads of {self.head_dim} do not divide the inner width {self.inner}; choose another width")
        self.in_proj = Linear(size.width, 2 * self.inner + 2 * d_state + self.heads, bias=False)
        self.conv = CausalConv(self.inner + 2 * d_state, taps)
        nn.init.uniform_(self.conv.weight, -(taps**-0.5), taps**-0.5)
        nn.init.uniform_(self.conv.bias, -(taps**-0.5), taps**-0.5)
        rate = torch.empty(self.heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
        self.dt_bias = nn.Parameter(inverse_softplus(rate))
        self.a_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.d = nn.Parameter(torch.ones(self.heads))
        self.norm_weight = nn.Parameter(torch.ones(self.inner))
        self.out_proj = Linear(self.inner, size.width, bias=False)
        with torch.no_grad():  # residual branches, scaled as in GPT-2
            self.out_proj.weight /= math.sqrt(size.layers)

    def undecayed(self) -> list[nn.Parameter]:
        """As mamba-ssm marks them."""
        return [self.a_log, self.d, self.dt_bias]

    def kept_wide(self) -> list[nn.Parameter]:
        """As mamba-ssm keeps them: the scan is float32."""
        return self.undecayed()

    def _projected(self, x: Tensor) -> tuple[Tensor, ...]:
        """Gate z [..., E], inputs of the convolution [..., E + 2 N] and dt [..., H]."""
        return self.in_proj(x).split((self.inner, self.inner + 2 * self.d_state, self.heads), dim=-1)

    def _arguments(self, convolved: Tensor, dt: Tensor) -> tuple[Tensor, ...]:
        """Arguments of the scan, from x, B and C side by side [..., E + 2 N]."""
        x, b, c = convolved.split((self.inner, self.d_state, self.d_state), dim=-1)
        return x.unflatten(-1, (self.heads, self.head_dim)), dt, self.dt_bias, self.kept(), b, c, self.d

    def derived(self) -> Float[Tensor, " H"]:
        """A."""
        return -torch.exp(self.a_log.to(torch.promote_types(self.a_log.dtype, torch.float32)))

    def _output(self, y: Float[Tensor, "*B H P"], z: Float[Tensor, "*B E"]) -> Float[Tensor, "*B D"]:
        return self.out_proj(self.norm_op.forward(y.flatten(-2), z, self.norm_weight.to(z.dtype)))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        z, mixed, dt = self._projected(x)
        convolved = self.conv_op.forward(mixed, *self.conv.parameters_in(x.dtype))
        return self._output(self.op.forward(*self._arguments(convolved, dt)), z)

    def init_state(self, batch: int, max_len: int) -> Mamba2State:
        dtype = torch.promote_types(self.in_proj.weight.dtype, torch.float32)
        h = self.d.new_zeros(batch, self.heads, self.head_dim, self.d_state, dtype=dtype)
        return Mamba2State(self.conv.init_state(batch), h)

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: Mamba2State) -> Float[Tensor, "B T D"]:
        return self._advance(self.conv_op.begin, x, state)

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: Mamba2State) -> Float[Tensor, "B T D"]:
        return self._advance(self.conv_op.prefill, x, state)

    def _advance(self, convolve: Callable[..., Tensor], x: Tensor, state: Mamba2State) -> Tensor:
        z, mixed, dt = self._projected(x)
        convolved = convolve(mixed, *self.conv.parameters_in(x.dtype), state.past)
        return self._output(self.op.prefill(*self._arguments(convolved, dt), state.h), z)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: Mamba2State) -> Float[Tensor, "B D"]:
        z, mixed, dt = self._projected(x)
        convolved = self.conv_op.step(mixed, *self.conv.parameters_in(x.dtype), state.past)
        return self._output(self.op.step(*self._arguments(convolved, dt), state.h), z)

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width, e, n, h = self.in_proj.in_features, self.inner, self.d_state, self.heads
        matmul = 2 * (width * self.in_proj.out_features + e * width)
        # the recurrence, per channel: delta x, D x, its sum into y, and per state (delta x) B, two for h, two for y; per head:
        # dt bias, softplus, delta A, exp
        scan = e * (5 * n + 2) + h * (cost.SOFTPLUS + 3)
        other = scan + self.conv.flops() + (e + 2 * n) * cost.SILU + e * (cost.SILU + 1) + cost.rms_norm(e)
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(phase, context, matmul=matmul, other=other, weights=self.parameter_bytes(), state=state)
