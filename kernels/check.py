"""Whether an implementation computes what it should, on one case: errors of outputs, gradients and states, and a verdict.

*Oracle*: the definition in float64 on the same, rounded inputs. *Yardstick*: the definition in float32, with only the
operands of matrix products rounded to the inputs' dtype, or, where there is a backward pass, to bfloat16: it does not scale
gradients to the range of float16. Errors are relative in the Frobenius norm. In 16 bits an implementation of ours may have
FACTOR times the yardstick's error, and OUTPUT or OTHER at most; in float32 EXACT. Two runs must agree bit for bit, and what
``torch.empty`` gives is NaN meanwhile, so that a value that was never written is seen.

An implementation runs on the whole case, with gradients from outside for every output. Rows and heads do not know of one
another, so the oracle runs on all rows of a few heads, and these are compared. The gradient of an input that all heads share
(tau, B and C) sums over them: it comes from further backward passes, into which only those few heads send gradients. Of tau it
is a few numbers, each a sum that cancels, of thousands where sequences are long: a single one tells as much of luck as of
rounding, and there are up to DRAWS.

Foreign implementations are held to FOREIGN only, a sign that they compute the same thing; one that computes something else
(``is_variant``) is compared with itself, in float32 on those few heads.
"""

import importlib
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kernels.op import Case, Impl, Inputs, Op, Pass, Problem, Stepping

FACTOR, OUTPUT, OTHER, EXACT, FOREIGN = 1.5, 5e-3, 1e-2, 1e-5, 0.1
DRAWS = 4
# Half a unit in the last place of float16: no error of 16 bits where the yardstick, all in float32, has none.
ROUNDING = 2**-11

_PRODUCTS = (
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.baddbmm.default,
)


class CheckFailed(RuntimeError):
    """A kernel computes something else than its reference."""


class Broken(RuntimeError):
    """An implementation raised an error of its own, the cause of this one, instead of computing."""


class RoundedOperands(TorchDispatchMode):
    """Rounds the operands of float32 matrix products to ``dtype``, in backward too; products and sums stay float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS:
            args = (*args[:-2], *(operand.to(self.dtype).to(operand.dtype) for operand in args[-2:]))
        return func(*args, **(kwargs or {}))


@contextmanager
def poisoned() -> Iterator[None]:
    """Memory that nothing was written to holds NaN."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)  # its other effect; torch.utils.deterministic
    try:
        with warnings.catch_warnings():
            # what is not deterministic in torch is no concern here
            warnings.filterwarnings("ignore", message=".*deterministic")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@dataclass(frozen=True)
class Error:
    """Relative Frobenius error of one tensor, the yardstick's beside it (NaN where there is none), and the most allowed."""

    tensor: str
    value: float
    yardstick: float
    bound: float

    @property
    def ok(self) -> bool:
        """Within the bound."""
        return self.value <= self.bound


@dataclass(frozen=True)
class Verdict:
    """errors: of every tensor. repeats: two runs agreed bit for bit. first_s: seconds of the first one, compiling included."""

    errors: tuple[Error, ...]
    repeats: bool
    must_repeat: bool
    first_s: float

    @property
    def ok(self) -> bool:
        """The implementation may be timed."""
        return all(error.ok for error in self.errors) and (self.repeats or not self.must_repeat)

    def __str__(self) -> str:
        worst = [f"{e.tensor} {e.value:.2e}, allowed {e.bound:.2e}" for e in self.errors if not e.ok]
        return "; ".join(worst + ["two runs differ"] * (self.must_repeat and not self.repeats)) or "correct"


