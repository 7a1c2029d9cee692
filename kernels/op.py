"""An operation: its implementations, imported only when asked for, and the problem that all of them solve.

An implementation is a module with functions named by the three phases:
``forward`` (training, from the start of a sequence), ``prefill`` (any length, from any state, in place)
and ``step`` (one token, in place). ``reference`` is the oracle that every other one is tested against (kernels/check.py).
The latter two are either custom operators or closed to torch.compile, which fuses what a layer does around them.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

Pass = Literal["fwd", "fwd_bwd", "step"]
Inputs = dict[str, Tensor]
"""Arguments of ``forward`` by name, in its order, nested ones one by one."""


class MissingImplementation(RuntimeError):
    """An implementation was asked for that does not exist or cannot be imported here."""


@dataclass(frozen=True)
class Case:
    """What an operation is tried on: one layer of width heads x head_dim, B sequences of T tokens, inputs of ``dtype``."""

    batch: int
    context: int
    heads: int
    head_dim: int
    mini_batch: int = 16
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Impl:
    """An implementation: its module, and how to install what it needs.

    is_ours: it is held to our bounds; another's need only compute what it should (kernels/check.py). is_variant: its
    function is not the reference's, so it is compared with itself in float32. has_step: it also runs token by token.
    """

    module: str
    cure: str
    is_ours: bool = True
    is_variant: bool = False
    has_step: bool = True


class Problem(ABC):
    """Inputs, definition and least cost of an operation whose rows (sequences) and heads do not know of one another.

    The first input and the output have the same shape, [B, T, heads, ...]. ``head_axis`` says where the heads lie in each
    input; one that is not there is shared by all heads. is_cyclic: it works in mini-batches.
    """

    is_cyclic: ClassVar[bool] = False
    head_axis: ClassVar[Mapping[str, int]]
    reference: ClassVar[str]

    @abstractmethod
    def draw(self, case: Case, generator: torch.Generator) -> Inputs:
        """Random inputs on the generator's device."""

    @abstractmethod
    def matmul_flops(self, case: Case) -> int:
        """FLOPs of matrix products in a forward pass; a multiply-add is 2."""

    def forward(self, module: ModuleType, x: Inputs) -> Tensor:
        """The output of one implementation."""
        out: Tensor = module.forward(*x.values())
        return out

    def define(self, x: Inputs) -> Tensor:
        """The output by definition, in the precision of ``x``, float32 or wider."""
        return self.forward(importlib.import_module(self.reference), x)

    def sample(self, tokens: int, heads: int) -> list[int]:
        """The heads that stand for all in a comparison: the first and the last, or where tokens are many the last alone."""
        return sorted({0, heads - 1}) if tokens <= 1 << 16 else [heads - 1]

    def cut(self, x: Inputs, heads: Tensor) -> Inputs:
        """The inputs of some heads."""
        return {n: t.index_select(self.head_axis[n], heads) if n in self.head_axis else t for n, t in x.items()}


class Stepping(Problem):
    """A problem with a state, that also runs token by token. ``time_inputs`` are those with a time axis, 1."""

    time_inputs: ClassVar[tuple[str, ...]]

    @abstractmethod
    def start(self, module: ModuleType, x: Inputs, case: Case, phases: Tensor) -> Any:
        """A state whose row b stands at position ``phases[b]`` of a mini-batch and has learned nothing yet."""

    def place(self, state: Any, phases: Tensor) -> None:
        """Moves the rows of a state to other positions, in place, for timing: what lies in their slots is undefined.

        Where every position is like every other, nothing.
        """

    def prefill(self, module: ModuleType, x: Inputs, state: Any) -> Tensor:
        """The output for all tokens of ``x``; advances the state."""
        out: Tensor = module.prefill(*x.values(), state)
        return out

    def step(self, module: ModuleType, x: Inputs, state: Any) -> Tensor:
        """The output for one token, ``x`` without its time axis; advances the state."""
        out: Tensor = module.step(*x.values(), state)
        return out

    @abstractmethod
    def visible(self, state: Any) -> Inputs:
        """What is defined of a state, [B, heads, ...] each."""

    @abstractmethod
    def step_bytes(self, case: Case) -> float:
        """Least bytes that a step moves, mean over a cycle: state and the token's inputs and output."""

    def token(self, x: Inputs, t: int) -> Inputs:
        """The inputs of token ``t``."""
        return {name: tensor[:, t] if name in self.time_inputs else tensor for name, tensor in x.items()}


@dataclass(frozen=True)
class Op:
    """A named operation."""

    name: str
    impls: Mapping[str, Impl]
    problem: Problem

    def runs(self, impl: str, mode: Pass) -> bool:
        """Whether an implementation has a pass at all."""
        return mode != "step" or (isinstance(self.problem, Stepping) and self.impls[impl].has_step)

    def load(self, impl: str) -> ModuleType:
        """The module of one implementation.

        Raises:
            MissingImplementation: unknown name (lists the known ones), or its import fails (names the cure).
        """
        if impl not in self.impls:
            raise MissingImplementation(f"{self.name} has no implementation '{impl}'; choose from: {', '.join(self.impls)}")
        found = self.impls[impl]
        try:
            return importlib.import_module(found.module)
        except ImportError as error:
            raise MissingImplementation(f"{self.name}: '{impl}' cannot be imported ({error}); {found.cure}") from error


def all_ops() -> list[Op]:
    """Every operation: OP of each package beside this file that has one, by name."""
    packages = sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))
    ops = (vars(importlib.import_module(f"kernels.{name}")).get("OP") for name in packages)
    return [op for op in ops if isinstance(op, Op)]


PURE_TORCH = "it needs only torch: run `make setup`"
WITH_GPU = "it needs Linux, a CUDA device and more packages: run `make setup EXTRAS=gpu`"
