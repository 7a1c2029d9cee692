"""Multi-head causal self-attention as in the paper's Transformer baseline (Llama: rotary positions, no biases, no GQA)."""

import torch
from jaxtyping import Float
from torch import Tensor

from kernels.attention import OP
from kernels.attention.reference import Cache
from kernels.rotary import rotate
from models import cost
from models.cost import Convention, Cost, Phase
from models.layers import Rope, linear, products
from models.mixer import Mixer, Size

# Tokens of the longest sequence: how far the rotary tables go.
LONGEST = 2**18


class Attention(Mixer):
    """o(softmax(q k' / sqrt(F)) v) with q, k rotated by their absolute position; its state is the KV cache."""

    def __init__(self, size: Size, rope_theta: float = 10_000.0, impl: str = "reference") -> None:
        super().__init__()
        self.heads, self.head_dim = size.heads, size.head_dim
        self.rope = Rope(size.head_dim, rope_theta, LONGEST)
        self.op = OP.load(impl)
        self.q, self.k, self.v, self.o = (linear(size.width, size.width) for _ in range(4))

    def parallel(self) -> list[Tensor]:
        return [self.q.weight, self.k.weight, self.v.weight]

    def _views(self, x: Tensor, position: Tensor, united: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (y.unflatten(-1, (self.heads, self.head_dim)) for y in products(x, self.parallel(), united))
        tables = self.rope(position, x.dtype)
        return rotate(q, tables), rotate(k, tables), v

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        position = torch.arange(x.shape[1], device=x.device)
        return self.o(self.op.forward(*self._views(x, position)).flatten(2))

    def init_state(self, batch: int, max_len: int) -> Cache:
        if max_len > LONGEST:
            raise ValueError(
                f"sequences of {max_len:,} tokens are beyond the rotary tables' {LONGEST:,}; set LONGEST in {__name__}"
            )
        weight = self.k.weight
        key, value = (weight.new_zeros(batch, self.heads, max_len, self.head_dim) for _ in range(2))
        return Cache(key, value, position=weight.new_zeros(batch, dtype=torch.int32))

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: Cache) -> Float[Tensor, "B T D"]:
        position = torch.arange(x.shape[1], device=x.device)
        return self.o(self.op.begin(*self._views(x, position), state).flatten(2))

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: Cache) -> Float[Tensor, "B T D"]:
        position = state.position[:, None] + torch.arange(x.shape[1], device=x.device)
        return self.o(self.op.prefill(*self._views(x, position), state).flatten(2))

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: Cache) -> Float[Tensor, "B D"]:
        return self.o(self.op.step(*self._views(x, state.position, self.united), state).flatten(1))

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width, element = self.heads * self.head_dim, self.k.weight.element_size()
        # pairs of query and key: of a step, the cache and the token itself
        seen = {"causal": context * (context + 1) // 2, "full": context * context}[convention]
        tokens, pairs = (1, context + 1) if phase == "step" else (context, seen)
        factor = 3 if phase == "train" else 1
        held, own = 2 * context * width * element, 2 * width * element
        softmax = self.heads * cost.softmax(tokens, pairs, self.head_dim)
        return Cost(
            matmul_flops=factor * (tokens * 2 * 4 * width * width + pairs * 2 * 2 * width),
            other_flops=factor * (softmax + tokens * 2 * cost.rope(width)),
            weight_bytes=self.parameter_bytes(),
            state_bytes=0 if phase == "train" else held + 4,
            state_traffic={"train": 0, "prefill": held + 4, "step": held + own}[phase],
        )