@dataclass(frozen=True)
class Runner:
    """One set of inputs, the gradient of the output from outside, and the heads whose results are kept.

    In the methods ``module`` is an implementation, or None for the definition; results are by name, [.., .., heads, ..] each.
    """

    problem: Problem
    case: Case
    inputs: Inputs
    upstream: Tensor
    heads: Tensor

    def run(self, module: ModuleType | None, mode: Pass, whole: bool = True) -> Inputs:
        """Results of a pass; ``whole``: a forward pass of a problem with a state includes what prefill gives and leaves."""
        if mode == "fwd":
            return self.forward(module, whole)
        return self.backward(module) if mode == "fwd_bwd" else self.steps(module)

    @torch.no_grad()
    def forward(self, module: ModuleType | None, whole: bool) -> Inputs:
        """The output; the output of prefill and the state after it. By definition both outputs are one: it is made once."""
        if not (whole and isinstance(self.problem, Stepping)):
            return self._picked({"output": self._call(module, self.inputs)})
        state = self._start(self.problem, module, torch.zeros_like)
        out = self.problem.prefill(self._module(module), self.inputs, state)
        whole_out = out if module is None else self._call(module, self.inputs)
        return self._picked({"output": whole_out, "output_prefill": out} | _seen(self.problem, state))

    def backward(self, module: ModuleType | None) -> Inputs:
        """The output and the gradient of every input."""
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.inputs.items()}
        out = self._call(module, leaves)
        axes = self.problem.head_axis
        own, shared = [n for n in leaves if n in axes], [n for n in leaves if n not in axes]
        once = list(leaves) if len(self.heads) == out.shape[2] else own  # then the first draw is the gradient from outside
        grads = torch.autograd.grad(out, [leaves[n] for n in once], self.upstream, retain_graph=bool(shared))
        found = dict(zip(once, grads, strict=True))
        if shared:
            draws = [[found[n] for n in shared]] if once != own else []
            further = self._upstreams()[len(draws) :]
            draws += [list(torch.autograd.grad(out, [leaves[n] for n in shared], one, retain_graph=True)) for one in further]
            found |= {n: torch.stack(each) for n, each in zip(shared, zip(*draws, strict=True), strict=True)}
        found |= {n: found[n].index_select(axes[n], self.heads) for n in own}
        return self._picked({"output": out.detach()}) | {f"d_{name}": found[name] for name in leaves}

    @torch.no_grad()
    def steps(self, module: ModuleType | None) -> Inputs:
        """Outputs of as many steps as the case has tokens, rows at different positions; the state after them."""
        problem, size = self.problem, self.case.mini_batch
        assert isinstance(problem, Stepping)
        state = self._start(problem, module, lambda rows: rows % size)
        outs = [problem.step(self._module(module), problem.token(self.inputs, t), state) for t in range(self.case.context)]
        return self._picked({"output": torch.stack(outs, dim=1)} | _seen(problem, state))

    def _call(self, module: ModuleType | None, x: Inputs) -> Tensor:
        out = self.problem.define(x) if module is None else self.problem.forward(module, x)
        if (out.shape, out.dtype) != (self.upstream.shape, self.upstream.dtype):
            wanted = f"{tuple(self.upstream.shape)}, {self.upstream.dtype}"
            raise CheckFailed(f"the output is {tuple(out.shape)}, {out.dtype} and should be {wanted}")
        return out

    def _start(self, problem: Stepping, module: ModuleType | None, phases: Callable[[Tensor], Tensor]) -> Any:
        rows = torch.arange(self.case.batch, device=self.heads.device, dtype=torch.int32)
        return problem.start(self._module(module), self.inputs, self.case, phases(rows))

    def _module(self, module: ModuleType | None) -> ModuleType:
        return importlib.import_module(self.problem.reference) if module is None else module

    def _upstreams(self) -> list[Tensor]:
        """Gradients from outside, of the compared heads alone: the one that there is, moved in time."""
        kept = torch.zeros_like(self.upstream).index_copy(2, self.heads, self.upstream.index_select(2, self.heads))
        draws = min(DRAWS, 1 + self.case.context // 1024)
        return [kept.roll(draw * self.case.context // draws, dims=1) for draw in range(draws)]

    def _picked(self, found: Inputs) -> Inputs:
        return {name: tensor.index_select(2, self.heads) for name, tensor in found.items()}


@dataclass
class Trial:
    """One operation on one case: inputs, drawn once, and what they should give, worked out once."""

    op: Op
    case: Case
    device: torch.device
    seed: int = 0
    known: dict[tuple[str, Pass], Inputs] = field(default_factory=dict)

    @cached_property
    def runner(self) -> Runner:
        """The whole case."""
        inputs = self.op.problem.draw(self.case, torch.Generator(self.device).manual_seed(2 * self.seed))
        like = next(iter(inputs.values()))
        generator = torch.Generator(self.device).manual_seed(2 * self.seed + 1)
        upstream = torch.empty_like(like).normal_(generator=generator)  # laid out as the output will be
        heads = self.op.problem.sample(like.shape[0] * like.shape[1], like.shape[2])
        return Runner(self.op.problem, self.case, inputs, upstream, torch.tensor(heads, device=self.device))

    def check(self, impl: str, mode: Pass) -> Verdict:
        """Runs an implementation and judges it.

        Raises:
            MissingImplementation: it cannot be imported here.
            Broken: it raised an error; its output has another shape or dtype.
        """
        module, about, runner = self.op.load(impl), self.op.impls[impl], self.runner
        try:
            with poisoned():
                start = time.perf_counter()
                found = runner.run(module, mode, about.is_ours)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                first_s = time.perf_counter() - start
                again = runner.run(module, mode, about.is_ours)
        except Exception as error:
            raise Broken(f"{type(error).__name__}: {error}") from error
        truth, yardstick = self._expected(impl, mode)
        errors = tuple(self._error(name, found[name], truth[name], yardstick, about) for name in found)
        repeats = all(_same(found[name], again[name]) for name in found)
        return Verdict(errors, repeats, about.is_ours, first_s)

    def _expected(self, impl: str, mode: Pass) -> tuple[Inputs, Inputs]:
        """The oracle's results and the yardstick's; the latter are empty in float32, and where there is none."""
        if self.op.impls[impl].is_variant:
            itself = self.op.load(impl)
            return self._once(impl, mode, lambda: self._few(torch.float32).run(itself, mode, whole=False)), {}
        truth = self._once("oracle", mode, lambda: self._few(torch.float64).run(None, mode))
        if self.case.dtype.itemsize > 2:
            return truth, {}
        with RoundedOperands(torch.bfloat16 if mode == "fwd_bwd" else self.case.dtype):
            return truth, self._once("yardstick", mode, lambda: self._few(None).run(None, mode))

    def _once(self, what: str, mode: Pass, make: Callable[[], Inputs]) -> Inputs:
        if (what, mode) not in self.known:
            self.known[what, mode] = make()
        return self.known[what, mode]

    def _few(self, dtype: torch.dtype | None) -> Runner:
        """The compared heads alone, with all inputs in ``dtype``, or as they are."""
        whole = self.runner
        inputs, upstream = whole.problem.cut(whole.inputs, whole.heads), whole.upstream.index_select(2, whole.heads)
        if dtype is not None:
            inputs, upstream = {name: tensor.to(dtype) for name, tensor in inputs.items()}, upstream.to(dtype)
        case = self.case if dtype is None else replace(self.case, dtype=dtype)
        return Runner(whole.problem, case, inputs, upstream, torch.arange(len(whole.heads), device=self.device))

    def _error(self, name: str, found: Tensor, truth: Tensor, yardstick: Inputs, about: Impl) -> Error:
        measure = relative_error(yardstick[name], truth) if yardstick else math.nan
        if not about.is_ours:
            bound = FOREIGN
        elif yardstick:
            bound = min(OUTPUT if name.startswith("output") else OTHER, max(FACTOR * measure, ROUNDING))
        else:
            bound = EXACT
        return Error(name, relative_error(found, truth), measure, bound)


def _seen(problem: Stepping, state: Any) -> Inputs:
    """The state's tensors, their heads on axis 2 as the outputs' are."""
    return {f"state_{name}": tensor[:, None] for name, tensor in problem.visible(state).items()}


def relative_error(found: Tensor, truth: Tensor) -> float:
    """|found - truth| / |truth| in the Frobenius norm, in float64; of a truth that is zero, 0 or infinity; inf for NaN."""
    wide = truth.double()
    error, norm = (found.double() - wide).norm().item(), wide.norm().item()
    if not math.isfinite(error):
        return math.inf
    return error / norm if norm else 0.0 if error == 0 else math.inf


def _same(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
