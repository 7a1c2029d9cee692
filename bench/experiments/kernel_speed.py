"""Time of one operation, forward, forward and backward, or a decode step, beside other implementations, each checked first.

A shape is a layer of width heads x head_dim; the scans of Mamba work on twice that width (kernels/<op>/problem.py).
"""

import importlib
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from types import ModuleType
from typing import Any, cast

import torch

from bench.build import DTYPES, Prepared
from bench.ceilings import ceiling, ceilings
from bench.config import ConfigError
from bench.lab import Lab
from bench.results import At, Coordinate, Row
from bench.timing import captured, device_sample, kernel_seconds
from kernels.check import Broken, CheckFailed, Runner, Trial, Verdict
from kernels.op import Case, Inputs, MissingImplementation, Op, Pass, Stepping

PASSES = ("fwd", "fwd_bwd", "step")
# Coordinates of steps: rows of the batch at one position or at all; the mean over a cycle, or one step of it.
IN_PHASE: dict[str, Coordinate] = {"phases": "in_phase", "slot": "mean"}
SPREAD: dict[str, Coordinate] = {"phases": "spread", "slot": "mean"}
FIRST: dict[str, Coordinate] = {"phases": "in_phase", "slot": "first"}
COMMIT: dict[str, Coordinate] = {"phases": "in_phase", "slot": "commit"}


@dataclass(frozen=True)
class KernelSpeed:
    """``impls`` of each operation, in ``ops`` where they are given, in every pass at every shape that is of its kind.

    shapes: batch, context, heads and head dim of whole sequences. step_shapes: of steps; the check takes ``context`` of them.
    sampling: keywords of bench.timing.device_sample.

    Raises:
        ConfigError: an operation or a pass is not one of those possible.
    """

    impls: Mapping[str, Sequence[str]]
    shapes: Sequence[Sequence[int]]
    step_shapes: Sequence[Sequence[int]]
    passes: Sequence[str] = PASSES
    ops: Sequence[str] | None = None
    mini_batch: int = 16
    sampling: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key, words, possible in (("ops", self.ops or (), tuple(self.impls)), ("passes", self.passes, PASSES)):
            if wrong := [word for word in words if word not in possible]:
                raise ConfigError(f"experiment.measure.{key}={wrong[0]} is not possible; choose from: {', '.join(possible)}")

    def flops(self, prepared: Prepared) -> float:
        """FLOPs of one call each; what they are checked against takes longer."""
        work = [
            (op, case, mode) for case, modes in self._cases(prepared.run.device.dtype) for mode in modes for op in self._ops
        ]
        return float(sum(len(self.impls[op.name]) * matmul_flops(op, case, mode) for op, case, mode in work))

    def measure(self, lab: Lab) -> Iterator[Row]:
        """Rows of every operation, implementation, pass and shape, the most important first.

        Raises:
            CheckFailed: at the end, where an implementation of ours was wrong, broken or missing; of others it is a row.
        """
        bench, cases = Bench(lab, self.sampling), self._cases(lab.run.device.dtype)
        yield from ceilings(lab, self.sampling)
        for number, (case, modes) in enumerate(cases, 1):
            for op in self._ops:
                trial = Trial(op, case, lab.device, lab.run.seed)
                for mode in modes:
                    for impl in self.impls[op.name]:
                        if op.runs(impl, mode):
                            yield from bench.rows(trial, impl, mode)
            lab.progress(number / len(cases))
        if bench.failed:
            raise CheckFailed("\n".join(bench.failed))

    @property
    def _ops(self) -> list[Op]:
        return [importlib.import_module(f"kernels.{name}").OP for name in self.ops or self.impls]

    def _cases(self, dtype: str) -> list[tuple[Case, list[Pass]]]:
        """Steps, which are quick, after the first shape."""
        whole = [cast(Pass, mode) for mode in self.passes if mode != "step"]
        steps: list[Pass] = ["step"] * ("step" in self.passes)
        cases = [(shape, whole) for shape in self.shapes]
        ordered = [*cases[:1], *((shape, steps) for shape in self.step_shapes), *cases[1:]]
        return [(Case(b, t, h, f, self.mini_batch, DTYPES[dtype]), modes) for (b, t, h, f), modes in ordered if modes]


