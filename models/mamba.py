"""Mamba-1 (arXiv 2312.00752, section 3.4): in -> conv -> SiLU -> selective scan -> gate -> out.

Symbols: E d_inner = expand D, N d_state, R dt_rank = ceil(D / 16). Initialised as mamba-ssm does.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from kernels.selective_scan import OP
from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv, Linear, advance
from models.mixer import Mixer, Size, state_bytes


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
        self.op, self.inner, self.rank, self.d_state = OP.load(impl), inner, rank, d_state
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
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def undecayed(self) -> list[nn.Parameter]:
        """As mamba-ssm marks them."""
        return [self.a_log, self.d, self.dt_proj.bias]

    def kept_wide(self) -> list[nn.Parameter]:
        """As mamba-ssm keeps them: the scan is float32."""
        return self.undecayed()

    def _discretised(self, u: Tensor) -> tuple[Tensor, ...]:
        """Arguments of the scan, from the convolved input u [..., E]."""
        dt, b, c = self.x_proj(u).split((self.rank, self.d_state, self.d_state), dim=-1)
        wide = torch.promote_types(u.dtype, torch.float32)
        dt = softplus(self.dt_proj(dt).to(wide))
        return u, dt, -torch.exp(self.a_log.to(wide)), b, c, self.d

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        return self.out_proj(self.op.forward(*self._discretised(silu(self.conv(u)))) * silu(z))

    def init_state(self, batch: int, max_len: int) -> MambaState:
        dtype = torch.promote_types(self.in_proj.weight.dtype, torch.float32)
        return MambaState(self.conv.init_state(batch), self.d.new_zeros(batch, self.inner, self.d_state, dtype=dtype))

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: MambaState) -> Float[Tensor, "B T D"]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        convolved = silu(self.conv(u, state.past))
        advance(state.past, u)
        return self.out_proj(self.op.prefill(*self._discretised(convolved), state.h) * silu(z))

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: MambaState) -> Float[Tensor, "B D"]:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        convolved = silu(self.conv(u[:, None], state.past)[:, 0])
        advance(state.past, u[:, None])
        return self.out_proj(self.op.step(*self._discretised(convolved), state.h) * silu(z))

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width, e, n, r = self.in_proj.in_features, self.inner, self.d_state, self.rank
        matmul = 2 * (width * 2 * e + e * (r + 2 * n) + r * e + e * width)
        # scan, per channel and state: dt A, exp, (dt u) B, two for h, two for y; per channel: dt u, D u, its sum into y
        scan = e * (7 * n + 2)
        other = scan + self.conv.flops() + e * (2 * cost.SILU + cost.SOFTPLUS + 2)  # + dt bias, gate
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(phase, context, matmul=matmul, other=other, weights=self.parameter_bytes(), state=state)
