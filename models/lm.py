"""The language model that every layer shares: embedding, residual branches, norm, head.

A layer of the model is a list of branches, each ``h + mixer(RMSNorm(h))``; which mixers, conf/model says.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from models import cost
from models.cost import Convention, Cost, Phase, sequence_cost
from models.layers import Linear, RMSNorm, side_by_side
from models.mixer import Mixer, Size, State

MixerFactory = Callable[[Size], Mixer]
Inference = Literal["begin", "prefill", "step"]

# Logits are made for this many tokens at a time, so that they are never held whole.
LOGIT_CHUNK = 4096
# Of one function compiled: models of one process, times the shapes and dtypes that code is not shared by.
RECOMPILE_LIMIT = 64


class Branch(nn.Module):
    """h + mixer(RMSNorm(h))."""

    def __init__(self, mixer: Mixer, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm, self.mixer = RMSNorm(width, eps), mixer

    def forward(self, h: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return h + self.mixer(self.norm(h))

    def begin(self, h: Float[Tensor, "B T D"], state: State) -> Float[Tensor, "B T D"]:
        """``Mixer.begin`` with norm and residual."""
        return _plus(h, self.mixer.begin(self.norm(h), state))

    def prefill(self, h: Float[Tensor, "B T D"], state: State) -> Float[Tensor, "B T D"]:
        """``Mixer.prefill`` with norm and residual."""
        return _plus(h, self.mixer.prefill(self.norm(h), state))

    def step(self, h: Float[Tensor, "B D"], state: State) -> Float[Tensor, "B D"]:
        """``Mixer.step`` with norm and residual."""
        return (_wide(h) + self.mixer.step(self.norm(h), state)).to(h.dtype)  # for an addmm h would be copied first


class Block(nn.Sequential):
    """The branches of one layer. Its own ``forward``, as torch.compile takes none of torch.nn's for one graph."""

    def forward(self, h: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        for branch in self:
            h = branch(h)
        return h

    def advance(self, how: Inference, h: Float[Tensor, "*B D"], states: Sequence[State]) -> Float[Tensor, "*B D"]:
        """What its branches do one after another, each with its state."""
        for branch, state in zip(self, states, strict=True):
            h = getattr(branch, how)(h, state)
        return h


class LM(nn.Module):
    """Token ids [B, T] to logits over V tokens; ``size.layers`` copies of the list of branches ``layer``, a block each.

    It computes in the dtype of its parameters (``cast``), or trains float32 parameters in a narrower one (``train_in``).
    """

    def __init__(self, vocab: int, size: Size, layer: Sequence[MixerFactory], tied: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(vocab, size.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        made = (make(size) for _ in range(size.layers) for make in layer)
        self.branches = nn.ModuleList(Branch(mixer, size.width, eps) for mixer in made)
        self.blocks = [Block(*self.branches[n : n + len(layer)]) for n in range(0, len(self.branches), len(layer))]
        self._through: Callable[..., Tensor] = Block.advance
        self.computes_in: torch.dtype | None = None
        self.recomputes = False
        self.norm = RMSNorm(size.width, eps)
        self.head = Linear(size.width, vocab, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)

    @property
    def mixers(self) -> list[Mixer]:
        """Every mixer, from input to output."""
        return [branch.mixer for branch in self._branches()]

    def _branches(self) -> list[Branch]:
        return cast(list[Branch], list(self.branches))

    def cast(self, dtype: torch.dtype) -> "LM":
        """Parameters in ``dtype``, in place, save those that mixers keep in float32 at least."""
        kept = {id(p) for mixer in self.mixers for p in mixer.kept_wide()}
        for p in self.parameters():
            p.data = p.data.to(torch.promote_types(dtype, torch.float32) if id(p) in kept else dtype)
        return self

    @torch.no_grad()
    def unite(self, other: "LM | None" = None) -> "LM":
        """Puts ``Mixer.parallel`` weights side by side, in place, and settles what is ``Mixer.derived``, for steps.

        Weights may be loaded then, but not trained, nor moved to another device or dtype, before it is called again.
        other: has the same parameters, and did so already.
        """
        for mixer, twin in zip(self.mixers, (other or self).mixers, strict=True):
            weights = mixer.parallel()
            mixer.united = twin.united if other else side_by_side(weights) if weights else None
            mixer.settled = mixer.derived()
        return self

    def train_in(self, dtype: torch.dtype, *, recompute: bool = False, compiled: bool = False) -> "LM":
        """Whole sequences are computed in ``dtype`` whatever the parameters', the same numbers that ``cast`` would give.

        recompute: of a block only its input is kept, the rest made again backward. compiled: blocks and likelihood by
        torch.compile, for the shapes that they meet.
        """
        self.computes_in, self.recomputes = dtype, recompute
        if compiled:
            _limit_recompiling()
            for block in self.blocks:
                block.compile(dynamic=False)
            self._token_nll = torch.compile(self._token_nll, dynamic=False)  # type: ignore[method-assign]
        return self

    def hidden(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """What the head reads, of whole sequences."""
        h = self.embedding(tokens)
        h = h.to(self.computes_in or h.dtype)
        for block in self.blocks:
            h = _recomputed(block, h) if self.recomputes else block(h)
        return self.norm(h)

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        """All logits, float32 or wider: for short sequences and tests; see ``nll``."""
        return _wide(self.head(self.hidden(tokens)))

    def nll(self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B S"]) -> Float[Tensor, "B S"]:
        """Negative log-likelihood, in nat, of the targets of the last S <= T positions; logits are never held whole."""
        hidden = self.hidden(tokens)[:, -targets.shape[1] :].flatten(0, 1)
        chunks = zip(hidden.split(LOGIT_CHUNK), targets.flatten().split(LOGIT_CHUNK), strict=True)
        return torch.cat([_recomputed(self._token_nll, h, t) for h, t in chunks]).view(targets.shape)

    def _token_nll(self, hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
        return cross_entropy(_wide(self.head(hidden)), targets, reduction="none")

    def init_state(self, batch: int, max_len: int) -> list[State]:
        """States of all branches, before the first token."""
        return [mixer.init_state(batch, max_len) for mixer in self.mixers]

    @torch.no_grad()
    def begin(self, tokens: Int[Tensor, "B T"], state: list[State]) -> Float[Tensor, "B V"]:
        """``prefill`` of a state before the first token, as the caller knows."""
        return self._logits(self._advance("begin", tokens, state)[:, -1])

    @torch.no_grad()
    def prefill(self, tokens: Int[Tensor, "B T"], state: list[State]) -> Float[Tensor, "B V"]:
        """Logits after the last of T further tokens; advances ``state`` in place."""
        return self._logits(self._advance("prefill", tokens, state)[:, -1])

    @torch.no_grad()
    def score(
        self, tokens: Int[Tensor, "B T"], targets: Int[Tensor, "B T"], state: list[State]
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        """Negative log-likelihood (nat) of the N targets that are not negative, row after row; whether each is the likeliest.

        Advances ``state`` in place by T tokens; logits are never held whole.
        """
        scored = targets >= 0
        hidden, wanted = self.norm(self._advance("prefill", tokens, state)[scored]), targets[scored]
        parts = [self._judge(*part) for part in zip(hidden.split(LOGIT_CHUNK), wanted.split(LOGIT_CHUNK), strict=True)]
        nll, likeliest = zip(*parts, strict=True)
        return torch.cat(nll), torch.cat(likeliest)

    def _judge(
        self, hidden: Float[Tensor, "N D"], targets: Int[Tensor, " N"]
    ) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
        logits = _wide(self.head(hidden))
        return cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " B"], state: list[State]) -> Float[Tensor, "B V"]:
        """Logits after one further token per row; advances ``state`` in place."""
        return self._logits(self._advance("step", tokens, state))

    def compile_inference(self, backend: str = "inductor") -> "LM":
        """``begin``, ``prefill`` and ``step`` of blocks, and the head, by torch.compile: one code for all blocks and shapes."""
        _limit_recompiling()
        self._through = torch.compile(Block.advance, dynamic=True, backend=backend)
        self._logits = torch.compile(self._logits, dynamic=True, backend=backend)  # type: ignore[method-assign]
        return self

    def _advance(self, how: Inference, tokens: Int[Tensor, "*B"], state: list[State]) -> Float[Tensor, "*B D"]:
        h, parts = self.embedding(tokens), iter(state)
        for block in self.blocks:
            h = self._through(block, how, h, list(islice(parts, len(block))))
        return h

    def _logits(self, h: Float[Tensor, "B D"]) -> Float[Tensor, "B V"]:
        return _wide(self.head(self.norm(h)))

    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        """Cost of the whole model, in ``Mixer.cost``'s terms; the head of a prefill reads only the last token."""
        total = self.head_cost(phase, context)
        width, norm = self.size.width, self.norm_bytes()
        around = sequence_cost(phase, context, matmul=0, other=cost.rms_norm(width) + width, weights=norm)
        for mixer in self.mixers:
            total = total + mixer.cost(phase, context, convention) + around
        return total

    def head_cost(self, phase: Phase, context: int) -> Cost:
        """Final norm and head (the log-likelihood itself is not counted)."""
        vocab, width = self.head.weight.shape
        weights = vocab * width * self.head.weight.element_size() + self.norm_bytes()
        tokens = 1 if phase == "prefill" else context
        return sequence_cost(phase, tokens, matmul=2 * vocab * width, other=cost.rms_norm(width), weights=weights)

    def norm_bytes(self) -> int:
        """Bytes of the weight of one RMSNorm: a branch's or the final one."""
        return self.norm.weight.numel() * self.norm.weight.element_size()


def _plus(h: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """h + y as rows of D, which torch.compile makes part of the product that y is (addmm)."""
    return (h.flatten(0, 1) + y.flatten(0, 1)).view_as(h)


def _limit_recompiling() -> None:
    """More codes of a function than ``RECOMPILE_LIMIT`` are an error, not a silent return to eager; holds for the process."""
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT  # noqa: SLF001
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # noqa: SLF001


def _recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """The function's output; what a backward pass needs of its inside, it makes again."""
    if torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
