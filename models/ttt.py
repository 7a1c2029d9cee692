"""TTT-Linear and TTT-MLP (arXiv 2407.04620): a layer whose hidden state is a model, trained as it reads.

The paper's symbols and ours: theta_K, theta_V, theta_Q = k, v, q; W0 = inner_weights; b = mini_batch; eta[i, j] = tau_i rho_j,
rho_j = (base_lr / F) sigmoid(lr_weight . x_j + lr_bias), tau_i = max(1/(i+1) + token_factor_i, 0).

Two backbones (section 2.6, figure 13): "transformer" projects q and k apart; "mamba" projects them together, tells them apart
by two short convolutions, and gates the output. The block-level convolution is models/short_conv.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from kernels import ttt_linear, ttt_mlp
from kernels.rotary import rotate
from kernels.ttt import InnerState, LayerNorm, reference
from kernels.ttt.flops import token_flops
from kernels.ttt.reference import inner_loss
from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import CausalConv, Rope, linear, products
from models.mixer import Mixer, Size, state_bytes

Views = tuple[Float[Tensor, "B T H F"], Float[Tensor, "B T H F"], Float[Tensor, "B T H F"], Float[Tensor, "B T H"]]
OPS = {"linear": ttt_linear.OP, "mlp": ttt_mlp.OP}


@dataclass
class TTTState:
    """The inner model's state, and the last inputs of the two convolutions of the Mamba backbone (they share them)."""

    inner: InnerState
    past: Float[Tensor, "B S D"] | None