@dataclass(frozen=True)
class Bench:
    """Checks, times and makes the rows of one implementation on one case; ``failed``: why some have no time."""

    lab: Lab
    sampling: Mapping[str, Any]
    failed: list[str] = field(default_factory=list)

    def rows(self, trial: Trial, impl: str, mode: Pass) -> Iterator[Row]:
        """Error of every tensor, and if they are small enough, times."""
        at, about = self._at(trial, impl, mode), trial.op.impls[impl]
        if self.lab.recorder.has("latency", **at, **(IN_PHASE if mode == "step" else {})):
            return
        self.lab.here = at
        try:
            verdict = trial.check(impl, mode)
        except MissingImplementation as error:
            yield from self._without(at, "missing", str(error), is_failure=about.is_ours)
        except Broken as error:
            traceback.print_exception(error.__cause__)
            yield from self._without(at, "broken", str(error), is_failure=about.is_ours)
        else:
            yield from self._errors(at, verdict)
            if verdict.ok:
                times = self._steps if mode == "step" else self._sequences
                yield from times(trial, trial.op.load(impl), mode, at)
            else:
                yield from self._without(at, "wrong", str(verdict), is_failure=about.is_ours)

    def _without(self, at: At, metric: str, cause: str, is_failure: bool) -> Iterator[Row]:
        what = f"{' '.join(str(value) for value in at.values())}: {cause}"
        print(f"{metric}: {what}", file=sys.stderr, flush=True)
        if is_failure:
            self.failed.append(what)
        yield from self._new(metric, 1.0, "1", at)

    def _errors(self, at: At, verdict: Verdict) -> Iterator[Row]:
        for error in verdict.errors:
            where = {**at, "tensor": error.tensor}
            yield from self._new("relative_error", error.value, "1", where)
            if not math.isnan(error.yardstick):
                yield from self._new("yardstick_error", error.yardstick, "1", where)
        yield from self._new("repeats", float(verdict.repeats), "1", at)
        yield from self._new("first_call", verdict.first_s, "s", at)

    def _sequences(self, trial: Trial, module: ModuleType, mode: Pass, at: At) -> Iterator[Row]:
        call = partial(_forward if mode == "fwd" else _backward, trial.runner, module)
        if self.lab.device.type == "cuda":
            yield from self._new("peak_memory", _peak_bytes(call, self.lab.device), "byte", at)
            if trial.op.impls[str(at["impl"])].is_ours:
                for kernel, seconds in kernel_seconds(call, self.lab.device).items():
                    yield from self._new("kernel_time", seconds, "s", {**at, "kernel": kernel})
        yield from self._latency(trial, mode, at, device_sample(call, self.lab.device, **self.sampling))

    def _steps(self, trial: Trial, module: ModuleType, mode: Pass, at: At) -> Iterator[Row]:
        """Mean over a cycle of steps, rows in phase or spread; and single steps: the first of a cycle, the one that commits."""
        problem, case, device = trial.op.problem, trial.case, self.lab.device
        assert isinstance(problem, Stepping)
        rows = torch.arange(case.batch, device=device, dtype=torch.int32)
        start, token = torch.zeros_like(rows), problem.token(trial.runner.inputs, 0)
        token = {name: tensor.contiguous() for name, tensor in token.items()}
        state = problem.start(module, trial.runner.inputs, case, start)
        step = captured(partial(_step, problem, module, token, state), device)

        def seconds(phases: torch.Tensor, steps: int) -> tuple[float, ...]:
            def call() -> None:
                for _ in range(steps):
                    step()

            taken = device_sample(call, device, prepare=partial(problem.place, state, phases), **self.sampling)
            return tuple(sample / steps for sample in taken)

        cycle, last = case.mini_batch, case.mini_batch - 1
        if problem.is_cyclic:
            for where, phases, steps in ((SPREAD, rows % cycle, cycle), (FIRST, start, 1), (COMMIT, start + last, 1)):
                taken = seconds(phases, steps)
                yield from self._new("latency", _median(taken), "s", {**at, **where}, taken)
        yield from self._latency(trial, mode, {**at, **IN_PHASE}, seconds(start, cycle))

    def _latency(self, trial: Trial, mode: Pass, at: At, seconds: Sequence[float]) -> Iterator[Row]:
        """The time, and which share it makes of what the device could do."""
        median = _median(seconds)
        shares = {
            "copy_share": least_bytes(trial, mode) / median / ceiling(self.lab, "copy_rate"),
            "matmul_share": matmul_flops(trial.op, trial.case, mode) / median / ceiling(self.lab, "matmul_rate"),
        }
        for metric, share in shares.items():
            yield from self._new(metric, share, "1", at)
        yield self._row("latency", median, "s", at, seconds)
        words = " ".join(str(value) for value in at.values())
        print(f"{1e3 * median:9.4f} ms, {', '.join(f'{m} {s:.0%}' for m, s in shares.items())}: {words}", flush=True)

    def _at(self, trial: Trial, impl: str, mode: Pass) -> dict[str, Coordinate]:
        case = trial.case
        return {
            "op": trial.op.name,
            "impl": impl,
            "pass": mode,
            "batch": case.batch,
            "context": case.context,
            "heads": case.heads,
            "head_dim": case.head_dim,
            "mini_batch": case.mini_batch if trial.op.problem.is_cyclic else 0,
            "dtype": self.lab.run.device.dtype,
            "exec": "graph" if mode == "step" and self.lab.device.type == "cuda" else "eager",
            "seed": self.lab.run.seed,
        }

    def _row(self, metric: str, value: float, unit: str, at: At, samples: Sequence[float] = ()) -> Row:
        return Row(metric=metric, value=value, unit=unit, at=at, samples=tuple(samples))

    def _new(self, metric: str, value: float, unit: str, at: At, samples: Sequence[float] = ()) -> Iterator[Row]:
        """The row, where an interrupted attempt has not left it."""
        if not self.lab.recorder.has(metric, **at):
            yield self._row(metric, value, unit, at, samples)


