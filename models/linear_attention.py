"""Linear attention, and what of TTT equals it: a linear inner model, batch gradient descent (arXiv 2407.04620, theorem 1).

    o_t = q_t S_t,  S_t = sum_{s<=t} k_s' v_s                                  "improved" (paper, table 1)
    o_t = phi(q_t) S_t / (phi(q_t) sum_{s<=t} phi(k_s)'),  phi = elu + 1       "original" (arXiv 2006.16236, section 3.2)

The gradient of sum_s 1/2 |k_s W - v_s|^2 at W0 is sum_s k_s' (k_s W0 - v_s). One step with eta = 1 (1/2 in the paper, whose
loss lacks our 1/2) over the tokens up to t gives W_t = W0 + sum_s k_s' (v_s - k_s W0): with W0 = 0 that is S_t, with a learned
W0 linear attention of other values, beside q_t W0. Around it all is as in a TTT layer with the Transformer backbone:
projections, rotary positions, heads, a norm over the width and the output projection.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, layer_norm

from kernels.rotary import rotate
from models import cost
from models.attention import LONGEST
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import Rope, linear
from models.mixer import Mixer, Size, state_bytes


@dataclass
class LinearState:
    """Sums over the tokens read: of k' v [B, H, F, F] and of k [B, H, F], float32 at least; and how many those are."""

    products: Float[Tensor, "B H F F"]
    keys: Float[Tensor, "B H F"]
    position: Int[Tensor, " B"]


class LinearAttention(Mixer):
    """``form``: original, improved, or learned_start (W0 is a parameter). ``chunk`` tokens are worked out together."""

    def __init__(
        self,
        size: Size,
        form: Literal["original", "improved", "learned_start"],
        chunk: int = 128,
        rope_theta: float = 10_000.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.heads, self.head_dim, self.form, self.chunk = size.heads, size.head_dim, form, chunk
        self.rope, self.eps = Rope(size.head_dim, rope_theta, LONGEST), eps
        self.q, self.k, self.v, self.o = (linear(size.width, size.width) for _ in range(4))
        self.post_norm = nn.LayerNorm(size.width, eps=eps)
        if form == "learned_start":
            self.start = nn.Parameter(torch.empty(size.heads, size.head_dim, size.head_dim).normal_(std=0.02))

    def kept_wide(self) -> list[nn.Parameter]:
        """W0, as in a TTT layer."""
        return [self.start] if self.form == "learned_start" else []

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self._read(x, self.init_state(x.shape[0], x.shape[1]))[0]

    def init_state(self, batch: int, max_len: int) -> LinearState:
        weight, f = self.k.weight, self.head_dim
        wide = torch.promote_types(weight.dtype, torch.float32)
        products, keys = (weight.new_zeros(batch, self.heads, *shape, dtype=wide) for shape in ((f, f), (f,)))
        return LinearState(products, keys, weight.new_zeros(batch, dtype=torch.int32))

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: LinearState) -> Float[Tensor, "B T D"]:
        out, products, keys = self._read(x, state)
        state.products.copy_(products)
        state.keys.copy_(keys)
        state.position += x.shape[1]
        return out

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: LinearState) -> Float[Tensor, "B D"]:
        return self.prefill(x[:, None], state)[:, 0]

    def _read(self, x: Float[Tensor, "B T D"], state: LinearState) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs [B, T, D] of T further tokens, and both sums after them."""
        products, keys, outs = state.products, state.keys, []
        for q, k, v in zip(*(y.split(self.chunk, dim=2) for y in self._views(x, state.position)), strict=True):
            scores = (q @ k.transpose(2, 3)).tril()
            out = scores @ v + q @ products
            if self.form == "original":
                out = out / (scores.sum(-1, keepdim=True) + (q * keys[:, :, None]).sum(-1, keepdim=True) + self.eps)
            if self.form == "learned_start":
                out = out + q @ self.start
            products, keys = products + k.transpose(2, 3) @ v, keys + k.sum(2)
            outs.append(out)
        mixed, norm = torch.cat(outs, dim=2).transpose(1, 2).flatten(2).to(x.dtype), self.post_norm
        normed = layer_norm(mixed, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
        return self.o(normed), products, keys

    def _views(self, x: Float[Tensor, "B T D"], start: Int[Tensor, " B"]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and the values that are summed [B, H, T, F], float32 at least."""
        position = start[:, None] + torch.arange(x.shape[1], device=x.device)
        q, k, v = (proj(x).unflatten(-1, (self.heads, self.head_dim)) for proj in (self.q, self.k, self.v))
        tables = self.rope(position, x.dtype)
        wide = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (y.transpose(1, 2).to(wide) for y in (rotate(q, tables), rotate(k, tables), v))
        if self.form == "original":
            return elu(q) + 1, elu(k) + 1, v
        return q, k, v - k @ self.start if self.form == "learned_start" else v

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width, f, c = self.heads * self.head_dim, self.head_dim, 1 if phase == "step" else self.chunk
        # scores and their product with v; q S and k' v; with W0 its products with q and k
        matmul = 4 * c * f + 4 * f * f * (2 if self.form == "learned_start" else 1)
        # the sum of both products, the two states' sums, what the form adds
        other = f + (f * f + f) // c + f
        other += {"original": 2 * 3 * f + c + 2 * f + 2 + f, "improved": 0, "learned_start": 2 * f}[self.form]
        state = state_bytes(self.init_state(1, 0))
        return sequence_cost(
            phase,
            context,
            matmul=2 * 4 * width * width + self.heads * matmul,
            other=2 * cost.rope(width) + cost.layer_norm(width) + self.heads * other,
            weights=self.parameter_bytes(),
            state=state,
        )