class TTT(Mixer):
    """A TTT layer. ``inner``: linear, or mlp with hidden width 4F and GELU.

    ``learned_rate``: without it eta[i, j] = base_lr of every pair, neither gated nor averaged (a row of the paper's table 1).
    """

    lr_scale: Tensor

    def __init__(
        self,
        size: Size,
        inner: Literal["linear", "mlp"],
        backbone: Literal["transformer", "mamba"],
        base_lr: float,
        mini_batch: int = 16,
        rope_theta: float = 10_000.0,
        eps: float = 1e-6,
        impl: str = "reference",
        learned_rate: bool = True,
    ) -> None:
        super().__init__()
        width, heads, head_dim = size.width, size.heads, size.head_dim
        self.op, self.heads, self.head_dim, self.base_lr = OPS[inner].load(impl), heads, head_dim, base_lr
        self.inner, self.mini_batch, self.eps, self.learned_rate = inner, mini_batch, eps, learned_rate
        self.rope = Rope(head_dim, rope_theta, mini_batch)
        self.q, self.v, self.o = (linear(width, width) for _ in range(3))
        self.is_gated = backbone == "mamba"
        if self.is_gated:
            self.conv_q, self.conv_k, self.gate = CausalConv(width), CausalConv(width), linear(width, width)
        else:
            self.k = linear(width, width)
        widths = [head_dim, head_dim] if inner == "linear" else [head_dim, 4 * head_dim, head_dim]
        shapes = list(pairwise(widths))
        self.inner_weights = nn.ParameterList(torch.empty(heads, i, o).normal_(std=0.02) for i, o in shapes)
        self.inner_biases = nn.ParameterList(torch.zeros(heads, o) for _, o in shapes)
        if learned_rate:
            self.lr_weight = nn.Parameter(torch.empty(heads, width).normal_(std=0.02))
            self.lr_bias = nn.Parameter(torch.zeros(heads))
            self.token_factor = nn.Parameter(torch.zeros(mini_batch))
        self.norm_weight = nn.Parameter(torch.ones(heads, head_dim))
        self.norm_bias = nn.Parameter(torch.zeros(heads, head_dim))
        self.post_norm = nn.LayerNorm(width, eps=eps)
        # a tensor, as a compiled layer takes a number for constant; float64, as numbers of Python are
        self.register_buffer("lr_scale", torch.ones((), dtype=torch.float64), persistent=False)

    def set_progress(self, step: int, warmup_steps: int) -> None:
        """Inner learning rate of TTT-MLP: from a tenth of base_lr to all of it during the outer warm-up (paper, 2.7)."""
        if self.inner == "mlp":
            self.lr_scale.fill_(0.1 + 0.9 * min(1.0, step / max(1, warmup_steps)))

    def kept_wide(self) -> list[nn.Parameter]:
        """What makes and moves the inner weights: W0, b0, the inner norm, the token factor and the bias of the gate."""
        inner = (*self.inner_weights, *self.inner_biases, self.norm_weight, self.norm_bias)
        return [*inner, self.token_factor, self.lr_bias] if self.learned_rate else [*inner]

    @property
    def norm(self) -> LayerNorm:
        """The inner layer norm."""
        return LayerNorm(self.norm_weight, self.norm_bias, self.eps)

    def views(self, x: Float[Tensor, "B T D"]) -> Views:
        """q, k, v [B, T, H, F], in the dtype of x, and the gate rho [B, T, H], in that of its bias, of whole sequences."""
        return self._views(reference.views, *self._products(x))

    def _products(self, x: Float[Tensor, "B T D"]) -> tuple[Tensor, Tensor | None, Tensor, list[Tensor]]:
        """q (or what q and k share), k (or None), v, and what moves rho."""
        q, v, *rate = products(x, [self.q.weight, self.v.weight, *self._rate_weight()], None)
        return q, None if self.is_gated else self.k(x), v, rate

    def _views(
        self,
        convolved: Callable[..., tuple[Tensor, Tensor]],
        q: Float[Tensor, "B T D"],
        k: Float[Tensor, "B T D"] | None,
        v: Float[Tensor, "B T D"],
        rate: list[Tensor],
        past: Float[Tensor, "B S D"] | None = None,
        start: Int[Tensor, " B"] | None = None,
    ) -> Views:
        """``views`` from products, of tokens at positions from ``start`` on; None: of the first. Moves ``past`` on in place."""
        if k is None:
            convs = self.conv_q.parameters_in(q.dtype), self.conv_k.parameters_in(q.dtype)
            q, k = convolved(q, *convs, self.rope.tables(), past, start)
        else:
            position = torch.arange(q.shape[1], device=q.device) + (0 if start is None else start[:, None])
            tables = self.rope(position % self.mini_batch, q.dtype)
            q, k = (rotate(y.unflatten(-1, (self.heads, self.head_dim)), tables) for y in (q, k))
        return q, k, v.unflatten(-1, (self.heads, self.head_dim)), self._gates(q, *rate)

    def _further(
        self, q: Tensor, k: Tensor | None, v: Tensor, rate: list[Tensor], state: TTTState, *, begins: bool = False
    ) -> Views:
        """``_views`` of tokens that follow ``state``, whose convolutions have read them then. begins: they are the first."""
        return self._views(self.op.views, q, k, v, rate, state.past, None if begins else state.inner.position)

    def _gates(self, q: Float[Tensor, "B T H F"], rate: Float[Tensor, "B T H"] | None = None) -> Float[Tensor, "B T H"]:
        if rate is None:
            return q.new_full(q.shape[:3], self.base_lr, dtype=self.norm_weight.dtype)
        rho = (self.lr_scale if self.training else 1.0) * self.base_lr / self.head_dim
        return rho * torch.sigmoid(rate + self.lr_bias)

    def _rate_weight(self) -> list[Tensor]:
        return [self.lr_weight] if self.learned_rate else []

    def parallel(self) -> list[Tensor]:
        other = self.gate if self.is_gated else self.k
        return [self.q.weight, self.v.weight, other.weight, *self._rate_weight()]

    def derived(self) -> Float[Tensor, " C"]:
        """tau."""
        if not self.learned_rate:
            return self.norm_weight.new_ones(self.mini_batch)
        count = torch.arange(1, self.mini_batch + 1, device=self.token_factor.device)
        return (1 / count.to(self.token_factor.dtype) + self.token_factor).clamp_min(0)

    def _output(self, mixed: Float[Tensor, "*B H F"], gate: Float[Tensor, "*B D"] | None) -> Float[Tensor, "*B D"]:
        norm, mixed = self.post_norm, mixed.flatten(-2)
        weight, bias = norm.weight.to(mixed.dtype), norm.bias.to(mixed.dtype)
        y = layer_norm(mixed, norm.normalized_shape, weight, bias, norm.eps)
        return self.o(y if gate is None else y * gelu(gate, approximate="tanh"))

    def _gate(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"] | None:
        return self.gate(x) if self.is_gated else None

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        weights, biases = tuple(self.inner_weights), tuple(self.inner_biases)
        return self._output(self.op.forward(*self.views(x), self.kept(), weights, biases, self.norm), self._gate(x))

    def init_state(self, batch: int, max_len: int) -> TTTState:
        weights, biases = tuple(self.inner_weights), tuple(self.inner_biases)
        inner = self.op.init_state(weights, biases, batch, self.mini_batch, self.q.weight.dtype)
        return TTTState(inner, self.conv_q.init_state(batch) if self.is_gated else None)

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "B T D"], state: TTTState) -> Float[Tensor, "B T D"]:
        return self._prefill(self._further(*self._products(x), state, begins=True), x, state)

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: TTTState) -> Float[Tensor, "B T D"]:
        return self._prefill(self._further(*self._products(x), state), x, state)

    def _prefill(self, views: Views, x: Float[Tensor, "B T D"], state: TTTState) -> Float[Tensor, "B T D"]:
        return self._output(self.op.prefill(*views, self.kept(), self.norm, state.inner), self._gate(x))

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: TTTState) -> Float[Tensor, "B D"]:
        q, v, other, *rate = products(x[:, None], self.parallel(), self.united)
        k, gate = (None, other[:, 0]) if self.is_gated else (other, None)
        views = (y[:, 0] for y in self._further(q, k, v, rate, state))
        return self._output(self.op.step(*views, self.kept(), self.norm, state.inner), gate)

    @torch.no_grad()
    def inner_losses(self, x: Float[Tensor, "B T D"]) -> dict[str, Float[Tensor, "B T H"]]:
        """Inner loss of each token and head with W0, and with the weights before and after the update of its mini-batch.

        Raises:
            ValueError: T is not a multiple of the mini-batch, so the last one is never updated.
        """
        if x.shape[1] % self.mini_batch:
            raise ValueError(f"{x.shape[1]} tokens are not whole mini-batches of {self.mini_batch}; cut the rest")
        q, k, v, rho = self.views(x)
        state = self.init_state(x.shape[0], x.shape[1]).inner
        start = tuple(w.clone() for w in state.dense()), tuple(b.clone() for b in state.biases)
        found: dict[str, list[Tensor]] = {"w0": [], "before": [], "after": []}
        for query, key, value, gate in zip(*(y.split(self.mini_batch, dim=1) for y in (q, k, v, rho)), strict=True):
            found["w0"].append(inner_loss(key, value, *start, self.norm))
            found["before"].append(inner_loss(key, value, state.dense(), state.biases, self.norm))
            self.op.prefill(query, key, value, gate, self.kept(), self.norm, state)
            found["after"].append(inner_loss(key, value, state.dense(), state.biases, self.norm))
        return {name: torch.cat(parts, dim=1) for name, parts in found.items()}

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        width = self.heads * self.head_dim
        inner_matmul, inner_other = self._inner_flops()
        # four projections: q, v, o and either k or the gate
        matmul = 2 * 4 * width * width + self.heads * inner_matmul
        other = 2 * cost.rope(width) + cost.layer_norm(width) + self.heads * inner_other
        if self.learned_rate:  # rho: bias, sigmoid, base_lr / F
            matmul += 2 * width * self.heads
            other += self.heads * (cost.SIGMOID + 2)
        if self.is_gated:
            other += 2 * self.conv_q.flops() + width * (cost.GELU + 1)
        state = self.init_state(1, 0)
        bytes_ = {"weights": self.parameter_bytes(), "state": state_bytes(state), "traffic": self._step_traffic(state)}
        return sequence_cost(phase, context, matmul=matmul, other=other, **bytes_)

    def _step_traffic(self, state: TTTState) -> int:
        """W and b read; of C pairs (C - 1)/2 read and one written; once in C tokens W and b written, remainders moved."""
        inner, c = state.inner, self.mini_batch
        once, pairs = state_bytes((inner.weights, inner.biases)), state_bytes((inner.rho, inner.inputs, inner.grads))
        cycle = (c + 1) * once + 2 * state_bytes(inner.remainders) + pairs * (c + 1) // 2
        return cycle // c + 2 * state_bytes(state.past)

    def _inner_flops(self) -> tuple[int, int]:
        """Matrix-product and other FLOPs of one token in one head: the dual form over whole tiles of C tokens.

        A step costs the mean over a cycle of C steps, which is the same: the gradient of one token, one query row against C
        pairs (slots not yet filled count, shapes being static), and, in the last step of the cycle, the update from C pairs.
        The bias after a mini-batch is the last row of the answer's moved bias: no work of its own.
        """
        c, f, other = self.mini_batch, self.head_dim, 0
        shapes = [(weight.shape[1], weight.shape[2]) for weight in self.inner_weights]
        for n, (i, o) in enumerate(shapes):
            # bias of K W; eta * Q X'; three sums of the answer; gate * X, and W moved once in C tokens
            other += o + c + 3 * o + i + i * o // c
            other += (2 * cost.GELU + cost.GELU_GRADIENT + 1) * i if n else 0
        # target V - K and gradient of LN and loss; LN of the answer and its residual; eta = tau rho
        other += f + cost.norm_l2_gradient(f) + cost.layer_norm(f) + f + c
        return token_flops(shapes, c), other
