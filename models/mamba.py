"""Mamba-1 (arXiv 2312.00752, section 3.4): in -> conv -> SiLU -> selective scan -> gate -> out.

Symbols: E d_inner = expand D, N d_state, R dt_rank = ceil(D / 16). Initialised as mamba-ssm does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kernels import causal_conv
from kernels.selective_scan import OP
from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv, Linear
from models.mixer import Mixer, Size, state_bytes


def inverse_softplus(x: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """log(exp(x) - 1), x > 0, exact where x is small."""
    return x + torch.log(-torch.expm1(-x))


@dataclass
class MambaState:
    """The last inputs of the convolution and the state h of the scan (float32)."""

    past: Float[Tensor, "B S E"]
    h: Float[Tensor, "B E N"]


class Mamba(Mixer):
    """The Mamba block; needs no feed-forward layer beside it."""

    def __init__(self, size: Size, d_state: int = 16, expand: int = 2, taps: int = 4, impl: str = "reference") -> None:
        super().__init__()
        inner, rank = expand * size.width, math.ceil(size.width / 16)
        self.op, self.conv_op = OP.load(impl), causal_conv.OP.load(impl)
        self.inner, self.rank, self.d_state = inner, rank, d_state
        self.in_proj = Linear(size.width, 2 * inner, bias=False)
        self.conv = CausalConv(inner, taps)
        nn.init.uniform_(self.conv.weight, -(taps**-0.5), taps**-0.5)
        nn.init.uniform_(self.conv.bias, -(taps**-0.5), taps**-0.5)
        self.x_proj = Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = Linear(rank, inner)
        self._init_dt()
        self.a_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().expand(inner, -1).clone())
        self.d = nn.Parameter(torch.ones(inner))
        self.out_proj = Linear(inner, size.width, bias=False)
        with torch.no_grad():  # residual branches, scaled as in GPT-2
            self.out_proj.weight /= math.sqrt(size.layers)

    def _init_dt(self, low: float = 1e-3, high: float = 1e-1) -> None:
        """softplus(bias) log-uniform in [low, high] (mamba_simple.py)."""
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        dt = torch.empty(self.inner).uniform_(math.log(low), math.log(high)).exp()
        with torch.no_grad():
            self.dt_proj.bias.copy_(inverse_softplus(dt))

    def undecayed(self) -> list[nn.Parameter]:
        """As mamba-ssm marks them."""
        return [self.a_log, self.d, self.dt_proj.bias]

    def kept_wide(self) -> list[nn.Parameter]:
        """As mamba-ssm keeps them: the scan is float32."""
        return self.undecayed()

    def _arguments(self, u: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Arguments of the scan, from the convolved input u and the gate z [..., E]."""
        dt, b, c = self.x_proj(u).split((self.rank, self.d_state, self.d_state), dim=-1)
        dt = self.op.project(dt, self.dt_proj.weight.to(u.dtype))
        return {"u": u, "dt": dt, "dt_bias": self.dt_proj.bias, "a": self.kept(), "b": b, "c": c, "d": self.d, "z": z}

    def derived(self) -> Float[Tensor, "E N"]:
        """A."""
        return -torch.exp(self.a_log.to(torch.promote_types(self.a_log.dtype, torch.float32)))

    def _inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """Input of the convolution and gate, [..., E] each."""
        return self.op.project(x, self.in_proj.weight.to(x.dtype)).chunk(2, dim=-1)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        u, z = self._inputs(x)
        u = self.conv_op.forward(u, *self.conv.parameters_in(x.dtype))
        return self.out_proj(self.op.forward(**self._arguments(u, z)))

    def init_state(self, batch: int, max_len: int) -> MambaState:
        dtype = torch.promote_types(self.in_proj.weight.dtype, torch.float32)
        return MambaState(self.conv.init_state(batch), self.d.new_zeros(batch, self.inner, self.d_state, dtype=dtype))

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: MambaState) -> Float[Tensor, "B T D"]:
        return self._advance(self.conv_op.begin, x, state)

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: MambaState) -> Float[Tensor, "B T D"]:
        return self._advance(self.conv_op.prefill, x, state)

    def _advance(self, convolve: Callable[..., Tensor], x: Tensor, state: MambaState) -> Tensor:
        u, z = self._inputs(x)
        u = convolve(u, *self.conv.parameters_in(x.dtype), state.past)
        return self.out_proj(self.op.prefill(**self._arguments(u, z), state=state.h))

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: MambaState) -> Float[Tensor, "B D"]:
        u, z = self._inputs(x)
        u = self.conv_op.step(u, *self.conv.parameters_in(x.dtype), state.past)
        return self.out_proj(self.op.step(**self._arguments(u, z), state=state.h))

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width, e, n, r = self.in_proj.in_features, self.inner, self.d_state, self.rank
        matmul = 2 * (width * 2 * e + e * (r + 2 * n) + r * e + e * width)
        # scan, per channel and state: dt A, exp, (dt u) B, two for h, two for y; per channel: dt u, D u, its sum into y
        scan = e * (7 * n + 2)
        other = scan + self.conv.flops() + e * (2 * cost.SILU + cost.SOFTPLUS + 2)  # + dt bias, gate
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(phase, context, matmul=matmul, other=other, weights=self.parameter_bytes(), state=state)
