"""The seam of the project: what the language model, the harness and the figures know of a layer.

Letters of shapes, everywhere: B batch, T time, D width, H heads, F head dim, C mini-batch, N state size, E inner width,
V vocabulary, M length of a preallocated cache.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from models.cost import Convention, Cost, Phase


class SizeError(ValueError):
    """A size that makes no model."""


@dataclass(frozen=True)
class Size:
    """Width D, number of layers, heads H and feed-forward width of a model.

    Raises:
        SizeError: the heads do not divide the width, the head dim is odd, or a field is not positive.
    """

    width: int
    layers: int
    heads: int
    ffn: int

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.ffn) < 1:
            raise SizeError(f"every field of a size must be positive: {self}")
        if self.width % self.heads:
            raise SizeError(f"{self.heads} heads do not divide width {self.width}; choose heads that do")

        if self.head_dim % 2:
            raise SizeError(f"head dim {self.width}/{self.heads} is odd, but rotary positions pair dims; choose other heads")

    @property
    def head_dim(self) -> int:
        """F = D / H."""
        return self.width // self.heads


State = Any
"""A preallocated dataclass of tensors, its own for each mixer, updated in place; None for a stateless one."""


class Mixer(nn.Module, ABC):
    """Maps a sequence to a sequence, causally. Three ways to run it, one result.

    A subclass is built as ``Mixer(size, **options)``; ``conf/model`` names it and gives the options.
    united: ``parallel`` weights side by side, of which they are parts; None: each lies where it likes.
    settled: ``derived``; None: it is worked out whenever it is wanted.
    """

    united: Tensor | None
    settled: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("united", None, persistent=False)
        self.register_buffer("settled", None, persistent=False)
        self.register_load_state_dict_post_hook(_settle_anew)  # type: ignore[no-untyped-call]

    @abstractmethod
    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Training: whole sequences from the start; differentiable."""

    @abstractmethod
    def init_state(self, batch: int, max_len: int) -> State:
        """State before the first token of ``batch`` sequences of at most ``max_len`` tokens, on the parameters' device."""

    @abstractmethod
    def prefill(self, x: Float[Tensor, "B T D"], state: State) -> Float[Tensor, "B T D"]:
        """T >= 1 further tokens; advances ``state`` in place. Rows may stand at different positions."""

    def begin(self, x: Float[Tensor, "B T D"], state: State) -> Float[Tensor, "B T D"]:
        """``prefill`` of a state before the first token, as the caller knows: a layer may do it without asking the device."""
        return self.prefill(x, state)

    @abstractmethod
    def step(self, x: Float[Tensor, "B D"], state: State) -> Float[Tensor, "B D"]:
        """One further token per row; advances ``state`` in place."""

    @abstractmethod
    def cost(self, phase: Phase, context: int, convention: Convention) -> Cost:
        """Cost of one sequence of ``context`` tokens (train, prefill), or of one token after ``context`` others (step).

        ``convention`` says whether attention counts the tokens a query may see (causal) or all of them (full).
        """

    def set_progress(self, step: int, warmup_steps: int) -> None:
        """Called before each training step, for a layer with a schedule of its own."""

    def undecayed(self) -> list[nn.Parameter]:
        """Parameters without weight decay."""
        return []

    def kept_wide(self) -> list[nn.Parameter]:
        """Parameters whose operation sees them in float32 where all else is 16-bit; every other one it sees as its input."""
        return []

    def parallel(self) -> list[Tensor]:
        """Weights [O, D] of products of the same input, which a step may have as one."""
        return []

    def derived(self) -> Tensor | None:
        """What a step would work out of parameters alone."""
        return None

    def kept(self) -> Tensor:
        """``derived`` of a mixer that has it: as it was settled, unless gradients are wanted."""
        found = self.derived() if self.settled is None or torch.is_grad_enabled() else self.settled
        assert found is not None
        return found

    def parameter_bytes(self) -> int:
        """Bytes of the parameters."""
        return sum(p.numel() * p.element_size() for p in self.parameters())


@torch.no_grad()
def _settle_anew(mixer: Mixer, _keys: object) -> None:
    """Of weights that were loaded."""
    if mixer.settled is not None:
        mixer.settled = mixer.derived()


class Stateless(Mixer):
    """A mixer that maps every token by itself, whatever the dimensions before its width."""

    def init_state(self, batch: int, max_len: int) -> State:
        return None

    @torch.no_grad()
    def prefill(self, x: Float[Tensor, "B T D"], state: State) -> Float[Tensor, "B T D"]:
        return self(x)

    @torch.no_grad()
    def step(self, x: Float[Tensor, "B D"], state: State) -> Float[Tensor, "B D"]:
        return self(x)


def state_tensors(state: State) -> list[Tensor]:
    """All tensors of a state, however its dataclasses, tuples and lists nest."""
    if isinstance(state, Tensor):
        return [state]
    if is_dataclass(state):
        return [t for f in fields(state) for t in state_tensors(getattr(state, f.name))]
    if isinstance(state, (tuple, list)):
        return [t for part in state for t in state_tensors(part)]
    return []


def take_rows(state: State, rows: Tensor) -> State:
    """A copy of a state that holds these of its rows, [R] int; a row may be taken more than once."""
    if isinstance(state, Tensor):
        return state[rows]
    if is_dataclass(state) and not isinstance(state, type):
        return replace(state, **{f.name: take_rows(getattr(state, f.name), rows) for f in fields(state)})
    if isinstance(state, (tuple, list)):
        return type(state)(take_rows(part, rows) for part in state)
    return state


def state_bytes(state: State) -> int:
    """Bytes of all tensors of a state."""
    return sum(t.numel() * t.element_size() for t in state_tensors(state))


def copy_row(state: State, row: State, at: slice = slice(None)) -> None:
    """Makes the rows ``at`` of a state, in place, the one row of another.

    A cache that is longer than the row's stays as it is: this begins its rows anew, as what was not written is never read.
    """
    for target, source in zip(state_tensors(state), state_tensors(row), strict=True):
        if target.shape[1:] == source.shape[1:]:
            target[at] = source


def positions(state: State) -> list[Tensor]:
    """The tensors of a state that tell how many tokens each row has read, [B] each."""
    return [tensor for tensor in state_tensors(state) if not tensor.is_floating_point()]