def matmul_flops(op: Op, case: Case, mode: Pass) -> int:
    """FLOPs of matrix products in a pass; backward counts twice the forward pass, recomputation never."""
    counted = replace(case, context=1) if mode == "step" else case
    return (3 if mode == "fwd_bwd" else 1) * op.problem.matmul_flops(counted)


def least_bytes(trial: Trial, mode: Pass) -> float:
    """Each input read once and each output written once; backward: gradients of outputs read, gradients of inputs written."""
    if mode == "step":
        assert isinstance(trial.op.problem, Stepping)
        return trial.op.problem.step_bytes(trial.case)
    tensors = (*trial.runner.inputs.values(), trial.runner.upstream)
    return (2 if mode == "fwd_bwd" else 1) * float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


@torch.no_grad()
def _forward(runner: Runner, module: ModuleType) -> None:
    runner.problem.forward(module, runner.inputs)


def _backward(runner: Runner, module: ModuleType) -> None:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in runner.inputs.items()}
    torch.autograd.grad(runner.problem.forward(module, leaves), list(leaves.values()), runner.upstream)


@torch.no_grad()
def _step(problem: Stepping, module: ModuleType, token: Inputs, state: Any) -> None:
    problem.step(module, token, state)


def _peak_bytes(call: Callable[[], object], device: torch.device) -> float:
    """Largest memory during the call, beyond what was allocated before it."""
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return float(torch.cuda.max_memory_allocated(device) - before)


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).quantile(0.5))
